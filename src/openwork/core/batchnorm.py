"""Recomputing batch-norm statistics: those of the dense model do not fit the pruned one."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from openwork.core.snapshot import snapshot


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replaces the running statistics of every BatchNorm in ``model`` by the plain means over the batches.

    Weights, momenta and training flags stay. Dropout and other layers act as in evaluation.

    Args:
        model: The pruned model.
        batches: Inputs, each of which is passed as ``model(batch)``.

    Returns:
        The number of batches.

    Raises:
        ValueError: If the model has no BatchNorm that keeps statistics, there is no batch, or its statistics are not
            finite. Whatever raises leaves the model as it was.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
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
            model(batch)
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
