"""What people do around a training step: it must not disturb masks."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.checkpoint import checkpoint

import openwork as ow
from tests.helpers import conv_net, image_batches, mean

pytestmark = pytest.mark.filterwarnings("ignore:.* keeps no weight")  # so small are these layers

TECHNIQUE = ow.GradualMagnitude(ow.Cubic(0.8, begin=1, end=5, every=1))


RANDOM = [ow.VariationalDropout(ow.Constant(1e-2), log_sigma2=-4.0), ow.L0(ow.Constant(1e-2), dropout=0.9165)]


def kind_of(technique) -> str:
    return type(technique).__name__


RANDOM_VARIABLES = pytest.mark.parametrize("technique", RANDOM, ids=kind_of)


def zeros(model: nn.Module) -> int:
    return sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1)


EXACT = (72 - 14) + (640 - 128) + (50 - 10)


def started(learning_rate: float = 1e-2):
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, TECHNIQUE)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    return model, sparsifier.attach(optimizer), optimizer


def test_gradient_accumulation_counts_steps_not_backwards():
    model, sparsifier, optimizer = started()
    for number, (x, y) in enumerate(itertools.islice(image_batches(), 18), 1):
        F.cross_entropy(model(x), y).backward()
        if number % 3 == 0:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    assert (sparsifier.steps, zeros(model)) == (6, EXACT)


def test_clipping_sees_the_sparse_gradient():
    model, sparsifier, optimizer = started()
    for x, y in itertools.islice(image_batches(), 6):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    masks = sparsifier.state_dict()["masks"]
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    squares = [(p.grad * masks.get(name, 1.0)).square().sum() for name, p in model.named_parameters()]
    torch.testing.assert_close(norm, torch.stack(squares).sum().sqrt())


@pytest.mark.parametrize("by_hand", [False, True], ids=["backward", "by hand"])
def test_a_gradient_that_takes_the_place_of_a_dropped_one_is_masked_too(by_hand):
    # Of a batch that is left out, as for its loss. The next gradient may get the id and the version of the one before.
    torch.manual_seed(0)
    model, x = nn.Linear(6, 6, bias=False), torch.randn(4, 6)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5)))
    mask, dense = sparsifier.masks()["weight"], 0
    for _ in range(100):
        model(x).square().mean().backward()
        model.zero_grad()
        if by_hand:
            model.weight.grad = torch.autograd.grad(model(x).square().mean(), model.weight)[0].mul_(2)
            sparsifier.mask_gradients()
        else:
            (model(x) + model(x * 2) + model(x * 3)).square().mean().backward()  # a sum, to which autograd has written
        dense += int(model.weight.grad[~mask].count_nonzero())
        model.zero_grad()
    assert dense == 0


def test_an_average_of_the_weights_is_as_sparse_once_the_masks_stand():
    model, _, optimizer = started()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for number, (x, y) in enumerate(itertools.islice(image_batches(), 12)):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if number < 6:
            average.module.load_state_dict(model.state_dict())
        else:
            average.update_parameters(model)
    assert zeros(average.module) == zeros(model) == EXACT


def test_skipped_steps_of_a_gradient_scaler_are_not_counted():
    model, sparsifier, optimizer = started()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for number, (x, y) in enumerate(itertools.islice(image_batches(), 9)):
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss * float("inf") if number in (2, 5) else loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert (sparsifier.steps, zeros(model)) == (7, EXACT)
    assert all(p.isfinite().all() for p in model.parameters())


def test_parameter_groups_and_frozen_layers():
    torch.manual_seed(0)
    model = conv_net()
    model[0].requires_grad_(False)
    frozen = model[0].weight.clone()
    sparsifier = ow.sparsify(model, TECHNIQUE, select=ow.excluding("0.*"))
    groups = [{"params": [model[3].weight], "lr": 1e-1}, {"params": [*model[5].parameters(), model[3].bias]}]
    optimizer = torch.optim.SGD(groups, lr=1e-2, momentum=0.9)
    sparsifier.attach(optimizer)
    for x, y in itertools.islice(image_batches(), 6):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert zeros(model) == EXACT - (72 - 14)
    assert torch.equal(model[0].weight, frozen)


def test_activation_checkpointing():
    model, _, optimizer = started()
    for x, y in itertools.islice(image_batches(), 6):
        F.cross_entropy(checkpoint(model, x, use_reentrant=False), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert zeros(model) == EXACT


@pytest.mark.parametrize("technique", [TECHNIQUE, ow.RandomPruning(ow.OneShot(0.5)), *RANDOM], ids=kind_of)
def test_a_selected_layer_may_be_frozen(technique):
    model = conv_net()
    model[0].requires_grad_(False)
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    sparsifier.attach(optimizer)
    for x, y in itertools.islice(image_batches(), 6):
        (F.cross_entropy(model(x), y) + sparsifier.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
    layers = sparsifier.layer_sparsity()
    assert layers["0.weight"] == pytest.approx(layers["3.weight"], abs=0.02) or technique in RANDOM
    sparsifier.finalize()


@RANDOM_VARIABLES
def test_an_average_of_random_variables_evaluates_with_zeros(technique):
    torch.manual_seed(0)
    model = nn.Sequential(conv_net(), nn.BatchNorm1d(5))
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    average, total = AveragedModel(model), torch.zeros(5, 10)
    for x, y in itertools.islice(image_batches(), 4):
        (F.cross_entropy(model(x), y) + sparsifier.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        total += mean(model[0][5]).detach()
    update_bn([x for x, _ in itertools.islice(image_batches(), 4)], average)
    layer = average.module[0][5]
    torch.testing.assert_close(mean(layer), total / 4)  # the means are averaged, and so is what else is learned
    effective = layer.reparam.weight.effective(mean(layer))
    assert 0 < int((effective == 0).sum()) < 50
    x, _ = next(image_batches())
    assert torch.equal(average.eval()(x), average(x))
    assert average.module[1].num_batches_tracked == 4


def test_clipping_by_value_and_schedulers_leave_the_zeros():
    model, sparsifier, optimizer = started()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for x, y in itertools.islice(image_batches(), 6):
        optimizer.zero_grad(set_to_none=False)
        F.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_value_(model.parameters(), 1e-3)
        optimizer.step()
        scheduler.step()
    assert (sparsifier.steps, zeros(model)) == (6, EXACT)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


@RANDOM_VARIABLES
def test_checkpointed_noise_is_drawn_once(technique):
    def gradients(recompute: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = conv_net()
        ow.sparsify(model, technique)
        x, y = next(image_batches())
        output = checkpoint(model, x, use_reentrant=False) if recompute else model(x)
        F.cross_entropy(output, y).backward()
        return [p.grad for p in model.parameters()]

    for one, other in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(one, other)
