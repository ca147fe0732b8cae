"""ADMM: mask and weights are drawn to each other."""

import copy

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.least_squares import refit
from tests.techniques.one_shot import EVERY_PATTERN, HALF, Conv1D, assert_pattern, error, example, solved, unit


def distinct(out=6, inputs=8):
    """Magnitudes of which each is 1.3 times the one before, in any order."""
    order = torch.randperm(out * inputs, generator=torch.Generator().manual_seed(0))
    signs = torch.tensor([1.0, -1.0]).repeat(out * inputs // 2)
    return (signs * 1.3 ** order.double()).view(out, inputs)


@pytest.mark.parametrize("technique", [ow.ADMM(HALF), ow.ADMM(HALF, gradual=False), ow.ALPS(HALF)], ids=repr)
def test_admm_identity_equal_inputs_give_magnitudes_and_change_nothing(technique):
    weight = distinct()
    found = solved(weight, unit(8, 3.0), technique)
    magnitude = nn.Linear(8, 6, bias=False).double()
    with torch.no_grad():
        magnitude.weight.copy_(weight)
    ow.sparsify(magnitude, ow.GradualMagnitude(HALF)).finalize()
    torch.testing.assert_close(found, magnitude.weight.detach(), rtol=1e-9, atol=1e-9)


def test_admm_fixed_mask_optimum_is_where_its_steps_lead():
    weight, x = example()
    found = solved(weight, x, ow.ADMM(HALF, steps=3000, rising=15))
    norms = x.square().sum(0).sqrt()
    # λ is that of the scaled inputs, whose diagonal is 1: 0.1 of each squared norm.
    products = x.T @ x + torch.diag(0.1 * norms.square())
    best = refit(weight, found != 0, products, ridge=0.0, tolerance=1e-12)
    torch.testing.assert_close(found, best, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9])
def test_admm_errs_less_than_wanda_and_sparsegpt_and_alps_less_than_admm(sparsity):
    weight, x = example(out=64)
    schedule = ow.OneShot(sparsity)
    techniques = (ow.Wanda(schedule), ow.SparseGPT(schedule), ow.ADMM(schedule), ow.ALPS(schedule))
    errors = [error(solved(weight, x, technique), weight, x) for technique in techniques]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("pattern", EVERY_PATTERN.values(), ids=EVERY_PATTERN)
@pytest.mark.parametrize("technique", [ow.ADMM, ow.ALPS])
@pytest.mark.parametrize("kind", ["linear", "Conv1D", "conv"])
def test_admm_and_alps_have_every_pattern_in_every_layer(kind, technique, pattern):
    torch.manual_seed(0)
    layer, shape = {
        "linear": (nn.Linear(16, 8), (30, 16)),
        "Conv1D": (Conv1D(8, 16), (30, 16)),
        "conv": (nn.Conv2d(16, 8, 3, padding=1), (2, 16, 5, 5)),
    }[kind]
    ow.sparsify(layer, technique(HALF, pattern=pattern), calibrate=lambda model: model(torch.randn(shape))).finalize()
    assert_pattern(pattern, layer.weight.detach().t() if kind == "Conv1D" else layer.weight.detach())


@pytest.mark.parametrize("pattern", EVERY_PATTERN.values(), ids=EVERY_PATTERN)
@pytest.mark.parametrize("technique", [ow.ADMM, ow.ALPS, ow.SparseGPT, ow.DSnoT, ow.Wanda, ow.RIA])
def test_the_order_of_a_weight_in_memory_changes_nothing(technique, pattern):
    if technique is ow.DSnoT and isinstance(pattern, ow.Block | ow.Rows | ow.Columns):
        return  # which it refuses
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 8, 3, padding=1)
    twin, x = copy.deepcopy(layer).to(memory_format=torch.channels_last), torch.randn(2, 16, 5, 5)
    assert not twin.weight.is_contiguous()
    for each in (layer, twin):
        ow.sparsify(each, technique(HALF, pattern=pattern), calibrate=lambda model: model(x)).finalize()
    assert torch.equal(layer.weight != 0, twin.weight != 0)
    torch.testing.assert_close(layer.weight, twin.weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("technique", [ow.ADMM, ow.ALPS])
def test_admm_and_alps_keep_zeros_of_the_model_where_they_are_wanted(technique):
    weight, x = example()
    weight[:, ::3] = 0
    found = solved(weight, x, technique(HALF), keep_zeros=True)
    assert (found[:, ::3] == 0).all()
    assert int((found != 0).sum()) == weight.numel() // 2


def test_the_cubic_schedule_is_used(monkeypatch):
    weight, x = example()
    asked = []
    chosen = ow.Unstructured.mask
    monkeypatch.setattr(
        ow.Unstructured, "mask", lambda self, s, keep, g: asked.append(keep) or chosen(self, s, keep, g)
    )
    solved(weight, x, ow.ADMM(HALF))
    n = weight.numel()  # 1,152, of which s (1 - (1 - step / 15)³) go
    assert asked[-15:] == [-(-n * (1 + (15 - step) ** 3 / 15**3) // 2) for step in range(1, 16)]
    solved(weight, x, ow.ADMM(HALF, gradual=False))
    assert asked[-15:] == [n // 2] * 15


def test_admm_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"damping must be > 0 and rising in 1..steps, got 0.1 and 21 of 20"):
        ow.ADMM(HALF, rising=21)
    with pytest.raises(ValueError, match=r"penalty > 0 and search at least 1, got 0.01, 0 and 300"):
        ow.ALPS(HALF, penalty=0)


@pytest.mark.parametrize(
    ("technique", "power"),
    [(technique(HALF), power) for technique in (ow.SparseGPT, ow.ADMM, ow.ALPS) for power in (-50, 50)]
    + [(ow.SparseGPT(HALF), 57)],  # then float32 holds X Xᵀ, but not the sum of its diagonal
)
def test_the_unit_of_the_inputs_changes_no_weight(technique, power):
    weight, x = example(dtype=torch.float32)
    assert torch.equal(solved(weight, x * 2.0**power, technique), solved(weight, x, technique))


@pytest.mark.parametrize("technique", [ow.SparseGPT(HALF), ow.ADMM(HALF), ow.ALPS(HALF)], ids=repr)
def test_inputs_whose_squares_overflow_are_one_sentence(technique):
    weight, x = example(dtype=torch.float32)
    with pytest.raises(ValueError, match="the inputs of weight hold NaN or infinities, or their squares overflow"):
        solved(weight, x * 1e20, technique)
