"""Steps of Adam for many models beside torch's own Adam for one at a time."""

import pytest
import torch

from openwork.kernels import adam
from tests.kernels.stacked_cases import BETAS, EPS

RATES = (1e-3, 1e-2, 0.3)


def given(shape, device="cpu", *, step=7):
    """Values of three models after some steps, moments, gradients, what a step needs, and the masks of them."""
    generator = torch.Generator().manual_seed(0)
    value, exp_avg, exp_avg_sq, gradient = (torch.randn(3, *shape, generator=generator) for _ in range(4))
    exp_avg_sq.square_()
    mask = torch.rand(3, *shape, generator=generator) < 0.5
    for each in (value, exp_avg):
        each.mul_(mask)
    adam.mark_masked(exp_avg_sq, mask)
    tensors = [each.to(device) for each in (value, exp_avg, exp_avg_sq, gradient)]
    scales = adam.adam_scales(torch.tensor(RATES, device=device), torch.tensor([float(step)], device=device), BETAS)
    return tensors, scales, mask.to(device)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1,), (5, 7), (4, 3, 2, 2)], ids=str)
def test_a_step_is_that_of_torchs_adam_for_each_member_with_masked_gradients(shape, weight_decay):
    tensors, scales, mask = given(shape)
    expected = []
    for rate, kept, *member in zip(RATES, mask, *(each.clone() for each in tensors), strict=True):
        value, exp_avg, exp_avg_sq, gradient = member
        optimizer = torch.optim.Adam([value], lr=rate, betas=BETAS, eps=EPS, weight_decay=weight_decay)
        optimizer.state[value] = {"step": torch.tensor(6.0), "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        value.grad = gradient * kept
        optimizer.step()
        expected.append((value, exp_avg, exp_avg_sq))
    adam.stacked_adam(*tensors, scales, *BETAS, EPS, weight_decay)
    for one, each in zip(tensors, zip(*expected, strict=True), strict=False):
        assert torch.allclose(one, torch.stack(each), rtol=1e-5, atol=1e-7)
    assert not tensors[0][~mask].any()


def test_the_operation_knows_what_it_changes():
    tensors, scales, _ = given((5, 7))
    torch.library.opcheck(adam.stacked_adam, (*tensors, scales, *BETAS, EPS, 0.1))


def test_a_weight_that_comes_back_begins_with_a_second_moment_of_0():
    exp_avg_sq = torch.tensor([[[4.0, 5.0, -0.0]]])
    adam.mark_masked(exp_avg_sq, torch.tensor([[[1.0, 0.0, 1.0]]]))
    assert exp_avg_sq.tolist() == [[[4.0, 0.0, 0.0]]]
    assert exp_avg_sq.signbit().tolist() == [[[False, True, False]]]


def test_nan_and_infinity_stay_in_bf16_second_moments():
    # The bits of this NaN, with noise added, would be those of a zero.
    nan = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    values = torch.cat([nan, torch.tensor([float("inf"), 0.0])]).view(1, 3)
    found = adam._rounded(values, torch.ones(1, 1))
    assert found.isnan().tolist() == [[True, False, False]]
    assert found[0, 1:].tolist() == [float("inf"), 0]
