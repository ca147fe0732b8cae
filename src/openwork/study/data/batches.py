"""Batches of a data set that is whole in memory: shuffled without end for training, in order for evaluation."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openwork.study.data.images import Images


def shuffled_indices(
    size: int, batch_size: int, *, seed: int, start: int = 0, device: torch.device | None = None
) -> Iterator[Tensor]:
    """Endless tensors (batch_size,) of places in [0, size), int64, one a batch: a new permutation in every epoch.

    The permutation depends on (seed, epoch) alone and is drawn on the CPU, so it is the same on any device. An epoch
    has size // batch_size batches; the rest is dropped.

    Args:
        size: The number of images.
        batch_size: From 1 to size.
        seed: At least 0.
        start: Number of the first batch in the endless sequence, at least 0, found without drawing those before it: a
            run resumed there sees what it would have seen.
        device: Where the tensors are, by default the CPU.

    Raises:
        ValueError: Unless 1 ≤ batch_size ≤ size, seed ≥ 0 and start ≥ 0.
    """
    _check(size, batch_size, seed, start)
    return _indices(size, batch_size, seed, start, device)


def stacked_indices(
    size: int, batch_size: int, *, seeds: Sequence[int], start: int = 0, device: torch.device | None = None
) -> Iterator[Tensor]:
    """What `shuffled_indices` gives for each of the seeds, at once: endless tensors (seeds, batch_size).

    Another thread draws the permutations of an epoch during the one before.

    Args:
        size: The number of images.
        batch_size: From 1 to size.
        seeds: At least 0 each.
        start: As for `shuffled_indices`.
        device: Where the tensors are, by default the CPU.

    Raises:
        ValueError: As `shuffled_indices`.
    """
    for seed in seeds:
        _check(size, batch_size, seed, start)
    return _stacked_indices(size, batch_size, seeds, start, device)


def shuffled_batches(data: Images, batch_size: int, *, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches (images (batch_size, C, H, W), labels (batch_size,)): the images that `shuffled_indices` names.

    Args:
        data: N images.
        batch_size: From 1 to N.
        seed: At least 0.
        start: As for `shuffled_indices`.

    Raises:
        ValueError: As `shuffled_indices`.
    """
    indices = shuffled_indices(len(data.labels), batch_size, seed=seed, start=start, device=data.images.device)
    return ((data.images[index], data.labels[index]) for index in indices)


def cropped_batches(
    data: Images, batch_size: int, *, seed: int, start: int = 0, padding: int = 4
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of `shuffled_batches` with every image shifted at random, and mirrored with probability 1/2.

    An image is padded with zeros on all four sides (black for images as read) and cropped to its old size at a place
    drawn for it in each epoch, then perhaps flipped left to right. Computed for a whole batch on the data's device,
    from draws on the CPU that depend on (seed, epoch) alone. Images come in the channels_last layout.

    Args:
        data: N images.
        batch_size: From 1 to N.
        seed: At least 0.
        start: As for `shuffled_indices`.
        padding: Pixels on each side, at least 0.

    Raises:
        ValueError: As `shuffled_indices`, and for padding < 0.
    """
    _check(len(data.labels), batch_size, seed, start)
    if padding < 0:
        raise ValueError(f"padding must be >= 0, got {padding}; it is 4 for CIFAR-10")
    return _cropped(data, batch_size, seed, start, padding)


def _check(size: int, batch_size: int, seed: int, start: int) -> None:
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"batch_size must be in [1, {size}], the number of images, got {batch_size}; an epoch "
            f"has only whole batches"
        )
    if seed < 0 or start < 0:
        raise ValueError(f"seed and start must be >= 0, got {seed} and {start}; count from 0")


def _indices(size: int, batch_size: int, seed: int, start: int, device: torch.device | None) -> Iterator[Tensor]:
    for epoch, parts in _epochs(size, batch_size, start):
        order = _permutation(size, seed, epoch).to(device)
        yield from (order[part] for part in parts)


def _stacked_indices(
    size: int, batch_size: int, seeds: Sequence[int], start: int, device: torch.device | None
) -> Iterator[Tensor]:
    distinct = {seed: place for place, seed in enumerate(sorted(set(seeds)))}
    places = torch.tensor([distinct[seed] for seed in seeds], device=device)

    def orders(epoch: int) -> Tensor:
        return torch.stack([_permutation(size, seed, epoch) for seed in distinct])

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(orders, start // (size // batch_size))
        for epoch, parts in _epochs(size, batch_size, start):
            order = coming.result().to(device)[places]
            coming = thread.submit(orders, epoch + 1)
            yield from (order[:, part] for part in parts)


def _cropped(data: Images, batch_size: int, seed: int, start: int, padding: int) -> Iterator[tuple[Tensor, Tensor]]:
    (size, _, height, width), device = data.images.shape, data.images.device
    padded = F.pad(data.images, [padding] * 4).permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)
    for epoch, parts in _epochs(size, batch_size, start):
        order = _permutation(size, seed, epoch).to(device)
        generator = _generator(seed, epoch, 1)
        top, left = torch.randint(2 * padding + 1, (2, size, 1), generator=generator)
        flipped = torch.rand(size, 1, generator=generator) < 0.5
        # Computed at once for each place of each image of the epoch, so that a batch is one look-up.
        rows = (top + torch.arange(height)).to(device)
        columns = torch.arange(width).expand(size, width)
        columns = (left + torch.where(flipped, columns.flip(1), columns)).to(device)
        for part in parts:
            index = order[part]
            images = padded[index[:, None, None], rows[part, :, None], columns[part, None, :]]
            yield images.permute(0, 3, 1, 2), data.labels[index]


def _epochs(size: int, batch_size: int, start: int) -> Iterator[tuple[int, list[slice]]]:
    """Each epoch from that of batch number ``start`` on, and where the rest of its batches lie in its order."""
    per_epoch = size // batch_size
    epoch, first = divmod(start, per_epoch)
    while True:
        yield epoch, [slice(batch * batch_size, (batch + 1) * batch_size) for batch in range(first, per_epoch)]
        epoch, first = epoch + 1, 0


def _permutation(size: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=_generator(seed, epoch))


def _generator(seed: int, *key: int) -> torch.Generator:
    # torch's CPU generator reads only the low 32 bits of its seed, so the numbers are hashed into 32. Not
    # SeedSequence((seed, epoch)): there seed 1 + 2³² in epoch 0 is seed 1 in epoch 1.
    state = int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])
    return torch.Generator().manual_seed(state)


def ordered_batches(data: Images, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, in order: batches (images, labels) of ``batch_size``; the last one holds the rest.

    The batches are views of ``data``.

    Raises:
        ValueError: If batch_size < 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}; try 1000")
    return (
        (data.images[first : first + batch_size], data.labels[first : first + batch_size])
        for first in range(0, len(data.labels), batch_size)
    )
