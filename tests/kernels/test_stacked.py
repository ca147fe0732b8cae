"""Stacked Linear layers beside autograd and torch's own Adam for one layer at a time."""

import pytest
import torch
import torch.nn.functional as F

from openwork.kernels import adam, stacked
from tests.kernels.stacked_cases import BETAS, EPS, alone, layer

CASES = {
    "plain": {},
    "no bias": {"bias": False},
    "masked": {"masked": True},
    "rows of a data set": {"rows": True},
    "one input for all": {"shared": True},
}
RATES = torch.tensor([1e-3, 1e-2, 0.3])


def train(given, *, rates=RATES, step=7, weight_decay=0.0, precision="ieee"):
    scales = adam.adam_scales(rates, torch.tensor([float(step)]), BETAS)
    operands = (given.weight, given.exp_avg, given.exp_avg_sq, given.bias, given.bias_exp_avg, given.bias_exp_avg_sq)
    settings = (given.rows, scales, *BETAS, EPS, weight_decay, precision)
    stacked.stacked_linear_adam(*operands, given.x, given.gradient, *settings)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_torchs_adam_for_each_member_alone(case, weight_decay):
    given = layer(3, 5, 6, 4, **CASES[case])
    expected = [alone(given, number, float(RATES[number]), 7, weight_decay) for number in range(3)]
    train(given, weight_decay=weight_decay)
    for one, each in zip(given.moved, zip(*expected, strict=True), strict=True):
        assert torch.allclose(one.double(), torch.stack(each), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_results_and_input_gradients_are_those_of_autograd(case):
    given = layer(3, 5, 6, 4, **CASES[case])
    x = given.inputs().clone().requires_grad_()
    y = stacked.stacked_linear(given.x, given.weight, given.bias, given.rows, "ieee", False, torch.float32)
    expected = torch.stack(
        [F.linear(x[i], given.weight[i], None if given.bias is None else given.bias[i]) for i in range(3)]
    )
    assert torch.allclose(y, expected, atol=1e-6)
    expected.backward(given.gradient)
    found = stacked.stacked_linear_input(given.gradient, given.weight, "ieee", torch.float32)
    assert torch.allclose(found, x.grad, atol=1e-6)


def test_the_first_step_moves_every_weight_by_its_members_rate():
    given = layer(3, 5, 6, 4)
    for each in (given.exp_avg, given.exp_avg_sq):
        each.zero_()
    before = given.weight.clone()
    train(given, step=1)
    assert torch.allclose((given.weight - before).abs(), RATES.view(3, 1, 1).expand(3, 4, 6), rtol=1e-3)


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16], ids=str)
def test_where_weights_are_masked_weight_and_moments_become_0_whatever_they_were(moments):
    given = layer(3, 5, 6, 4)
    given.exp_avg_sq = given.exp_avg_sq.to(moments)
    mask = torch.arange(72).view(3, 4, 6) % 2
    adam.mark_masked(given.exp_avg_sq, mask)
    given.gradient[0, 0, 0] = float("nan")
    for step in (1, 2):
        train(given, step=step)
        assert not any(each[mask == 0].any() for each in (given.weight, given.exp_avg, given.exp_avg_sq))
        assert given.weight[mask == 1].all()


def test_a_weight_of_zero_with_moments_of_zero_is_not_masked():
    given = layer(3, 5, 6, 4)
    for each in (given.weight, given.exp_avg, given.exp_avg_sq):
        each.zero_()
    train(given)
    assert given.weight.all()


def test_a_member_of_nan_leaves_the_others_as_they_are_bit_by_bit():
    clean, spoilt = layer(3, 5, 6, 4), layer(3, 5, 6, 4)
    spoilt.x[1] = float("nan")
    train(clean)
    train(spoilt)
    assert spoilt.weight[1].isnan().all()
    for one, other in zip(clean.moved, spoilt.moved, strict=True):
        assert torch.equal(one[::2], other[::2])


def test_negative_results_become_0_where_asked_and_nan_stays():
    x = torch.tensor([[-1.0], [2.0], [float("nan")]])
    y = stacked.stacked_linear(x, torch.ones(1, 1, 1), None, None, "ieee", True, torch.float32)
    assert y[0, :2, 0].tolist() == [0, 2]
    assert y[0, 2, 0].isnan()


def test_products_in_bf16_are_exact_for_whole_numbers():
    x, weight = torch.arange(12.0).view(3, 4), torch.arange(-8.0, 8).view(1, 4, 4)
    y = stacked.stacked_linear(x, weight, None, None, "bf16", False, torch.bfloat16)
    assert torch.equal(y[0], F.linear(x, weight[0]).bfloat16())


def test_bf16_second_moments_fall_as_float32_ones_do():
    # Rounded to the nearest, 0.999 v is v in bfloat16. n = 4000 weights, 200 steps; 0.999^200 = 0.819.
    given = layer(1, 1, 80, 50, bias=False)
    given.gradient.zero_()
    given.exp_avg_sq = torch.ones(1, 50, 80, dtype=torch.bfloat16)
    for step in range(1, 201):
        train(given, rates=torch.zeros(1), step=step)
    # Each step rounds by less than 2^-8: 6 sigma of the mean are 6 * 2^-8 * sqrt(200 / 4000) / 2 = 0.0026.
    assert abs(float(given.exp_avg_sq.float().mean()) - 0.999**200) < 0.0026


def test_operations_know_their_shapes_without_computing():
    given = layer(3, 5, 6, 4, rows=True)
    arguments = (given.x, given.weight, given.bias, given.rows, "ieee", True, torch.float32)
    torch.library.opcheck(stacked.stacked_linear, arguments)
    torch.library.opcheck(stacked.stacked_linear_input, (given.gradient, given.weight, "ieee", torch.bfloat16))
    moments = (given.weight, given.exp_avg, given.exp_avg_sq, given.bias, given.bias_exp_avg, given.bias_exp_avg_sq)
    scales = adam.adam_scales(RATES, torch.tensor([7.0]), BETAS)
    settings = (given.rows, scales, *BETAS, EPS, 0.1, "ieee")
    torch.library.opcheck(stacked.stacked_linear_adam, (*moments, given.x, given.gradient, *settings))
