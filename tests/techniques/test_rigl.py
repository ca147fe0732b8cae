"""RigL: what its update does to masks, weights and optimizer state, by hand and as identities."""

import itertools
import math

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.study.models.resnet import ResNet
from tests.helpers import conv_net, image_batches, train_step

SCHEDULE = ow.Constant(0.75, every=2, stop=10)


class Watched(torch.optim.Adam):
    """Notes weights and moments as the optimizer leaves them, before masks change."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        self.left = {p: (p.clone(), p.grad.clone()) for group in self.param_groups for p in group["params"]}
        return loss


def started(technique, seed=0):
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, technique, seed=seed)
    optimizer = Watched(model.parameters(), lr=0.01)
    return model, sparsifier.attach(optimizer), optimizer


def layer_of(*weights, technique, **options):
    layer = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    sparsifier = ow.sparsify(layer, technique, **options)
    return layer, sparsifier


def test_rigl_nnz_of_each_layer_never_changes():
    model, sparsifier, optimizer = started(ow.RigL(SCHEDULE, allocation=ow.ERK()))
    first = sparsifier.masks()
    counts = {name: int(mask.sum()) for name, mask in first.items()}
    assert sum(counts.values()) == 190  # a quarter of 762
    changed = 0
    for batch in itertools.islice(image_batches(), 12):
        before = sparsifier.masks()
        train_step(model, sparsifier, optimizer, batch)
        masks = sparsifier.masks()
        assert {name: int(mask.sum()) for name, mask in masks.items()} == counts
        differ = any(not torch.equal(mask, before[name]) for name, mask in masks.items())
        assert not differ or SCHEDULE.due(sparsifier.steps)
        changed += differ
    assert changed == 4  # the update at step 10, the last, exchanges nothing


def test_rigl_new_zero_weights_and_slots_and_the_others_stay_bit_by_bit():
    model, sparsifier, optimizer = started(ow.RigL(SCHEDULE))
    grown = 0
    for batch in itertools.islice(image_batches(), 8):
        before = sparsifier.masks()
        train_step(model, sparsifier, optimizer, batch)
        for weight in sparsifier.weights:
            now, parameter = sparsifier.masks()[weight.name], weight.parameter.detach()
            new, kept = now & ~before[weight.name], now & before[weight.name]
            grown += int(new.sum())
            slots = [optimizer.state[weight.parameter][key] for key in ("exp_avg", "exp_avg_sq")]
            assert all((tensor[new] == 0).all() for tensor in (parameter, *slots))
            assert torch.equal(parameter[kept], optimizer.left[weight.parameter][0][kept])
            assert (slots[1][kept] > 0).any()
    assert grown > 50


def test_rigl_drops_the_smallest_and_grows_where_the_gradient_is_largest_among_all_that_are_not_kept():
    technique = ow.RigL(ow.Constant(0.5, every=1, stop=1000), fraction=0.6)  # 0.6 * 4 = 2.4, truncated
    layer, sparsifier = layer_of(*[1.0] * 8, technique=technique)
    mask = sparsifier.masks()["weight"][0]
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    sparsifier.attach(optimizer)
    kept, masked = mask.nonzero().flatten(), (~mask).nonzero().flatten()
    with torch.no_grad():
        layer.weight[0, kept] = torch.tensor([1.0, -2.0, 3.0, -4.0])  # 1 and -2 make room
    gradient = torch.zeros(1, 8)
    gradient[0, kept] = torch.tensor([-9.0, 0.5, 99.0, 0.0])  # 1 comes back at once
    gradient[0, masked] = torch.tensor([0.0, 1.0, -3.0, 2.0])
    layer.weight.grad = gradient
    optimizer.step()
    grown = masked[2]
    assert sparsifier.masks()["weight"][0].nonzero().flatten().tolist() == sorted([kept[0], *kept[2:], grown])
    assert layer.weight[0, kept].tolist() == [1.0, 0.0, 3.0, -4.0]  # and keeps its value
    assert layer.weight[0, grown] == 0


def test_rigl_cosine_begins_at_alpha_and_ends_at_zero():
    technique = ow.RigL(ow.Constant(0.9, every=100, stop=75_050), fraction=0.3)
    assert technique.schedule.last == 75_000
    assert technique.exchange(0) == pytest.approx(0.3, abs=1e-12)
    assert technique.exchange(37_500) == pytest.approx(0.15, abs=1e-12)
    assert technique.exchange(25_000) == pytest.approx(0.15 * (1 + math.cos(math.pi / 3)), abs=1e-12)
    assert technique.exchange(75_000) == technique.exchange(80_000) == pytest.approx(0.0, abs=1e-12)


def test_rigl_with_alpha_zero_equals_static_masks_also_where_kept_weights_are_zero():
    technique = ow.RigL(ow.Constant(0.5, every=1, stop=1000), fraction=0.0)
    layer, sparsifier = layer_of(*[1.0] * 8, technique=technique)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    first = sparsifier.masks()["weight"]
    with torch.no_grad():
        layer.weight.zero_()  # kept ones tie with masked ones
    for _ in range(3):
        layer.weight.grad = torch.zeros(1, 8)
        optimizer.step()
        assert torch.equal(sparsifier.masks()["weight"], first)


def test_rigl_growing_alone_leaves_the_loss_as_it_is():
    model, sparsifier, optimizer = started(ow.RigL(ow.Constant(0.5, every=1, stop=1000), fraction=1.0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # what is dropped is zero as well
        model[0].bias.fill_(0.5)
    optimizer.param_groups[0]["lr"] = 0.0
    x, y = next(image_batches())
    before, masks = model(x), sparsifier.masks()
    train_step(model, sparsifier, optimizer, (x, y))
    assert torch.equal(model(x), before)
    assert any(not torch.equal(mask, masks[name]) for name, mask in sparsifier.masks().items())


def test_rigl_masks_depend_on_the_seed_alone():
    def final(seed):
        model, sparsifier, optimizer = started(ow.RigL(SCHEDULE), seed)
        for batch in itertools.islice(image_batches(), 6):
            train_step(model, sparsifier, optimizer, batch)
        return torch.cat([mask.flatten() for mask in sparsifier.masks().values()])

    assert torch.equal(final(1), final(1))
    assert not torch.equal(final(1), final(2))


def test_rigl_needs_a_last_update_and_a_fraction():
    with pytest.raises(ValueError, match=r"RigL drops fewer .* has none; give it one, such as Constant"):
        ow.RigL(ow.Constant(0.9, every=100))
    with pytest.raises(ValueError, match=r"RigL drops fewer .* has none; give it one, such as Constant"):
        ow.RigL(ow.Constant(0.9))
    for fraction in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=rf"fraction must be in \[0, 1\], got {fraction}"):
            ow.RigL(SCHEDULE, fraction=fraction)


def resnet50_macs():
    """Each weight of ResNet-50, and its multiplications with an image of 224 x 224; nothing is computed."""
    weights, macs = {}, {}

    def count(name):
        def hook(layer, args, output):
            weights[name] = layer.weight
            macs[name] = layer.weight.numel() * output.numel() // layer.weight.shape[0]

        return hook

    with torch.device("meta"):
        model = ResNet(50)
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count(name))
        model(torch.empty(1, 3, 224, 224))
    return weights, macs


# The README of google-research/rigl prints 0.42x, 0.24x, 0.12x, 0.09x, 0.05x, and uniform 0.23x, 0.13x, 0.08x, 0.07x
@pytest.mark.parametrize(
    ("sparsity", "erk", "uniform", "densities"),
    [
        (0.80, 0.414, 0.223, (0.857, 0.0435, 0.148)),
        (0.90, 0.242, 0.126, (0.420, 0.0213, 0.0726)),
        (0.95, 0.122, 0.077, (0.210, 0.0106, 0.0363)),
        (0.965, 0.085, 0.063, (0.147, 0.0074, 0.0254)),
        (0.98, 0.049, 0.048, (0.084, 0.0043, 0.0145)),
        (0.99, 0.024, 0.039, (0.042, 0.0021, 0.0073)),
    ],
)
def test_erk_rn50_has_the_multiplications_of_the_reference(sparsity, erk, uniform, densities):
    layers, macs = resnet50_macs()
    assert sum(score.numel() for score in layers.values()) == 25_502_912
    assert sum(macs.values()) == 4_089_184_256

    def of(allocation):
        keep = allocation(layers, sparsity, sparsity)
        density = {name: count / layers[name].numel() for name, count in keep.items()}
        return density, sum(density[name] * macs[name] for name in macs) / sum(macs.values())

    density, ratio = of(ow.ERK())
    assert ratio == pytest.approx(erk, abs=1e-3)
    first, *_, last = layers
    wide = [name for name in layers if layers[name].shape == (512, 512, 3, 3)][-1]
    assert [density[name] for name in (first, wide, last)] == pytest.approx(densities, abs=1e-3)
    assert of(ow.PerLayer({first: 0.0}))[1] == pytest.approx(uniform, abs=1e-3)
