"""SparseGPT: the weights of later inputs make good what is removed."""

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.least_squares import refit
from tests.techniques.one_shot import EVERY_PATTERN, HALF, Conv1D, assert_pattern, error, example, solved, unit


def damped(x, damping=0.01):
    products = x.T @ x
    return products + damping * products.diagonal().mean() * torch.eye(len(products), dtype=x.dtype)


def one_by_one(weight, x, sparsity, block=128):
    """The weights, and the sum of w_j² / (2 U_jj²) over all removed ones, by the paper's loop over columns."""
    weight, removed, losses = weight.clone(), torch.zeros_like(weight, dtype=torch.bool), 0.0
    root = torch.linalg.cholesky(torch.linalg.inv(damped(x)), upper=True)
    for begin in range(0, weight.shape[1], block):
        part = weight[:, begin : begin + block]
        scores = (part / root.diagonal()[begin : begin + block]).square()
        worst = scores.flatten().argsort()[: int(sparsity * part.numel())]
        removed[:, begin : begin + block].view(part.shape)[worst // part.shape[1], worst % part.shape[1]] = True
        for j in range(begin, min(begin + block, weight.shape[1])):
            errors = torch.where(removed[:, j], weight[:, j], 0) / root[j, j]
            losses += float(errors.square().sum()) / 2
            weight[:, j:] -= errors[:, None] * root[j, j:]
    weight[removed] = 0
    return weight, losses


@pytest.mark.parametrize("block", [128, 16, 7])
def test_sgpt_is_the_loop_over_columns(block):
    weight, x = example(inputs=48 if block != 7 else 49)
    found = solved(weight, x, ow.SparseGPT(HALF, block=block))
    expected, _ = one_by_one(weight, x, 0.5, block)
    torch.testing.assert_close(found, expected)


def test_sgpt_identity_equal_inputs_give_blockwise_magnitudes_and_change_nothing():
    weight, _ = example()
    found = solved(weight, unit(48, 3.0), ow.SparseGPT(HALF, block=16))
    for part, dense in zip(found.split(16, 1), weight.split(16, 1), strict=True):
        kept = part != 0
        assert int(kept.sum()) == 24 * 16 // 2
        assert torch.equal(part[kept], dense[kept])
        assert dense[kept].abs().min() > dense[~kept].abs().max()


def test_sgpt_loss_identity_the_sum_of_its_losses_is_half_the_damped_error():
    weight, x = example()
    found = solved(weight, x, ow.SparseGPT(HALF))
    change = found - weight
    _, losses = one_by_one(weight, x, 0.5)
    assert losses == pytest.approx(0.5 * float(torch.trace(change @ damped(x) @ change.T)), rel=1e-9)


@pytest.mark.parametrize("pattern", EVERY_PATTERN.values(), ids=EVERY_PATTERN)
def test_sgpt_between_the_optimum_of_its_mask_and_masking_alone(pattern):
    weight, x = example()
    found = solved(weight, x, ow.SparseGPT(HALF, pattern=pattern))
    mask = found != 0
    best = refit(weight, mask, x.T @ x, tolerance=1e-10)
    assert error(best, weight, x) < error(found, weight, x) * (1 + 1e-9)
    if pattern == ow.Rows():  # a whole output has nothing left to make good
        torch.testing.assert_close(found, weight * mask)
    else:
        assert error(found, weight, x) < error(weight * mask, weight, x)


@pytest.mark.parametrize("pattern", EVERY_PATTERN.values(), ids=EVERY_PATTERN)
@pytest.mark.parametrize("kind", ["linear", "Conv1D", "conv", "conv 1d"])
def test_sgpt_has_every_pattern_in_every_layer(kind, pattern):
    torch.manual_seed(0)
    layer, shape = {
        "linear": (nn.Linear(16, 8), (30, 16)),
        "Conv1D": (Conv1D(8, 16), (30, 16)),
        "conv": (nn.Conv2d(16, 8, 3, padding=1), (2, 16, 5, 5)),
        "conv 1d": (nn.Conv1d(16, 8, 2, stride=2), (4, 16, 9)),
    }[kind]
    ow.sparsify(
        layer, ow.SparseGPT(HALF, pattern=pattern), calibrate=lambda model: model(torch.randn(shape))
    ).finalize()
    assert_pattern(pattern, layer.weight.detach().t() if kind == "Conv1D" else layer.weight.detach())


def test_sgpt_of_a_convolution_is_that_of_its_unfolded_matrix():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False).double()
    x = torch.randn(4, 3, 7, 7, dtype=torch.float64)
    rows = nn.functional.unfold(x, 3, stride=2, padding=1).transpose(1, 2).reshape(-1, 27)
    expected = solved(conv.weight.detach().flatten(1), rows, ow.SparseGPT(HALF))
    ow.sparsify(conv, ow.SparseGPT(HALF), calibrate=lambda model: model(x)).finalize()
    torch.testing.assert_close(conv.weight.detach().flatten(1), expected)


