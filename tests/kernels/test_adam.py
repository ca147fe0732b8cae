"""Steps of Adam for many models beside torch's own Adam for one at a time."""

import torch

from openwork.kernels import adam


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
