"""STR: the soft threshold, its gradients, the dense phase in which its threshold is exactly 0, and a search for s."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from tests.helpers import raises


def layer_of(s, weights, dtype=torch.float32):
    layer = nn.Linear(len(weights), 1, bias=False, dtype=dtype)
    layer.weight = nn.Parameter(torch.tensor([weights], dtype=dtype))
    return layer, ow.sparsify(layer, ow.STR(s))


def learned(layer):
    return dict(layer.named_parameters())["reparam.weight.s"]


def test_str_prox_is_the_soft_threshold():
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0)).tolist()
    layer, sparsifier = layer_of(-1.5, weights)
    threshold = float(torch.sigmoid(torch.tensor(-1.5)))
    expected = F.softshrink(torch.tensor([weights]), threshold)  # prox of threshold * |.|
    torch.testing.assert_close(layer.eval().weight, expected, rtol=0, atol=1e-7)
    assert torch.equal(layer.train().weight.detach(), layer.eval().weight.detach())
    zeros = sum(abs(weight) <= threshold for weight in weights)
    assert int((layer.weight == 0).sum()) == zeros == 1000 - sparsifier.expected_nonzero()["weight"]


def test_str_prox_has_the_gradients_of_finite_differences():
    layer, _ = layer_of(-1.0, [1.0, -0.5, 0.1, -0.2, 0.4], torch.float64)
    mean, s = next(p for name, p in layer.named_parameters() if "reparam" not in name), learned(layer)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]], dtype=torch.float64)

    def loss():
        return layer(x).square().sum()

    loss().backward()
    assert (mean.grad != 0).tolist() == [[True, True, False, False, True]]  # sigmoid(-1) = 0.27
    for parameter in (mean, s):
        for place in range(parameter.numel()):
            with torch.no_grad():
                flat = parameter.view(-1)
                flat[place] += 1e-6
                above = loss()
                flat[place] -= 2e-6
                below = loss()
                flat[place] += 1e-6
            assert float(parameter.grad.view(-1)[place]) == pytest.approx(float(above - below) / 2e-6, abs=1e-6)


def test_str_loss_does_not_change_when_the_threshold_becomes_part_of_the_weights():
    layer, sparsifier = layer_of(-1.0, [1.0, -0.5, 0.1, -0.2, 0.4])
    before = layer(torch.ones(1, 5))
    plain = sparsifier.finalize()
    assert torch.equal(plain(torch.ones(1, 5)), before)
    assert list(plain.state_dict()) == ["weight"]


def trained(technique, *, decay=0.1, steps=150, seen=None):
    """The model after training on a small regression by SGD; s shrinks by 1 - 0.5 * decay a step while it is far."""
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    y = x @ (torch.randn(16, 8) * (torch.rand(16, 8) < 0.3))
    model = nn.Linear(16, 8)
    sparsifier = ow.sparsify(model, technique) if technique else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=decay)
    if sparsifier:
        sparsifier.attach(optimizer)
    for _ in range(steps):
        F.mse_loss(model(x), y).backward()
        if seen is not None:
            seen.append((learned(model).item(), learned(model).grad.item(), sparsifier.sparsity()))
        optimizer.step()
        optimizer.zero_grad()
    return model, sparsifier


def test_str_underflow_keeps_training_dense_to_the_bit_until_weight_decay_has_brought_s_near():
    seen = []
    trained(ow.STR(-3200.0), steps=90, seen=seen)
    dense = next(step for step, (s, _, _) in enumerate(seen) if s > -104)
    assert dense == 67  # 3200 * 0.95^67 = 103.0
    for step, (s, gradient, sparsity) in enumerate(seen[:dense]):
        assert s == pytest.approx(-3200 * 0.95**step, rel=1e-5)
        assert gradient == sparsity == 0
    _, sparsifier = trained(ow.STR(-3200.0), steps=dense)
    plain, _ = trained(None, steps=dense)
    finalized = sparsifier.finalize()
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in finalized.state_dict().items())


def test_str_underflow_without_weight_decay_would_never_end_and_is_refused():
    with raises(ValueError, "STR(s=-3200.0) is moved by weight decay alone", "SGD has none for reparam.weight.s; pass"):
        trained(ow.STR(-3200.0), decay=0.0)
    model, _ = trained(ow.STR(-5.0), decay=0.0, steps=3)  # there the loss's gradient moves it
    assert learned(model).item() != -5


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam])
def test_str_underflow_wants_weight_decay_for_every_threshold(make):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    sparsifier = ow.sparsify(model, ow.STR(-200.0))
    with raises(ValueError, f"{make.__name__} has none for 0.reparam.weight.s"):
        sparsifier.attach(make(model.parameters(), lr=0.1, weight_decay=0.0))
    thresholds = [p for name, p in model.named_parameters() if "reparam.weight.s" in name]
    others = [p for name, p in model.named_parameters() if "reparam" not in name]
    with raises(ValueError, f"{make.__name__} has none for 1.reparam.weight.s"):
        sparsifier.attach(
            make(
                [{"params": [*others, thresholds[0]]}, {"params": thresholds[1:], "weight_decay": 0.0}],
                lr=0.1,
                weight_decay=0.1,
            )
        )
    sparsifier.attach(make(sparsifier.parameter_groups(1e-4), lr=0.1))


def test_str_underflow_does_not_keep_the_search_for_a_target_from_converging():
    trials = []

    def reached(technique):
        trials.append(technique.s)
        return trained(technique)[1].sparsity()

    technique = ow.STR.reaching(0.2, reached, within=0.02)
    assert trained(technique)[1].sparsity() == pytest.approx(0.2, abs=0.02)
    assert len(trials) <= 10
    assert technique.s == trials[-1] < -100  # so the training began densely


def test_str_searches_that_cannot_end_say_so():
    with raises(ValueError, "no s in [-12800, -5] came within 0.005 of the sparsity 0.9 in 3 trainings", "reached 0.5"):
        ow.STR.reaching(0.9, lambda technique: 0.5, trainings=3)
    with raises(ValueError, "low < high < 0, got low=-5, high=1"):
        ow.STR.reaching(0.9, lambda technique: 0.5, low=-5, high=1)


def test_str_thresholds_decay_with_the_weights_in_the_sparsifier_s_groups():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    (group,) = ow.sparsify(model, ow.STR()).parameter_groups(1e-4)
    assert len(group["params"]) == 6
    assert group["weight_decay"] == 1e-4


def test_str_has_one_threshold_for_a_tied_weight_and_one_for_each_other():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False), nn.Linear(6, 2))
    model[1].weight = model[0].weight
    twin = copy.deepcopy(model)
    sparsifier = ow.sparsify(model, ow.STR(-2.0))
    assert list(sparsifier.mechanism.parameters()) == ["0.reparam.weight.s", "2.reparam.weight.s"]
    assert sparsifier.finalize()[1].weight is model[0].weight
    assert int((model[0].weight == 0).sum()) == int((twin[0].weight.abs() <= torch.sigmoid(torch.tensor(-2.0))).sum())
