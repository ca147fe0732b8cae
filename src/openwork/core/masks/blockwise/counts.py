"""How many weights each tensor keeps when the model as a whole is to reach a sparsity: found before the first block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from openwork.core.masks.allocations import Allocation
from openwork.core.masks.blockwise.blocks import Block
from openwork.core.masks.blockwise.examples import Example
from openwork.core.masks.blockwise.walk import Run, walk
from openwork.core.masks.blockwise.watched import show_unused, watching
from openwork.core.masks.calibrate import gather
from openwork.core.masks.listening import Listening
from openwork.core.masks.ranked import scored, shapes_like
from openwork.core.masks.technique import MaskTechnique
from openwork.core.masks.update import count
from openwork.core.masks.weight import MaskedWeight


@dataclass(frozen=True)
class Counts(Allocation):
    """Counts that another allocation has found for the whole model.

    Args:
        counts: How many weights each tensor keeps, by name.
    """

    needs_scores: ClassVar[bool] = False

    counts: Mapping[str, int]

    def __call__(
        self, scores: Mapping[str, Tensor], sparsity: float, final: float, groups: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Those of these tensors."""
        return {name: self.counts[name] for name in scores}


def with_counts(technique: MaskTechnique, counts: Mapping[str, int] | None) -> MaskTechnique:
    """The technique with these counts in the place of its allocation; itself where there are none."""
    return technique if counts is None else replace(technique, allocation=Counts(counts))


def find_counts(
    technique: MaskTechnique,
    model: torch.nn.Module,
    blocks: Sequence[Block],
    examples: Sequence[Example],
    *,
    seed: int,
    keep_zeros: bool,
    device: torch.device | None,
) -> dict[str, int] | None:
    """The counts that the technique's allocation finds for the whole model; None where it looks at one weight alone.

    Where the allocation needs scores and these need inputs, the dense model's, in a walk of their own.
    """
    if not technique.criterion.allocates or technique.allocation.same_sparsity:
        return None
    weights = [MaskedWeight(weight, keep_zeros=keep_zeros) for block in blocks for weight in block.weights]
    like: Mapping[str, Tensor] = shapes_like(technique, weights, [weight.parameter.detach() for weight in weights])
    if technique.allocation.needs_scores:
        like = _scores(technique, model, blocks, examples, seed=seed, keep_zeros=keep_zeros, device=device)
        like = {weight.name: like[weight.name] for weight in weights}
    return count(technique, like)


def _scores(
    technique: MaskTechnique,
    model: torch.nn.Module,
    blocks: Sequence[Block],
    examples: Sequence[Example],
    *,
    seed: int,
    keep_zeros: bool,
    device: torch.device | None,
) -> dict[str, Tensor]:
    """The scores of all weights in the dense model, by name, on the CPU."""
    found: dict[str, Tensor] = {}

    def visit(block: Block, run: Run) -> None:
        weights = [MaskedWeight(weight, keep_zeros=keep_zeros) for weight in block.weights]
        Listening(technique, weights).begin()
        if technique.evidence.inputs:
            with watching(block.weights) as seen:

                def calibrate(model: torch.nn.Module) -> None:
                    run(model)
                    show_unused(block.weights, seen)

                gather(technique.evidence, weights, model, calibrate)
        for weight in weights:
            (scores,) = scored(technique, [(weight, weight.view(step=0, seed=seed))])
            found[weight.name] = scores.cpu()

    walk(model, blocks, examples, visit, device)
    return found
