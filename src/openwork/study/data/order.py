"""The order in which a large data set is read: shuffled, yet in long runs, and known without reading it.

Images that are cheap to read together (a row group of a parquet file, neighbours in a tar file) are a block. An epoch
puts the blocks into a random order, and the images within each block, too; this sequence is cut into equal streams,
from which a batch takes equal runs. So each stream reads one block after the other, all images meet others in every
epoch, and arithmetic finds the images of any batch.
"""

import math

import numpy as np
import numpy.typing as npt

STREAMS = 256  # at most: as many blocks are open at a time, about 11 MB each for ImageNet

Numbers = npt.NDArray[np.int64]


def batch_count(size: int, batch_size: int) -> int:
    """How many whole batches an epoch of ``size`` images has.

    Raises:
        ValueError: If there is none.
    """
    if not 1 <= batch_size <= size:
        raise ValueError(f"batch_size must be in [1, {size}], the number of images, got {batch_size}")
    return size // batch_size


def streams(batch_size: int) -> int:
    """The largest divisor of batch_size that is at most `STREAMS`."""
    return next(number for number in range(min(batch_size, STREAMS), 0, -1) if batch_size % number == 0)


def epoch_order(blocks: Numbers, batch_size: int, *, seed: int, epoch: int) -> Numbers:
    """The numbers of the images of each batch of an epoch, (batches, batch_size), from (seed, epoch) alone.

    Images that fill no batch are left out, other ones in each epoch. Neighbours in a batch come from one stream.

    Args:
        blocks: How many images each block has; images are numbered through them.
        batch_size: Images of a batch.
        seed: Together with the epoch, determines the order.
        epoch: From 0.

    Raises:
        ValueError: If the images fill no batch.
    """
    steps = batch_count(int(blocks.sum()), batch_size)
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, 0)))
    place = np.empty(len(blocks), dtype=np.int64)
    place[random.permutation(len(blocks))] = np.arange(len(blocks))
    order = np.lexsort((random.random(int(blocks.sum())), np.repeat(place, blocks)))
    count = streams(batch_size)
    runs = order[: steps * batch_size].reshape(count, steps, batch_size // count)
    return np.ascontiguousarray(runs.transpose(1, 0, 2).reshape(steps, batch_size))


def image_random(seed: int, epoch: int, number: int) -> np.random.Generator:
    """The generator of one image in one epoch; the same whichever process reads it."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch, 1, number))))


def share(size: int, rank: int, processes: int) -> tuple[int, int]:
    """The first and the last + 1 of the images that process ``rank`` evaluates: each image in exactly one process."""
    return math.floor(size * rank / processes), math.floor(size * (rank + 1) / processes)
