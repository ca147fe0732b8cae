"""Masks applied to many tensors, on a CPU; on a GPU and in Triton's interpreter: triton/test_masks.py."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from openwork.kernels import masks

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int32]
NAN, INF = math.nan, math.inf


def some(dtype=torch.float32, device="cpu"):
    """(values, hidden, masks) of odd shapes and layouts."""
    torch.manual_seed(0)
    shapes = [(), (1,), (7,), (0, 3), (33, 5), (4, 3, 5, 5), (2, 3, 2, 3, 2)]
    values = [torch.randn(shape).mul(100).to(dtype) for shape in shapes]
    values = [value.to(device) for value in values]
    values[5] = values[5].contiguous(memory_format=torch.channels_last)
    values += [torch.randn(6, 9).to(device, dtype).t(), torch.randn(8, 6).to(device, dtype)[::2]]
    kept = [(torch.rand_like(value.cpu(), dtype=torch.float32) < 0.5).to(device) for value in values]
    return values, [torch.full_like(value, 7) for value in values], kept


def same(found, expected):
    return all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masked_numbers_become_zero_and_the_others_stay(dtype):
    values, _, kept = some(dtype)
    expected = [value.where(mask, torch.zeros_like(value)) for value, mask in zip(values, kept, strict=True)]
    masks.mask_(values, kept)
    assert same(values, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hiding_copies_all_values_before_it_masks_them(dtype):
    values, hidden, kept = some(dtype)
    before = [value.clone() for value in values]
    expected = [value.where(mask, torch.zeros_like(value)) for value, mask in zip(values, kept, strict=True)]
    masks.hide_(values, hidden, kept)
    assert same(hidden, before)
    assert same(values, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_remembering_takes_what_is_kept_and_nothing_else(dtype):
    values, hidden, kept = some(dtype)
    expected = [value.where(mask, old) for value, mask, old in zip(values, kept, hidden, strict=True)]
    masks.remember_(hidden, values, kept)
    assert same(hidden, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_restoring_takes_what_is_masked_and_nothing_else(dtype):
    values, hidden, kept = some(dtype)
    expected = [value.where(mask, old) for value, mask, old in zip(values, kept, hidden, strict=True)]
    masks.restore_(values, hidden, kept)
    assert same(values, expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_large_tensors_come_out_alike_by_numpy_and_by_torch(dtype, threads, monkeypatch):
    monkeypatch.setattr(masks, "_PIECE", 5_000)
    torch.manual_seed(0)
    values, kept = torch.randn(2, 101, 251).to(dtype), torch.rand(2, 101, 251) < 0.5
    values[0, 0, :9], values[1, -1, -9:] = INF, NAN
    values = [values, values.transpose(0, 2).clone().transpose(0, 2), nn.Parameter(values.clone())]
    expected = [value.detach() * kept for value in values]
    before, size = torch.get_num_threads(), np.getbufsize()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            masks.mask_(values, [kept, kept, kept])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one.nan_to_num(7), other.nan_to_num(7)) for one, other in zip(values, expected, strict=True))
    assert all(value._version for value in values)
    assert np.getbufsize() == size


def test_a_masked_nan_stays_nan_so_that_divergence_is_seen():
    values = torch.tensor([NAN, INF, -1.0, 2.0])
    masks.mask_([values], [torch.tensor([False, False, False, True])])
    assert values.isnan().tolist() == [True, True, False, False]
    assert values[2:].tolist() == [0.0, 2.0]


def test_remembering_forgets_what_was_infinite_or_nan_at_a_kept_place():
    hidden = torch.tensor([INF, NAN, INF, 60_000.0])
    masks.remember_([hidden], [torch.tensor([1.0, 2.0, 3.0, -60_000.0])], [torch.tensor([True, True, False, True])])
    assert hidden.tolist() == [1.0, 2.0, INF, -60_000.0]


def test_writes_are_counted_by_the_tensors_version():
    parameter, hidden, kept = nn.Parameter(torch.ones(3)), torch.ones(3), torch.zeros(3, dtype=torch.bool)
    with torch.no_grad():
        for number in range(1, 4):
            masks.mask_([parameter], [kept])
            assert parameter._version == number
        masks.remember_([hidden], [parameter], [kept])
        masks.restore_([parameter], [hidden], [kept])
    assert (parameter._version, hidden._version, kept._version) == (4, 1, 0)


def test_autograd_follows_the_mask_of_a_gradient_that_is_to_be_differentiated():
    x = torch.tensor([2.0, 3.0], requires_grad=True)
    (gradient,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    masks.mask_([gradient], [torch.tensor([False, True])])
    gradient.sum().backward()
    assert x.grad.tolist() == [0.0, 18.0]  # 6 x


def test_autograd_follows_the_masks_of_large_gradients_too():
    x = torch.ones(200, 200, requires_grad=True)
    (gradient,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    masks.mask_([gradient], [torch.ones(200, 200, dtype=torch.bool).triu()])
    gradient.sum().backward()
    assert torch.equal(x.grad, torch.full((200, 200), 6.0).triu())


def test_nothing_to_mask_is_no_error():
    masks.mask_([], [])
    masks.hide_([], [], [])
    masks.remember_([], [], [])
    masks.restore_([], [], [])


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        masks.mask_([torch.ones(2), torch.ones(2)], [torch.ones(2, dtype=torch.bool)])
