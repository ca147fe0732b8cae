"""What `sparsify` chose from a model: checked, described in a line, and logged."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from openwork.core.converted import refuse_converted
from openwork.core.names import few
from openwork.core.selection import Selection, Weight, find_weights
from openwork.core.technique import Technique
from openwork.words import count

logger = logging.getLogger("openwork")


def check_model(model: object) -> nn.Module:
    """``model`` itself.

    Raises:
        TypeError: If it is no module, is scripted, or is a wrapper around the model.
    """
    if isinstance(model, Technique):
        raise TypeError(f"expected a model, got {model!r}; the model comes first and the technique second")
    if isinstance(model, type):
        raise TypeError(f"expected a model, got the class {model.__name__}; pass an instance of it")
    if not isinstance(model, nn.Module):
        what = "a state dict" if isinstance(model, Mapping) else f"a {type(model).__name__}"
        raise TypeError(f"expected an nn.Module, got {what}; load the weights into their model and pass that")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "a scripted module runs compiled code that no technique can follow; pass the nn.Module that was scripted"
        )
    inner = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
    kind = type(model).__name__
    if kind in inner and isinstance(getattr(model, inner[kind], None), nn.Module):
        raise TypeError(f"{kind} wraps the model, which must be sparsified before; pass model.{inner[kind]}")
    return model


def refuse_inference_mode() -> None:
    """Raises ValueError where torch makes tensors that nobody can change afterwards, as masks would be."""
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "under torch.inference_mode() torch makes tensors that nobody can change afterwards, masks too; leave it "
            "first, or use torch.no_grad()"
        )


def choose_weights(model: nn.Module, select: Selection, *, changes: bool = True) -> tuple[list[Weight], dict[str, str]]:
    """What `find_weights` returns, where all selected weights have values.

    Args:
        model: The model.
        select: Which parameters are selected.
        changes: Whether they are to be changed.

    Raises:
        TypeError: If ``select`` is of another kind.
        ValueError: If the model is accelerated, nothing is selected, a selected weight has no values yet, or they
            cannot be changed.
    """
    refuse_converted(model)
    weights, skipped = find_weights(model, select)
    for weight in weights:
        if weight.parameter.is_meta:
            raise ValueError(
                f"{weight.name} is on the meta device and has no values; load the weights, or call to_empty and "
                "initialise them, first"
            )
        if changes and weight.parameter.is_inference():
            raise ValueError(
                f"{weight.name} was made under torch.inference_mode(), and torch lets nobody change it; pass "
                "copy.deepcopy(model), which is made outside of it"
            )
    return weights, skipped


def summary(weights: Sequence[Weight], skipped: Mapping[str, str]) -> str:
    """How many weights were selected and left out, in a line, with the first names of each."""
    numbers = sum(weight.parameter.numel() for weight in weights)
    skipped_too = f", {len(skipped)} skipped" if skipped else ""
    left_out = f"; left out {few(skipped)}" if skipped else ""
    names = few([weight.name for weight in weights])
    return f"{count(len(weights), 'tensor')}{skipped_too}, {count(numbers, 'weight')}: {names}{left_out}"


def log_choice(technique: Technique, weights: Sequence[Weight], skipped: Mapping[str, str]) -> None:
    """Logs what was selected and what was left out, with the reasons."""
    if not logger.isEnabledFor(logging.INFO):
        return
    tensors = count(len(weights), "tensor")
    numbers = count(sum(weight.parameter.numel() for weight in weights), "weight")
    logger.info("%s: selected %s with %s: %s", technique, tensors, numbers, ", ".join(one.name for one in weights))
    for name, reason in skipped.items():
        logger.info("left out %s: %s", name, reason)