@pytest.mark.parametrize("pattern", [ow.NM(2, 4), ow.NM(4, 8)], ids=repr)
def test_sgpt_n_of_m_is_the_same_in_blocks_of_any_size(pattern):
    weight, x = example()
    whole = solved(weight, x, ow.SparseGPT(HALF, pattern=pattern))
    torch.testing.assert_close(solved(weight, x, ow.SparseGPT(HALF, pattern=pattern, block=20)), whole)


def test_sgpt_removes_from_a_convolution_block_after_block():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 5, 3, padding=1, bias=False).double()
    x = torch.randn(4, 4, 7, 7, dtype=torch.float64)
    rows = nn.functional.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, 36)
    expected, _ = one_by_one(conv.weight.detach().flatten(1), rows, 0.6, 9)
    ow.sparsify(conv, ow.SparseGPT(ow.OneShot(0.6), block=9), calibrate=lambda model: model(x)).finalize()
    torch.testing.assert_close(conv.weight.detach().flatten(1), expected)


def test_sgpt_keeps_exactly_as_many_as_it_should():
    weight, x = example(dtype=torch.float32)
    for sparsity in (0.0, 0.01, 0.3, 0.7, 0.999):
        found = solved(weight, x, ow.SparseGPT(ow.OneShot(sparsity), block=10))
        assert int((found != 0).sum()) == int(weight.numel() * (1 - sparsity) + 1e-6)


def test_sgpt_a_second_look_at_the_same_data_changes_no_mask():
    weight, x = example()
    once, twice = (solved(weight, data, ow.SparseGPT(HALF)) for data in (x, torch.cat([x, x])))
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("pattern", [ow.Unstructured(), ow.PerOutput(), ow.NM(2, 4)], ids=repr)
def test_sgpt_zeros_of_the_model_stay_where_they_are_wanted(pattern):
    weight, x = example(dtype=torch.float32)
    zeros = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    zeros[2] = True
    weight[zeros] = 0
    technique = ow.SparseGPT(HALF, pattern=pattern, block=16)
    found = solved(weight, x, technique, keep_zeros=True)
    assert (found[zeros] == 0).all()
    if not isinstance(pattern, ow.NM):  # whose groups may have fewer than 2 weights left
        assert int((found != 0).sum()) == weight.numel() // 2
    filled = solved(weight, x, technique)
    assert int((filled[zeros] != 0).sum()) > 0  # otherwise they are filled with what others lose


def test_sgpt_weights_of_inputs_that_are_always_zero_go_first_and_keep_their_values():
    weight, x = example()
    x[:, 5] = 0
    assert (solved(weight, x, ow.SparseGPT(HALF))[:, 5] == 0).all()
    x[:, 8:] = 0
    found = solved(weight, x, ow.SparseGPT(HALF))
    kept = found[:, 8:] != 0
    assert kept.any()
    assert torch.equal(found[:, 8:][kept], weight[:, 8:][kept])


@pytest.mark.parametrize("technique", [ow.SparseGPT, ow.ADMM, ow.ALPS, ow.DSnoT, ow.RIA, ow.Wanda])
@pytest.mark.parametrize("rows", ["one", "equal", "zero"])
def test_one_shot_techniques_stand_singular_inputs(technique, rows):
    weight, x = example(dtype=torch.float32)
    data = {"one": x[:1], "equal": x[:, :1].expand(200, 48), "zero": torch.zeros(3, 48)}[rows]
    found = solved(weight, data, technique(HALF))
    assert found.isfinite().all()
    assert int((found == 0).sum()) == weight.numel() // 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("technique", [ow.SparseGPT, ow.ADMM, ow.ALPS, ow.DSnoT, ow.RIA])
def test_one_shot_techniques_prune_models_of_half_precision(technique, dtype):
    weight, x = example()
    found = solved(weight.to(dtype), x.to(dtype), technique(HALF))
    assert found.dtype == dtype
    # Values and inputs are rounded to 8 or 11 bits; what is computed with them is float32.
    exact = solved(weight.to(dtype).float(), x.to(dtype).float(), technique(HALF))
    assert ((found != 0) == (exact != 0)).float().mean() > 0.99
    torch.testing.assert_close(found.float(), exact, rtol=0.01, atol=0.02)


@pytest.mark.parametrize("technique", [ow.SparseGPT, ow.ADMM, ow.ALPS, ow.DSnoT, ow.RIA, ow.Wanda])
def test_one_shot_techniques_follow_a_permutation_of_the_outputs(technique):
    weight, x = example()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(solved(weight[order], x, technique(HALF)), solved(weight, x, technique(HALF))[order])


def test_sgpt_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="damping must be > 0 and block at least 1, got 0 and 128"):
        ow.SparseGPT(HALF, damping=0)


@pytest.mark.parametrize("technique", [ow.SparseGPT, ow.ADMM, ow.ALPS, ow.DSnoT, ow.RIA, ow.Wanda])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_shot_techniques_refuse_inputs_that_are_no_numbers(technique, value):
    weight, x = example(dtype=torch.float32)
    x[3, 5] = value
    layer = nn.Linear(48, 24, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    with pytest.raises(ValueError, match=r"the inputs of weight hold NaN or infinities, .*; check the batches"):
        ow.sparsify(layer, technique(HALF), calibrate=lambda model: model(x))
    assert torch.equal(layer.weight, weight)
