"""One-shot pruning of a trained model, with what it costs measured before and after."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from openwork.core.batchnorm import recalibrate_batchnorm
from openwork.core.masks.technique import MaskTechnique
from openwork.core.selection import Select, weight_matrices
from openwork.core.sparsifier import sparsify


@dataclass(frozen=True)
class Pruned:
    """What `prune` did to a model: the sparsity of the selected weights, 0-1, and the metric around it."""

    sparsity: float
    before: float
    after: float
    recalibrated: float | None
    """The metric once the batch-norm statistics are those of the pruned model; None where that was not asked for."""

    def __str__(self) -> str:
        last = "" if self.recalibrated is None else f", {self.recalibrated:.4f} with recalibrated batch norms"
        return f"{self.sparsity:.2%} sparsity: {self.before:.4f} before, {self.after:.4f} after{last}"


def prune(
    model: nn.Module,
    technique: MaskTechnique,
    evaluate: Callable[[nn.Module], float],
    *,
    batches: Iterable[Tensor] | None = None,
    select: Select = weight_matrices,
    seed: int = 0,
) -> Pruned:
    """The metric before and after pruning ``model``, in place and once, to the technique's final sparsity.

    technique: one that prunes before training, such as ``GradualMagnitude(OneShot(0.8))``. evaluate: model -> metric;
    it sets the evaluation mode that it needs. batches: inputs for `recalibrate_batchnorm`. Raises ValueError for a
    schedule that prunes later, before anything is changed, and whatever `sparsify` raises.
    """
    schedule = technique.schedule
    if not schedule.due(0) or schedule(0) != schedule.final or schedule.final == 0:
        raise ValueError(f"{schedule} does not reach a sparsity at once; use OneShot(sparsity)")
    before = evaluate(model)
    sparsifier = sparsify(model, technique, select=select, seed=seed)
    sparsity = sparsifier.sparsity()
    sparsifier.finalize()
    after = evaluate(model)
    if batches is None:
        return Pruned(sparsity, before, after, None)
    recalibrate_batchnorm(model, batches)
    return Pruned(sparsity, before, after, evaluate(model))
