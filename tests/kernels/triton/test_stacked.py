"""The Triton kernels of stacked layers beside torch: in Triton's interpreter (TRITON_INTERPRET=1), or on a GPU."""

import importlib.util
import os

import pytest
import torch

from openwork.kernels import adam, stacked
from tests.kernels.stacked_cases import BETAS, EPS, alone
from tests.kernels.stacked_cases import layer as on_cpu
from tests.kernels.test_stacked import CASES

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
RATES = (1e-3, 0.1)
SHAPES = [(1, 1, 1), (5, 7, 3), (16, 16, 16), (9, 33, 17), (130, 20, 18)]  # batch, in, out


@pytest.fixture(params=[1, 2], ids=["a tile a program", "two tiles a program"])
def kernels(request, monkeypatch):
    """With small tiles, so that small layers have several."""
    from openwork.kernels.triton import stacked as kernels

    for name in ("LINEAR", "LINEAR_INPUT", "ADAM", "ADAM_NARROW"):
        tile = kernels.Tile(outputs=16, inputs=16, tiles=request.param, stages=request.param)
        monkeypatch.setattr(kernels, name, tile)
    return kernels


def layer(*shape, **case):
    return on_cpu(*shape, **case).to(DEVICE)


def train(function, given, *, precision="ieee", step=3, weight_decay=0.0):
    scales = adam.adam_scales(torch.tensor(RATES, device=DEVICE), torch.tensor([float(step)], device=DEVICE), BETAS)
    operands = (given.weight, given.exp_avg, given.exp_avg_sq, given.bias, given.bias_exp_avg, given.bias_exp_avg_sq)
    settings = (given.rows, scales, *BETAS, EPS, weight_decay, precision)
    function(*operands, given.x, given.gradient, *settings)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_torchs_adam(kernels, shape, case):
    given = layer(2, *shape, **CASES[case])
    expected = [alone(given.to("cpu"), number, RATES[number], 3, 0.1) for number in range(2)]
    train(kernels.linear_adam, given, weight_decay=0.1)
    for one, each in zip(given.moved, zip(*expected, strict=True), strict=True):
        assert torch.allclose(one.double().cpu(), torch.stack(each), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_the_plain_twin(kernels, shape, case, relu):
    given = layer(2, *shape, **CASES[case])
    arguments = (given.x, given.weight, given.bias, given.rows, "ieee", relu, torch.float32)
    assert torch.allclose(kernels.linear(*arguments), stacked.linear_plain(*arguments), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_input_gradients_are_those_of_the_plain_twin(kernels, shape):
    given = layer(2, *shape)
    arguments = (given.gradient, given.weight, "ieee", torch.float32)
    assert torch.allclose(kernels.linear_input(*arguments), stacked.linear_input_plain(*arguments), atol=1e-5)


@pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter multiplies the bits of bfloat16 numbers")
def test_products_in_bf16_are_those_of_the_plain_twin_for_whole_numbers(kernels):
    # Whole numbers up to 4 are exact in bfloat16, and so are float32 sums of their products.
    given = layer(2, 9, 33, 17, rows=True)
    for each in (given.weight, given.bias, given.x, given.gradient):
        each.mul_(4).round_().clamp_(-4, 4)
    arguments = (given.x, given.weight, given.bias, given.rows, "bf16", False, torch.float32)
    assert torch.equal(kernels.linear(*arguments), stacked.linear_plain(*arguments))
    arguments = (given.gradient, given.weight, "bf16", torch.float32)
    assert torch.equal(kernels.linear_input(*arguments), stacked.linear_input_plain(*arguments))
    one, other = given.copy(), given.copy()
    train(kernels.linear_adam, one, precision="bf16")
    train(stacked.linear_adam_plain, other, precision="bf16")
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(one.moved, other.moved, strict=True))


def test_inputs_and_gradients_that_do_not_lie_in_one_piece_are_taken(kernels):
    given = layer(2, 5, 7, 3)
    spread = given.copy(
        x=given.x.transpose(0, 1).contiguous().transpose(0, 1),
        gradient=given.gradient.transpose(1, 2).contiguous().transpose(1, 2),
    )
    train(kernels.linear_adam, given)
    train(kernels.linear_adam, spread)
    assert all(torch.equal(a, b) for a, b in zip(given.moved, spread.moved, strict=True))


def test_masked_weights_and_moments_become_0_and_nan_stays_with_its_member(kernels):
    given = layer(2, 9, 33, 17)
    mask = torch.rand(given.weight.shape, device=DEVICE) < 0.5
    adam.mark_masked(given.exp_avg_sq, mask)
    spoilt = given.copy()
    spoilt.gradient[1] = float("nan")
    train(kernels.linear_adam, given)
    train(kernels.linear_adam, spoilt)
    assert not any(each[~mask].any() for each in spoilt.moved[:3])
    assert spoilt.weight[1][mask[1]].isnan().all()
    assert all(torch.equal(a[0], b[0]) for a, b in zip(given.moved, spoilt.moved, strict=True))


@pytest.mark.parametrize("step", [1, 12_345])
def test_bf16_second_moments_are_rounded_as_in_the_plain_twin(kernels, step):
    given = layer(2, 9, 33, 17)
    given.gradient.zero_()  # no sums, whose order could differ
    given.exp_avg_sq = given.exp_avg_sq.bfloat16()
    adam.mark_masked(given.exp_avg_sq, torch.rand(given.weight.shape, device=DEVICE) < 0.5)
    other = given.copy()
    train(kernels.linear_adam, given, step=step)
    train(stacked.linear_adam_plain, other, step=step)
    assert torch.equal(given.exp_avg_sq.view(torch.int16), other.exp_avg_sq.view(torch.int16))  # -0.0 is not 0.0


def test_bf16_second_moments_keep_nan(kernels):
    given = layer(2, 5, 7, 3)
    given.exp_avg_sq = given.exp_avg_sq.bfloat16()
    given.gradient[1] = float("nan")
    train(kernels.linear_adam, given)
    assert given.exp_avg_sq[1].isnan().all()
    assert not given.exp_avg_sq[0].isnan().any()
