"""Recomputing batch-norm statistics: those of the dense model do not fit the pruned one."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from openwork.core.forward import call_on_batch, check_batches, copied, inputs_of
from openwork.core.processes import in_all_processes, several
from openwork.core.sharded import is_sharded
from openwork.core.snapshot import snapshot


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Any]) -> int:
    """Replaces the running statistics of every BatchNorm in ``model`` by the plain means over the batches.

    Weights, momenta and training flags stay. Dropout and other layers act as in evaluation.

    Where DistributedDataParallel wraps the model or FSDP2 shards it, all processes must call this; the means are those
    over the batches of all, and equal in all. A forward that communicates, as under FSDP2 or with SyncBatchNorm, needs
    equally many batches in all. Of any other model a process has the means of its own batches.

    Args:
        model: The pruned model.
        batches: Batches as loaders give them, which are moved to the model's device. Of a tuple or list, such as
            (x, y), the model gets the first element; of a dict those entries that its forward takes, as keyword
            arguments; anything else as it is.

    Returns:
        The number of batches of this process.

    Raises:
        TypeError: If ``batches`` is one tensor or cannot be iterated, or a batch holds nothing that the model takes.
        ValueError: If the model has no BatchNorm that keeps statistics, there is no batch, or its statistics are not
            finite. Whatever raises leaves the model as it was.
        RuntimeError: If this fails in another process.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an nn.Module, got a {type(model).__name__}; the model comes first")
    norms = [module for module in model.modules() if _keeps_statistics(module)]
    if not norms:
        raise ValueError("the model has no BatchNorm with running statistics; there is nothing to do")
    restore = snapshot(model)
    training = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    place = _tensor(norms[0].running_mean).device
    sharded = any(is_sharded(parameter) for parameter in model.parameters())
    parallel = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    broadcasting = [module.broadcast_buffers for module in parallel]
    together = several() and (sharded or bool(parallel))  # one process alone may have a plain model, and others none
    try:
        for each in parallel:
            each.broadcast_buffers = False  # which would replace the statistics by those of the first process
        with in_all_processes("recalibrate_batchnorm", place, alone=sharded or not together):
            used = _take(model, norms, batches)
        if together:
            _average(norms, place)
        found = [(norm, name, b.clone()) for norm in norms for name, b in norm.named_buffers(recurse=False)]
        restore()  # what else forward passes move, such as counters
        for norm, name, value in found:
            norm.get_buffer(name).copy_(value)
    except BaseException:
        restore()
        raise
    finally:
        for each, flag in zip(parallel, broadcasting, strict=True):
            each.broadcast_buffers = flag
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, flag in training.items():
            module.training = flag
    return used


def _take(model: nn.Module, norms: Sequence[_BatchNorm], batches: Iterable[Any]) -> int:
    """Lets the batch norms take their statistics from this process's batches; returns their number."""
    check_batches(batches)
    used = 0
    model.eval()
    for batch in batches:
        if used == 0:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative mean
                norm.train()
        positional, named = copied(inputs_of(model, batch))  # a forward may write to its input, as to scale images
        call_on_batch(model, positional, named)
        used += 1
    if used == 0:
        raise ValueError("there is no batch to take statistics from; pass at least one batch of inputs")
    for name, norm in model.named_modules():
        means = (norm.running_mean, norm.running_var) if isinstance(norm, _BatchNorm) else ()
        if any(mean is not None and not mean.isfinite().all() for mean in means):
            raise ValueError(f"the batches make the statistics of {name} NaN or infinite; check their inputs")
    return used


def _average(norms: Sequence[_BatchNorm], place: torch.device) -> None:
    """Makes the statistics the means over the batches of all processes.

    Each counts as often as a norm has seen batches, which may be none where only some inputs reach it.
    """
    found = [(_tensor(n.running_mean), _tensor(n.running_var), _tensor(n.num_batches_tracked)) for n in norms]
    sums = [torch.cat([n[None].double(), n * mean.double(), n * var.double()]).to(place) for mean, var, n in found]
    total = torch.cat(sums)
    torch.distributed.all_reduce(total)
    parts = torch.split(total, [len(one) for one in sums])
    for norm, (mean, var, count), each in zip(norms, found, parts, strict=True):
        if each[0] > 0:
            means, variances = (each[1:] / each[0]).chunk(2)
            mean.copy_(means)
            var.copy_(variances)
        if not isinstance(norm, nn.SyncBatchNorm):  # which has seen the batches of all processes as one
            count.copy_(each[0])


def _tensor(value: Tensor | None) -> Tensor:
    assert value is not None  # of a norm that keeps statistics
    return value


def has_statistics(model: nn.Module) -> bool:
    """Whether a BatchNorm of the model keeps running statistics."""
    return any(_keeps_statistics(module) for module in model.modules())


def _keeps_statistics(module: nn.Module) -> TypeGuard[_BatchNorm]:
    return isinstance(module, _BatchNorm) and module.track_running_stats
