"""How many runs the memory of a device holds as one model, whether one of them fills it, and which errors say so."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from openwork.study.fleet.lanes import LANES
from openwork.study.runs.live import Live
from openwork.study.tasks.parts import refuse_parts

COPIES = 8
"""A trained number is held as weight, gradient, two moments, mask and hidden value, and twice in passing."""
SHARE = 0.8
"""Of the free memory: the rest is for evaluation and for what the allocator cannot use."""
FULL = 64_000_000
"""Bytes that a step keeps for its gradient from which on one run is taken to fill a device: a guess, not measured."""


def bytes_of_a_run(live: Live) -> int:
    """The bytes that a run needs in a fleet, estimated from its tensors and from what one step keeps for its gradient.

    Args:
        live: The run at its beginning; its training mode, batch norms and random numbers stay as they are.
    """
    return _held(live) + 2 * _kept_by_a_step(live)


def fills_the_device(live: Live) -> bool:
    """Whether a step of one run like this keeps a device busy, so that runs are better computed in turn."""
    return _kept_by_a_step(live) >= FULL


def width(live: Live, wanted: int | None = None) -> int:
    """How many runs like this one fit the device.

    Args:
        live: The run at its beginning.
        wanted: How many are wanted, where the system does not say how much memory is free.

    Raises:
        ValueError: If it cannot hold one.
    """
    held, kept, free = _held(live), _kept_by_a_step(live), free_bytes(live.device)
    if free is None:
        if wanted is None:
            raise ValueError("this system does not say how much memory is free; give the number of runs, as --fleet 8")
        return wanted
    needed = held + 2 * kept
    fits = int(SHARE * free / needed)
    at_once = LANES if live.device.type == "cuda" else 1
    if kept >= FULL and fits >= at_once:  # no more than these compute a step side by side
        fits = int((SHARE * free - at_once * 2 * kept) / held)
    if fits < 1:
        raise ValueError(
            f"{live.run.task.title} needs about {needed / 1e6:,.0f} MB for a run and {live.device} has "
            f"{free / 1e6:,.0f} MB free; free some of it, or take another device"
        )
    return fits


def free_bytes(device: torch.device) -> int | None:
    """The memory of the device that nobody uses; None where the system does not say."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    system = Path("/proc/meminfo")
    for line in system.read_text().splitlines() if system.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def no_memory(error: Exception) -> bool:
    """Whether the memory was too small: torch has no class for that of a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _held(live: Live) -> int:
    return COPIES * sum(tensor.numel() * tensor.element_size() for tensor in live.model.parameters())


def _kept_by_a_step(live: Live) -> int:
    kept: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in live.model.state_dict().values()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output would hold what computed it, which holds the output

    # Of their attributes, too: a forward pass may count itself, or keep what it has computed.
    modules = [(vars(module), dict(vars(module))) for module in live.model.modules()]
    buffers = [buffer.clone() for buffer in live.model.buffers()]
    batches: Iterator[object] = live.run.task.batches(live.run.seed, 0, live.device)
    batch = next(batches)
    refuse_parts(batch, live.run.task.title)
    with torch.random.fork_rng([live.device] if live.device.type == "cuda" else []):
        live.model.train()
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            live.objective(batch)
    for attributes, before in modules:
        attributes.clear()
        attributes.update(before)
    if len([*live.model.buffers()]) != len(buffers):
        title = live.run.task.title
        raise ValueError(f"the model of {title} registers a buffer when it is first called; register it in __init__")
    with torch.no_grad():
        for buffer, value in zip(live.model.buffers(), buffers, strict=True):
            buffer.copy_(value)
    return sum(kept.values())
