"""Selecting the largest values of each row gives what sorting each row gives."""

import math

import pytest
import torch

from openwork.kernels.select_rows import kth_largest_of_rows, reach_rows, select_rows
from tests.kernels.select_cases import ROWS, check_rows, counts_of_rows, kth_largest_plain, rows_of

INF = math.inf
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_the_kth_largest_of_rows_is_that_of_each_row(dtype, n):
    values = torch.randn(12, n, dtype=dtype, generator=torch.Generator().manual_seed(n))
    values[0], values[1, : n // 2], values[2, 0], values[3, 0] = 0, 0, INF, -INF
    values[4], values[5], values[6, ::2] = -INF, INF, -0.0
    values[7] *= 1e-310 if dtype == torch.float64 else 1e-40  # subnormal
    for k in {1, n // 2 + 1, n}:
        found = kth_largest_of_rows(values, torch.full((12,), k))
        assert found.tolist() == [float(kth_largest_plain(row, k)) for row in values]
    each = torch.arange(12) % n + 1
    assert kth_largest_of_rows(values, each).tolist() == [
        float(kth_largest_plain(row, k)) for row, k in zip(values, each.tolist(), strict=True)
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "n"), ROWS)
def test_the_largest_of_rows_are_those_of_each(dtype, rows, n):
    values = rows_of(dtype, rows, n)
    for keep in counts_of_rows(rows, n):
        check_rows(select_rows(values, torch.tensor(keep)), values, keep)


def test_no_value_reaches_the_0th_largest():
    values = torch.tensor([[INF, 1.0, -INF]])
    selected = select_rows(values, torch.tensor([0]))
    assert not selected.mask.any()
    assert selected.numbers.tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("threshold", [-INF, -1.0, -0.0, 0.0, 1.0, INF, math.nan])
def test_minus_infinity_and_nan_reach_no_threshold(threshold):
    values = torch.tensor([[INF, 1.0, 0.0, -0.0, -1.0, -INF, math.nan]])
    mask, _, numbers = reach_rows(values, torch.tensor([threshold]))
    wanted = (values >= threshold) & (values > -INF)
    assert torch.equal(mask, wanted)
    assert numbers.t().tolist() == [[int(wanted.sum()), int((wanted & (values == threshold)).sum()), 1]]
