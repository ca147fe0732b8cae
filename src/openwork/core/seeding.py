"""Random numbers that depend on a seed, a step and a name alone."""

import hashlib
from operator import index

import torch
from torch import Tensor

from openwork.core.sharded import rows_like, shard_like


def check_seed(seed: object) -> int:
    """``seed`` itself, as an int.

    Raises:
        TypeError: If it is no whole number.
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"seed must be a whole number, got {seed!r}")
    return index(seed)


def seeded_generator(seed: int, step: int, name: str) -> torch.Generator:
    """A CPU generator that depends on (seed, step, name) alone: the same on every rank, device and after a restart.

    A task of yours draws a batch with it, so that a run that was stopped goes on with the batches that it would have
    had. Other names, steps or seeds give independent numbers.

    Args:
        seed: The run's, or any other whole number, such as -1 for test data that no run sees.
        step: The step that something is drawn for, or 0 for what is drawn once.
        name: What is drawn, such as ``"batch"``.

    Returns:
        A new generator at its beginning.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def uniform_like(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in [0, 1), of ``weight``'s shape and sharding; drawn as a whole on the CPU, so the same everywhere."""
    rows = rows_like(torch.rand(weight.shape, generator=generator, dtype=torch.float32, device="cpu"), weight)
    if weight.device.type == "cuda":  # from other memory the copy would wait for the device
        rows = rows.pin_memory()
    return shard_like(rows.to(weight.device, non_blocking=True), weight)
