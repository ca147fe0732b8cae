"""What sparsifier and report say is what the model computes with, whatever other code does to its weights."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import openwork as ow
from tests.helpers import Tied, raises

WRITTEN = "weights that other code wrote under the masks after the last step"
HIDDEN = ("frozen", "trained", "lost")


def pruned_at_5(model, *, hidden="frozen", select=ow.weight_matrices, optimizer=torch.optim.AdamW):
    """Nine tenths of the weights go at step 5."""
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9, at=5), hidden=hidden), select=select)
    made = optimizer(model.parameters(), lr=0.01)
    return sparsifier.attach(made), made


def steps(model, optimizer, count, features=20):
    for _ in range(count):
        model(torch.randn(8, features)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def zeros(model):
    return float((model.weight == 0).double().mean())


@pytest.mark.parametrize("hidden", HIDDEN)
def test_after_an_older_checkpoint_the_zeros_that_are_there_count(hidden):
    model = nn.Linear(20, 64)
    sparsifier, optimizer = pruned_at_5(model, hidden=hidden)
    older = copy.deepcopy(model.state_dict())
    steps(model, optimizer, 6)
    model.load_state_dict(older)
    assert sparsifier.sparsity() == ow.report(sparsifier).sparsity == ow.report(model).sparsity == 0
    assert sparsifier.expected_nonzero() == {"weight": 1280}
    steps(model, optimizer, 1)
    assert sparsifier.sparsity() == ow.report(sparsifier).sparsity == zeros(model) == 0.9


def test_finalize_says_that_it_masks_an_older_checkpoint():
    model = nn.Linear(20, 64)
    sparsifier, optimizer = pruned_at_5(model)
    older = copy.deepcopy(model.state_dict())
    steps(model, optimizer, 6)
    model.load_state_dict(older)
    evaluated = sparsifier.finalized_copy()
    assert (zeros(evaluated), zeros(model)) == (0.9, 0)  # the copy leaves the model as it is
    with pytest.warns(UserWarning, match=f"finalize zeroes 1152 {WRITTEN}, 1152 of them in weight"):
        sparsifier.finalize()
    assert torch.equal(model.weight, evaluated.weight)


def test_averaged_weights_are_counted_as_they_are():
    model = nn.Linear(20, 64)
    sparsifier, optimizer = pruned_at_5(model)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(8):
        steps(model, optimizer, 1)
        averaged.update_parameters(model)
    model.load_state_dict(averaged.module.state_dict())
    assert sparsifier.sparsity() == ow.report(sparsifier).sparsity == zeros(averaged.module) < 0.9
    with pytest.warns(UserWarning, match=WRITTEN):
        sparsifier.finalize()
    assert zeros(model) == 0.9


@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_write_through_data_is_counted_and_finalized(hidden):
    model = nn.Linear(20, 64)
    sparsifier, optimizer = pruned_at_5(model, hidden=hidden)
    steps(model, optimizer, 6)
    model.weight.data.fill_(1.0)
    assert sparsifier.sparsity() == ow.report(sparsifier).sparsity == 0
    with pytest.warns(UserWarning, match=f"1152 {WRITTEN}"):
        sparsifier.finalize()
    assert zeros(model) == 0.9


def test_a_write_through_data_is_masked_within_16_steps():
    model = nn.Linear(20, 64)
    sparsifier, optimizer = pruned_at_5(model)
    steps(model, optimizer, 6)
    model.weight.data.fill_(1.0)
    steps(model, optimizer, 10)
    assert sparsifier.sparsity() == zeros(model) == 0.9


def test_zeros_that_were_there_count():
    model = nn.Linear(20, 64)
    nn.init.zeros_(model.weight[:32].data)
    sparsifier, optimizer = pruned_at_5(model)
    assert sparsifier.sparsity() == ow.report(sparsifier).sparsity == 0.5
    steps(model, optimizer, 6)
    assert sparsifier.sparsity() == zeros(model) == 0.9


@pytest.mark.parametrize("before", ["attach", "step"])
def test_weights_that_are_tied_later_are_refused(before):
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if before == "step":
        sparsifier.attach(optimizer)
    model[1].weight = model[0].weight
    with raises(ValueError, "1.weight", "tie" if before == "attach" else "make the optimizer anew"):
        sparsifier.attach(optimizer) if before == "attach" else steps(model, optimizer, 1)
    with raises(ValueError, "0.weight and 1.weight were two tensors in sparsify and are one now", "before sparsify"):
        sparsifier.finalize()


def test_tied_weights_that_are_untied_later_are_refused():
    model = Tied()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    tied = next(weight for weight in sparsifier.weights if len(weight.sites) > 1)
    site = tied.sites[1]
    setattr(site.module, site.leaf, nn.Parameter(site.module.get_parameter(site.leaf).detach().clone()))
    with raises(ValueError, f"{tied.name} and {site.name} were one tensor in sparsify and are two now", "tie them"):
        sparsifier.attach(torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_head_tied_to_a_masked_embedding_has_its_zeros():
    model = nn.Sequential(nn.Embedding(10, 20), nn.Linear(20, 10, bias=False))
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9)), select=ow.excluding("1.*"))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters())
    sparsifier.attach(optimizer)
    model(torch.arange(10)).pow(2).mean().backward()
    assert (model[1].weight.grad != 0).sum() <= 20  # what clipping sees
    optimizer.step()
    assert zeros(model[1]) == sparsifier.sparsity() == 0.9


def test_a_weight_replaced_before_attach_is_followed():
    model = nn.Linear(20, 64)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    model.weight = nn.Parameter(torch.randn(64, 20))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    model(torch.randn(8, 20)).pow(2).mean().backward()
    assert (model.weight.grad != 0).sum() <= 128
    with pytest.warns(UserWarning, match="1152 weights, weight among them, were written after sparsify"):
        optimizer.step()
    assert zeros(model) == sparsifier.sparsity() == 0.9


@pytest.mark.parametrize("technique", [ow.GradualMagnitude(ow.OneShot(0.9)), ow.L0(ow.Constant(1e-3))], ids=repr)
def test_a_weight_replaced_after_attach_is_refused_by_name(technique):
    model = nn.Linear(20, 64)
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    with raises(ValueError, "weight is another tensor than attach saw, and SGD", "copy_(), or call detach()"):
        optimizer.step()
    assert sparsifier.steps == 0
    sparsifier.detach()
    again = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(again)
    steps(model, again, 2)
    assert sparsifier.steps == 2


@pytest.mark.parametrize("hidden", HIDDEN)
def test_a_weight_unfrozen_later_is_masked_with_its_gradient(hidden):
    model = nn.Sequential(nn.Linear(20, 64), nn.Linear(64, 20))
    model[0].requires_grad_(False)
    sparsifier, optimizer = pruned_at_5(model, hidden=hidden)
    steps(model, optimizer, 6)
    model[0].requires_grad_(True)
    model(torch.randn(8, 20)).pow(2).mean().backward()
    assert (model[0].weight.grad != 0).sum() <= 128
    optimizer.step()
    assert zeros(model[0]) == sparsifier.layer_sparsity()["0.weight"] == 0.9


def test_an_unfrozen_weight_that_no_attached_optimizer_moves_is_refused():
    model = nn.Sequential(nn.Linear(20, 64), nn.Linear(64, 20))
    model[0].requires_grad_(False)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    steps(model, optimizer, 1)
    model[0].requires_grad_(True)
    with raises(ValueError, "does not own 0.weight"):
        optimizer.step()
    optimizer.add_param_group({"params": model[0].parameters()})
    steps(model, optimizer, 1)
    assert zeros(model[0]) == 0.9


def test_an_unfrozen_weight_belongs_to_the_optimizer_that_it_was_added_to():
    model = nn.Sequential(nn.Linear(20, 64), nn.Linear(64, 20))
    model[0].requires_grad_(False)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    first, last = torch.optim.SGD([model[1].bias], lr=0.1), torch.optim.SGD([model[1].weight], lr=0.1, momentum=0.9)
    sparsifier.attach(first, last)
    model[0].requires_grad_(True)
    first.add_param_group({"params": model[0].parameters()})
    for _ in range(3):
        model(torch.randn(8, 20)).pow(2).mean().backward()
        first.step()
        assert zeros(model[0]) == 0.9
        last.step()
    assert sparsifier.steps == 3


def test_pruned_says_what_is_in_the_model():
    model = nn.Linear(20, 64)
    nn.init.zeros_(model.weight.data[:60])
    pruned = ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.5)), lambda model: math.pi)
    assert pruned.sparsity == zeros(model) == 60 / 64


@pytest.mark.filterwarnings("ignore:.*keeps no weight")
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize(
    "technique",
    [
        ow.GradualMagnitude(ow.OneShot(0.9), hidden="frozen"),
        ow.GradualMagnitude(ow.OneShot(0.9), hidden="trained"),
        ow.RandomPruning(ow.OneShot(0.5)),
        ow.GroupL0(coefficient=ow.Constant(1.0)),
    ],
)
def test_finalized_zeros_have_no_sign(technique, in_place):
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    for _ in range(2):
        (model(torch.randn(8, 64)).pow(2).mean() + sparsifier.penalty()).backward()
        optimizer.step()
    plain = sparsifier.finalize() if in_place else sparsifier.finalized_copy()
    zeros = plain.weight[plain.weight == 0]
    assert len(zeros) > 1000
    assert not zeros.signbit().any()
