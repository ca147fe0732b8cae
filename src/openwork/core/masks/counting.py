"""Counts of many tensors, over all their shards, read back from the device at once."""

from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from openwork.core.precision import where_float64_is
from openwork.core.sharded import shards_of, sum_each


def read_back(values: Sequence[Tensor]) -> list[float]:
    """Numbers of shape () as Python floats, with one wait for each device that they are on."""
    found = [0.0] * len(values)
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, value in enumerate(values):
        kinds.setdefault((value.device, value.dtype), []).append(place)
    for device in {device for device, _ in kinds}:
        groups = [places for (where, _), places in kinds.items() if where == device]
        stacks = [where_float64_is(torch.stack([values[place] for place in places])).double() for places in groups]
        for place, number in zip(chain.from_iterable(groups), torch.cat(stacks).tolist(), strict=True):
            found[place] = number
    return found


def read_tables(tables: Sequence[Tensor]) -> list[list[list[int]]]:
    """Tables of whole numbers as lists of their rows, with one wait for each device that they are on."""
    found: list[list[list[int]]] = [[] for _ in tables]
    for device in {table.device for table in tables}:
        places = [place for place, table in enumerate(tables) if table.device == device]
        numbers = iter(torch.cat([tables[place].flatten() for place in places]).tolist())
        for place in places:
            rows, columns = tables[place].shape
            found[place] = [[next(numbers) for _ in range(columns)] for _ in range(rows)]
    return found


def number_of_true(mask: Tensor) -> Tensor:
    """How many are True, shape (), by the faster of two ways."""
    return mask.count_nonzero() if mask.device.type == "cpu" else mask.sum()


def true_by_row(flags: Tensor) -> Tensor:
    """How many flags, bools or bytes of 0 and 1, are set in each row of the first axis, (N,) int64."""
    if flags.device.type == "cpu":
        return torch.stack([number_of_true(row) for row in flags])
    return flags.reshape(len(flags), -1).sum(1)  # a row may be a single flag


def sums(tensors: Sequence[Tensor]) -> list[Tensor]:
    """A number of shape () for each tensor that is NaN where the tensor holds NaN, and perhaps where it holds inf."""
    if any(tensor.device.type == "cpu" for tensor in tensors):
        return [tensor.sum() for tensor in tensors]
    return list(torch._foreach_norm(list(tensors), 1))


def count_each(parts: Iterable[Tensor], like: Iterable[Tensor]) -> list[int]:
    """The number of True in each bool part, summed over the processes that hold the rest of its tensor.

    Args:
        parts: What is here of each bool tensor; looked at one by one, so that they need not exist at the same time.
        like: For each part a tensor that is sharded in the same way.
    """
    counts = [int(number) for number in read_back([number_of_true(part) for part in parts])]
    return sum_each(counts, [shards_of(tensor) for tensor in like])
