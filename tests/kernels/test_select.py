"""Selecting the largest of many tensors at once gives what sorting each gives, on every way."""

import math

import pytest
import torch

from openwork.kernels import select
from openwork.kernels.digits import count_plain, settle_plain
from openwork.kernels.paths import Path
from openwork.kernels.select import count_reaching, kth_largest, kth_largest_of_all, select_largest, select_over
from tests.kernels.select_cases import check, counts, expected_of_all, values

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_largest_of_many_tensors_are_those_of_each(dtype):
    tensors = values(dtype)
    for keep in counts(tensors):
        check(select_largest(list(tensors.values()), keep), tensors, keep)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_digits_find_what_sorting_finds(dtype):
    tensors = values(dtype)
    for keep in counts(tensors):
        check(select_over(list(tensors.values()), keep, None), tensors, keep)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("few", [0, 1 << 17])
def test_the_kth_largest_is_exact_for_few_and_for_many_values(dtype, few, monkeypatch):
    monkeypatch.setattr(select, "_FEW", few)
    for name, tensor in values(dtype).items():
        order = torch.where(tensor.isnan(), -math.inf, tensor).flatten().sort(descending=True).values
        for k in {1, tensor.numel() // 2, tensor.numel()} - {0}:
            if tensor.numel():
                assert kth_largest(tensor, k) == order[k - 1], (name, k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_tensors_together_are_ranked_as_one(dtype):
    tensors = list(values(dtype).values())
    size = sum(tensor.numel() for tensor in tensors)
    for k in (1, 2, size // 10, size // 2, size - 5, size):
        found = kth_largest_of_all(lambda: [tensors[:4], tensors[4:5], tensors[5:]], k, dtype, torch.device("cpu"))
        threshold, numbers = expected_of_all(tensors, k)
        assert found == threshold
        assert torch.equal(count_reaching(tensors, found), numbers)


def test_counts_may_come_from_several_places():
    """Two halves of each tensor add their counts, as two processes do, and each finds the threshold of the whole."""
    generator = torch.Generator().manual_seed(1)
    whole = [torch.randn(101, generator=generator), torch.randint(4, (60,), generator=generator).float()]
    parts = [[tensor[:40] for tensor in whole], [tensor[40:] for tensor in whole]]

    for keep in ([1, 1], [50, 30], [101, 60], [0, 7]):
        known: list[torch.Tensor] = []  # what the digits of the other half were, computed beside it

        def other(counts, here=parts[1], known=known, keep=keep):
            if not known:
                known[:] = [torch.zeros(2, dtype=torch.int64), torch.tensor(keep), torch.tensor(24)]
            found, k, shift = known
            more = torch.zeros_like(counts)
            count_plain(here, found, int(shift), more)
            counts += more
            settle_plain(counts, found, k, int(shift))
            known[2] = shift - 8

        masks, thresholds, _ = select_over(parts[0], keep, other)
        for mask, part, tensor, threshold, k in zip(masks, parts[0], whole, thresholds, keep, strict=True):
            expected = tensor.sort(descending=True).values[k - 1] if k else math.nan
            assert k == 0 or threshold == expected
            assert torch.equal(mask, part >= expected)


def test_a_crowd_that_repeats_is_counted_exactly():
    value = torch.tensor([0.5]).expand(1 << 20)  # more than a few chunks, and no memory
    counts = torch.zeros(1, 1 << 16, dtype=torch.int64)
    count_plain([value] * 5, torch.zeros(1, dtype=torch.int64), 16, counts)
    assert counts.sum() == counts.max() == 5 << 20


def test_the_next_digit_is_where_counts_from_above_reach_k():
    counts = torch.tensor([[5, 0, 3, 2], [5, 0, 3, 2], [1, 1, 1, 1]])
    found, k = torch.zeros(3, dtype=torch.int64), torch.tensor([2, 6, 0])
    settle_plain(counts, found, k, 4)
    assert (found >> 4).tolist() == [3, 0, 3]
    assert k.tolist() == [2, 1, 0]  # of those with that digit; the 0th is above everything


def test_the_operation_knows_its_results_without_values():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        masks, thresholds, numbers = select_largest([torch.empty(3, 4), torch.empty(5)], [1, 2])
    assert [mask.shape for mask in masks] == [(3, 4), (5,)]
    assert (thresholds.shape, numbers.shape, numbers.dtype) == ((2,), (3, 2), torch.int64)


def test_a_cpu_goes_the_plain_way_and_says_why():
    assert select.path(torch.device("cpu"), torch.bfloat16).name == "plain"
    assert isinstance(select.path(torch.device("cpu"), torch.float32), Path)
