"""Recomputing batch-norm statistics: those of the dense model do not fit the pruned one."""

from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from openwork.core.forward import call_on_batch, check_batches, inputs_of
from openwork.core.snapshot import snapshot


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Any]) -> int:
    """Replaces the running statistics of every BatchNorm in ``model`` by the plain means over the batches.

    Weights, momenta and training flags stay. Dropout and other layers act as in evaluation.

    Args:
        model: The pruned model.
        batches: Batches as loaders give them, which are moved to the model's device. Of a tuple or list, such as
            (x, y), the model gets the first element; of a dict those entries that its forward takes, as keyword
            arguments; anything else as it is.

    Returns:
        The number of batches.

    Raises:
        TypeError: If ``batches`` is one tensor or cannot be iterated, or a batch holds nothing that the model takes.
        ValueError: If the model has no BatchNorm that keeps statistics, there is no batch, or its statistics are not
            finite. Whatever raises leaves the model as it was.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an nn.Module, got a {type(model).__name__}; the model comes first")
    check_batches(batches)
    norms = [module for module in model.modules() if _keeps_statistics(module)]
    if not norms:
        raise ValueError("the model has no BatchNorm with running statistics; there is nothing to do")
    used = 0
    restore = snapshot(model)
    training = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    try:
        model.eval()
        for batch in batches:
            if used == 0:
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # a cumulative mean
                    norm.train()
            positional, named = inputs_of(model, batch)
            call_on_batch(model, positional, named)
            used += 1
        if used == 0:
            raise ValueError("there is no batch to take statistics from; pass at least one batch of inputs")
        for name, norm in model.named_modules():
            means = (norm.running_mean, norm.running_var) if isinstance(norm, _BatchNorm) else ()
            if any(mean is not None and not mean.isfinite().all() for mean in means):
                raise ValueError(f"the batches make the statistics of {name} NaN or infinite; check their inputs")
    except BaseException:
        restore()
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, flag in training.items():
            module.training = flag
    return used


def has_statistics(model: nn.Module) -> bool:
    """Whether a BatchNorm of the model keeps running statistics."""
    return any(_keeps_statistics(module) for module in model.modules())


def _keeps_statistics(module: nn.Module) -> TypeGuard[_BatchNorm]:
    return isinstance(module, _BatchNorm) and module.track_running_stats
