"""Layers whose outputs no longer depend on the model's input: empty ones, and those that read only dead features."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.activation import __all__ as activations
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.pooling import __all__ as pools

from openwork.core.numbers import not_numbers
from openwork.core.sharded import beside, gathered

# These compute each feature from itself. Attention and the softmaxes, which mix features, are among the activations.
_MIXING = {"MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax", "GLU"}
_FEATUREWISE = (
    *(getattr(nn, name) for name in [*activations, *pools] if name not in _MIXING),
    *(_BatchNorm, _DropoutNd, nn.Identity, nn.Flatten),
)


def empty_layer(name: str, cure: str) -> str:
    """What to say of a layer that keeps no weight.

    Args:
        name: The weight's name.
        cure: What to do, besides leaving the layer out.
    """
    return (
        f"{name} keeps no weight, so its outputs do not depend on its inputs; {cure}, or leave it out with "
        f"select=excluding({name!r})"
    )


def dead_paths(model: nn.Module, masks: Callable[[], Mapping[str, Tensor]]) -> list[str]:
    """What to say of each layer that keeps weights only for features that do not depend on the model's input.

    Only an `nn.Sequential` says in which order its layers run, so paths through other modules are not known.

    Args:
        model: The model.
        masks: Computes where the selected weights are not zero, by name: bool. Not called where no order is known.
    """
    chains = [list(_layers(module, f"{name}." if name else "")) for name, module in model.named_modules()]
    kept = masks() if any(chains) else {}
    found: dict[str, None] = {}
    for chain in chains:
        alive: Tensor | None = None  # which features depend on the input; None where all may
        for name, layer in chain:
            if not isinstance(layer, nn.Linear | _ConvNd):
                alive = alive if isinstance(layer, _FEATUREWISE) else None
                continue
            mask = _mask(layer, kept.get(f"{name}.weight"))
            if mask is None:
                alive = None
                continue
            reads = _reads(layer, mask)
            live = reads if alive is None else _live(reads, alive)
            if live is not reads and reads.any() and not live.any():
                found[
                    f"{name}.weight keeps weights only for inputs that the layers before it cut off, so its outputs do "
                    "not depend on the model's input; give these layers less sparsity"
                ] = None
            alive = gathered(live.any(2).flatten())  # the next layer may not be sharded, or be gathered at this moment
            alive = alive if alive.any() else None  # one sentence for each path
    return list(found)


def _layers(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a Sequential in their order, those of Sequentials inside it among them; none of other modules."""
    if type(module).forward is nn.Sequential.forward:
        for name, child in module._modules.items():
            inner = list(_layers(child, f"{prefix}{name}.")) if child is not None else []
            yield from inner or [(f"{prefix}{name}", child)] if child is not None else []


def _mask(layer: nn.Linear | _ConvNd, mask: Tensor | None) -> Tensor | None:
    """Where the layer's weight may be other than zero: all of one that is not selected; None where it holds codes."""
    if mask is not None:
        return mask
    parameter = layer._parameters.get("weight")  # reading a random weight would draw noise
    if parameter is not None and not_numbers(parameter):
        return None
    return torch.ones_like(layer.weight if parameter is None else parameter, dtype=torch.bool)


def _reads(layer: nn.Linear | _ConvNd, mask: Tensor) -> Tensor:
    """Whether an output of a group keeps a weight for an input of the group: (groups, outputs, inputs)."""
    flat = mask.flatten(2).any(2) if mask.dim() > 2 else mask
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    by_group = flat.view(groups, len(flat) // groups, flat.shape[1])
    return by_group.transpose(1, 2) if isinstance(layer, _ConvTransposeNd) else by_group


def _live(reads: Tensor, alive: Tensor) -> Tensor:
    """``reads``, but only of inputs that are alive; itself where it is not known which inputs these are."""
    groups, _, each = reads.shape
    inputs = groups * each
    if not inputs or inputs % len(alive):
        return reads
    live = alive.repeat_interleave(inputs // len(alive))  # Flatten gives each channel several features
    return reads & beside(live.view(groups, 1, each), reads)
