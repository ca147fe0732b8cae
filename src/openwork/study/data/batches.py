"""Batches of a data set that is whole in memory: shuffled without end for training, in order for evaluation."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from openwork.study.data.images import Images


def shuffled_batches(data: Images, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches (images (batch_size, C, H, W), labels (batch_size,)), a new permutation in every epoch.

    The permutation depends on (seed, epoch) alone and is drawn on the CPU, so it is the same for data on any device.
    An epoch has N // batch_size batches; what is left over is dropped. The first batch is number ``start`` of the
    endless sequence, found without drawing those before it: a run resumed there sees what it would have seen.
    Raises ValueError unless 1 ≤ batch_size ≤ N, seed ≥ 0 and start ≥ 0.
    """
    size = len(data.labels)
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"batch_size must be in [1, {size}], the number of images, got {batch_size}; an epoch "
            f"has only whole batches"
        )
    if seed < 0 or start < 0:
        raise ValueError(f"seed and start must be >= 0, got {seed} and {start}; count from 0")
    return _shuffled(data, batch_size, seed, start)


def _shuffled(data: Images, batch_size: int, seed: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    per_epoch = len(data.labels) // batch_size
    epoch, first = divmod(start, per_epoch)
    while True:
        order = _permutation(len(data.labels), seed, epoch).to(data.images.device)
        for batch in range(first, per_epoch):
            index = order[batch * batch_size : (batch + 1) * batch_size]
            yield data.images[index], data.labels[index]
        epoch, first = epoch + 1, 0


def _permutation(size: int, seed: int, epoch: int) -> Tensor:
    # torch's CPU generator reads only the low 32 bits of its seed, so the two numbers are hashed into 32. Not
    # SeedSequence((seed, epoch)): there seed 1 + 2³² in epoch 0 is seed 1 in epoch 1.
    state = int(np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(1)[0])
    return torch.randperm(size, generator=torch.Generator().manual_seed(state))


def ordered_batches(data: Images, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, in order: batches (images, labels) of ``batch_size``, the last one of what is left.

    The batches are views of ``data``. Raises ValueError if batch_size < 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}; try 1000")
    return (
        (data.images[first : first + batch_size], data.labels[first : first + batch_size])
        for first in range(0, len(data.labels), batch_size)
    )
