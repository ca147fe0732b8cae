"""Counts of many tensors, over all their shards, read back from the device at once."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from openwork.core.sharded import Shards, shards_of


def read_back(values: Sequence[Tensor]) -> list[float]:
    """Numbers of shape () as Python's, with one wait for each device that they are on."""
    if all(value.device.type == "cpu" for value in values):
        return [value.item() for value in values]
    found = [0.0] * len(values)
    for device in {value.device for value in values}:
        places = [place for place, value in enumerate(values) if value.device == device]
        numbers = torch.stack([values[place].double() for place in places]).tolist()
        for place, number in zip(places, numbers, strict=True):
            found[place] = number
    return found


def count_each(parts: Sequence[Tensor], like: Iterable[Tensor]) -> list[int]:
    """The number of non-zeros of each part, summed over the processes that hold the shards of its ``like``."""
    counts = [int(number) for number in read_back([part.count_nonzero() for part in parts])]
    return sum_each(counts, like)


def sum_each(counts: Sequence[int], like: Iterable[Tensor]) -> list[int]:
    """Each count, summed over the processes that hold the shards of its ``like``: one sum for those in common."""
    found = list(counts)
    places: dict[Shards, list[int]] = {}
    for place, tensor in enumerate(like):
        places.setdefault(shards_of(tensor), []).append(place)
    for shards, chosen in places.items():
        for place, total in zip(chosen, shards.sum([counts[place] for place in chosen]), strict=True):
            found[place] = total
    return found
