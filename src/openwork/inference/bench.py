"""Dense beside sparse for several batch sizes, of a model or of the matrices of a file."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from openwork.inference.accelerate import accelerate
from openwork.inference.accelerated import Accelerated

Phase = Literal["", "prefill", "decode"]
"""Of language models: "prefill" reads all tokens of a text at once, "decode" one token of each; "" for other models."""


@dataclass(frozen=True)
class Measured:
    """What one batch size gave.

    Args:
        phase: See `Phase`.
        batch: How many examples, or texts, at once.
        accelerated: The model and its times.
    """

    phase: Phase
    batch: int
    accelerated: Accelerated

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"phase": self.phase, "batch": self.batch, **self.accelerated.to_dict()}


def bench_model(
    model: nn.Module, sample: Any, batches: Sequence[int], *, rounds: int = 20, graph: bool = False
) -> list[Measured]:
    """The whole model, dense beside accelerated.

    Args:
        model: A finalized model.
        sample: One example as its input, as `accelerate` takes it. The first axis of size 1 of each tensor is the
            batch. Where all tensors hold whole numbers, as the ids of tokens, the last axis is the text.
        batches: How many examples at once.
        rounds: As in `accelerate`.
        graph: As in `accelerate`.

    Raises:
        ValueError: If a tensor of the sample has no axis of size 1. Whatever `accelerate` raises.
    """
    tensors = [leaf for leaf in tree_leaves(sample) if isinstance(leaf, Tensor)]
    for tensor in tensors:
        if 1 not in tensor.shape:
            raise ValueError(
                f"a sample for several batch sizes must hold one example, with an axis of size 1 for the batch, got "
                f"the shape {tuple(tensor.shape)}; give model inputs with batch 1"
            )
    is_text = bool(tensors) and all(not t.is_floating_point() and t.dim() > 1 and t.shape[-1] > 1 for t in tensors)
    phases: tuple[Phase, ...] = ("prefill", "decode") if is_text else ("",)
    found = []
    for phase in phases:
        one = _on_tensors(sample, lambda tensor: tensor[..., :1]) if phase == "decode" else sample
        for batch in batches:
            several = _on_tensors(one, partial(_repeated, count=batch))
            found.append(Measured(phase, batch, accelerate(model, several, rounds=rounds, graph=graph)))
    return found


def bench_weights(
    weights: Mapping[str, Tensor], batches: Sequence[int], *, tokens: int, rounds: int = 20, graph: bool = False
) -> list[Measured]:
    """Each matrix by itself, as an `nn.Linear` without bias, where there is no model to run.

    Args:
        weights: Matrices (out, in) by name.
        batches: How many texts at once.
        tokens: Of a text, for prefill; decode has one.
        rounds: As in `accelerate`.
        graph: As in `accelerate`.
    """
    model, names = _EachAlone(weights.values()), list(weights)
    generator = torch.Generator().manual_seed(0)
    found = []
    for phase, length in _LENGTHS.items():
        for batch in batches:
            rows = batch * (length or tokens)
            inputs = {
                _kind(weight): torch.randn(rows, weight.shape[1], generator=generator, device="cpu").to(weight)
                for weight in weights.values()
            }
            measured = accelerate(model, (inputs,), rounds=rounds, graph=graph)
            layers = [replace(layer, name=name) for layer, name in zip(measured.layers, names, strict=True)]
            found.append(Measured(phase, batch, replace(measured, layers=tuple(layers))))
    return found


_LENGTHS: dict[Phase, int | None] = {"decode": 1, "prefill": None}


class _EachAlone(nn.Module):
    """Linear layers that do not feed each other: each gets an input of its own width and dtype."""

    def __init__(self, weights: Collection[Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for weight in weights:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            layer.weight = nn.Parameter(weight, requires_grad=False)
            self.layers.append(layer)
        self.kinds = [_kind(weight) for weight in weights]

    def forward(self, inputs: dict[tuple[int, torch.dtype], Tensor]) -> list[Tensor]:
        """The output of each for the input of its kind."""
        return [layer(inputs[kind]) for layer, kind in zip(self.layers, self.kinds, strict=True)]


def _kind(weight: Tensor) -> tuple[int, torch.dtype]:
    return weight.shape[1], weight.dtype


def _repeated(tensor: Tensor, count: int) -> Tensor:
    return tensor.repeat_interleave(count, tensor.shape.index(1))


def _on_tensors(sample: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, sample)
