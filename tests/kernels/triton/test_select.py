"""The Triton kernels of the selection beside sorting: in Triton's interpreter (TRITON_INTERPRET=1), or on a GPU."""

import importlib.util
import math
import os
from contextlib import contextmanager

import pytest
import torch

from openwork.kernels import select
from openwork.kernels.paths import Path
from openwork.kernels.select import count_reaching, kth_largest_of_all, select_largest, select_over
from openwork.kernels.select_rows import kth_largest_of_rows, reach_rows, select_rows
from tests.core.test_stacked_masks import BATCHED, different, label
from tests.kernels.select_cases import (
    ROWS,
    check,
    check_rows,
    counts,
    counts_of_rows,
    expected_of_all,
    kth_largest_plain,
    rows_of,
    values,
)
from tests.members import equal, random_steps

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = [torch.float32, torch.float64]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
interpreted = pytest.mark.skipif(not INTERPRETED, reason="TRITON_INTERPRET=1 runs these on a CPU; `make test-triton`")


@pytest.fixture(params=[pytest.param("cpu", marks=interpreted), pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    if request.param == "cpu":
        monkeypatch.setattr(select, "path", lambda device, dtype: Path("Triton", "its interpreter"))
    return torch.device(request.param)


def of(dtype, device):
    """The tensors with their strides, on the device."""
    return {name: tensor.to(device) for name, tensor in values(dtype).items()}


@contextmanager
def plainly(monkeypatch):
    """Within it no kernel selects."""
    with monkeypatch.context() as patch:
        patch.setattr(select, "path", lambda device, dtype: Path("plain", "to compare"))
        yield


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_largest_of_many_tensors_are_those_of_each(dtype, device):
    tensors = of(dtype, device)
    for keep in counts(tensors):
        check(select_largest(list(tensors.values()), keep), tensors, keep)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_tensors_together_are_ranked_as_one(dtype, device):
    tensors = list(of(dtype, device).values())
    size = sum(tensor.numel() for tensor in tensors)
    for k in (1, 2, size // 10, size // 2, size - 5, size):
        found = kth_largest_of_all(lambda: [tensors[:4], tensors[4:5], tensors[5:]], k, dtype, device)
        threshold, numbers = expected_of_all(tensors, k)
        assert found == threshold
        assert torch.equal(count_reaching(tensors, found), numbers)


def test_float32_is_ranked_among_float64(device):
    small = torch.tensor([1.0, 0.1, 3.0], device=device)
    wide = torch.tensor([0.1, 2.0], dtype=torch.float64, device=device)
    found = kth_largest_of_all(lambda: [[small, wide]], 4, torch.float64, device)
    assert found == small[1].double() > 0.1  # float32's 0.1 is a little more
    assert count_reaching([small, wide], found).tolist() == [[2, 1], [1, 0]]


def test_a_tensor_alone_and_tensors_without_values_are_taken(device):
    alone = torch.randn(100, device=device)
    (mask,), (threshold,), _ = select_largest([alone], [30])
    assert threshold == alone.sort(descending=True).values[29]
    assert int(mask.sum()) == 30
    masks, _, numbers = select_largest([torch.empty(0, device=device), torch.empty(3, 0, device=device)], [0, 0])
    assert [mask.shape for mask in masks] == [(0,), (3, 0)]
    assert not numbers.any()


def test_counts_of_others_are_added_at_each_digit(device):
    tensor, shapes = torch.rand(1000, device=device), []

    def twice(counts):
        shapes.append(tuple(counts.shape))
        counts *= 2  # as if another process had the same

    _, (threshold,), _ = select_over([tensor], [600], twice)
    assert threshold == tensor.sort(descending=True).values[299]
    assert shapes == [(1, 256)] * 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "n"), ROWS)
def test_the_largest_of_rows_are_those_of_each(dtype, rows, n, device):
    scores = rows_of(dtype, rows, n).to(device)
    for keep in counts_of_rows(rows, n):
        k = torch.tensor(keep, device=device)
        check_rows(select_rows(scores, k), scores, keep)
        assert k.tolist() == keep


def strided(device):
    """Rows that do not lie behind each other, by name."""
    whole = rows_of(torch.float32, 9, 8200).to(device)
    return {
        "some of the rows": whole[2:7],
        "every other row": whole[::2],
        "parts of rows": whole[:, 3:8197],
        "one row many times": whole[:1].expand(5, -1),
        "columns": whole[:, :50].t(),
        "a column": whole[:, 7:8],
        "numbers that are far apart": whole[:, ::100],
    }


@pytest.mark.parametrize("name", strided("cpu"))
def test_rows_lie_at_any_distance(name, device):
    scores = strided(device)[name]
    for keep in counts_of_rows(*scores.shape):
        check_rows(select_rows(scores, torch.tensor(keep, device=device)), scores, keep)


def test_the_kth_largest_of_rows_is_that_of_each_row(device):
    scores = torch.randn(12, 9000, device=device)
    keep = [1, 9000, *range(100, 1100, 100)]
    found = kth_largest_of_rows(scores, torch.tensor(keep, device=device))
    assert found.tolist() == [float(kth_largest_plain(row, k)) for row, k in zip(scores, keep, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_reach_thresholds_that_are_given(dtype, device, monkeypatch):
    scores = rows_of(dtype, 14, 300).to(device)
    levels = [0.0, -0.0, 0.3, -3.0, -math.inf, math.inf, math.nan]
    for first in range(len(levels)):  # each row meets each
        thresholds = torch.tensor((levels[first:] + levels[:first]) * 2, dtype=dtype, device=device)
        mask, same, numbers = reach_rows(scores, thresholds)
        with plainly(monkeypatch):
            plain = reach_rows(scores, thresholds)
        assert same is thresholds
        assert torch.equal(mask, plain.mask)
        assert torch.equal(numbers, plain.numbers)


@pytest.mark.filterwarnings("ignore:.* keeps no weight")
@pytest.mark.parametrize("technique", BATCHED, ids=label)
def test_masks_of_many_members_are_those_of_the_plain_way(technique, device, monkeypatch):
    techniques = [different(technique, member) for member in range(3)]
    with plainly(monkeypatch):
        plain = random_steps(techniques, many=True, device=device.type)
    for one, other in zip(random_steps(techniques, many=True, device=device.type), plain, strict=True):
        equal(one, other)
