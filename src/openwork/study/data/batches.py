"""Batches of a data set that is whole in memory: shuffled without end for training, in order for evaluation."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from openwork.study.data.images import Images

_DRAWERS = 4
"""Threads that draw permutations for many runs."""


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

    Other threads draw the permutations of an epoch during the one before.

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

    def draw(seed: int, epoch: int) -> tuple[Tensor]:
        return (_permutation(size, seed, epoch).int(),)  # half as much to send to a device

    return (index.long() for (index,) in _stacked(draw, size, batch_size, seeds, start, device))


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
    _check_padding(padding)
    return _cropped(data, batch_size, seed, start, padding)


class Crops(NamedTuple):
    """The images of batches, by their numbers, and what is seen of each; tensors (..., batch_size)."""

    number: Tensor
    top: Tensor
    left: Tensor
    flipped: Tensor


def stacked_crops(
    size: int,
    batch_size: int,
    *,
    seeds: Sequence[int],
    start: int = 0,
    device: torch.device | None = None,
    padding: int = 4,
) -> Iterator[Crops]:
    """What `cropped_batches` shows for each of the seeds, at once: endless `Crops`, (seeds, batch_size), for `cut`.

    Args:
        size: The number of images.
        batch_size: From 1 to size.
        seeds: At least 0 each.
        start: As for `shuffled_indices`.
        device: Where the tensors are, by default the CPU.
        padding: As for `cropped_batches`.

    Raises:
        ValueError: As `cropped_batches`.
    """
    for seed in seeds:
        _check(size, batch_size, seed, start)
    _check_padding(padding)

    def draw(seed: int, epoch: int) -> Crops:
        return _crops(size, seed, epoch, padding)

    return (Crops(*parts) for parts in _stacked(draw, size, batch_size, seeds, start, device))


def padded(images: Tensor, padding: int = 4) -> Tensor:
    """The images (N, C, H, W) with zeros on all four sides and channels last, (N, H', W', C), as `cut` takes them."""
    return F.pad(images, [padding] * 4).permute(0, 2, 3, 1).contiguous()


def cut(images: Tensor, crops: Crops, height: int, width: int) -> Tensor:
    """The crops, (..., batch_size, C, height, width), channels last in memory.

    Args:
        images: What `padded` returns.
        crops: Of these images.
        height: Of a crop.
        width: Of a crop.
    """
    index, top, left, flipped = (each.unsqueeze(-1) for each in crops)
    rows = top + torch.arange(height, device=top.device)
    columns = torch.arange(width, device=top.device)
    columns = left + torch.where(flipped, columns.flip(0), columns)
    return images[index.unsqueeze(-1), rows.unsqueeze(-1), columns.unsqueeze(-2)].movedim(-1, -3)


def _check_padding(padding: int) -> None:
    if padding < 0:
        raise ValueError(f"padding must be >= 0, got {padding}; it is 4 for CIFAR-10")


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


def _stacked(
    draw: Callable[[int, int], tuple[Tensor, ...]],
    size: int,
    batch_size: int,
    seeds: Sequence[int],
    start: int,
    device: torch.device | None,
) -> Iterator[tuple[Tensor, ...]]:
    """What ``draw`` gives for each seed and epoch, (size,) each, in batches (seeds, batch_size)."""
    distinct = {seed: place for place, seed in enumerate(sorted(set(seeds)))}
    places = torch.tensor([distinct[seed] for seed in seeds], device=device)
    on_gpu = device is not None and device.type == "cuda"

    def drawn(epoch: int) -> list[Tensor]:
        each = zip(*pool.map(draw, distinct, repeat(epoch)), strict=True)
        return [torch.stack(tensors, out=_whole(tensors, pinned=on_gpu)) for tensors in each]

    with ThreadPoolExecutor(_DRAWERS) as pool, ThreadPoolExecutor(1) as thread:
        coming = thread.submit(drawn, start // (size // batch_size))
        for epoch, parts in _epochs(size, batch_size, start):
            whole = [each.to(device, non_blocking=on_gpu)[places] for each in coming.result()]
            coming = thread.submit(drawn, epoch + 1)
            yield from (tuple(each[:, part] for each in whole) for part in parts)


def _whole(tensors: Sequence[Tensor], *, pinned: bool) -> Tensor:
    """Where to stack the tensors: a GPU reads pinned memory many times as fast, and nobody waits for it."""
    first = tensors[0]
    return torch.empty(len(tensors), *first.shape, dtype=first.dtype, pin_memory=pinned)


def _crops(size: int, seed: int, epoch: int, padding: int) -> Crops:
    generator = _generator(seed, epoch, 1)
    top, left = torch.randint(2 * padding + 1, (2, size, 1), generator=generator).squeeze(-1)
    return Crops(_permutation(size, seed, epoch), top, left, torch.rand(size, 1, generator=generator).squeeze(-1) < 0.5)


def _cropped(data: Images, batch_size: int, seed: int, start: int, padding: int) -> Iterator[tuple[Tensor, Tensor]]:
    (size, _, height, width), device = data.images.shape, data.images.device
    images = padded(data.images, padding)
    for epoch, parts in _epochs(size, batch_size, start):
        order, top, left, flipped = _crops(size, seed, epoch, padding)
        order = order.to(device)
        # Computed at once for each place of each image of the epoch, so that a batch is one look-up.
        rows = (top[:, None] + torch.arange(height)).to(device)
        columns = torch.arange(width).expand(size, width)
        columns = (left[:, None] + torch.where(flipped[:, None], columns.flip(1), columns)).to(device)
        for part in parts:
            index = order[part]
            batch = images[index[:, None, None], rows[part, :, None], columns[part, None, :]]
            yield batch.permute(0, 3, 1, 2), data.labels[index]


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
