"""How much each layer bears: the metric with one layer pruned by magnitude, and all others dense."""

from collections.abc import Callable, Iterable, Sequence
from numbers import Real

import torch
from torch import Tensor, nn

from openwork.core.chosen import check_model, choose_weights
from openwork.core.evaluated import Evaluate, check_evaluate, metric_of
from openwork.core.masks.scan import Sensitivity, SensitivityRow
from openwork.core.masks.threshold import keep_count, keep_largest
from openwork.core.precision import exact
from openwork.core.seeding import check_seed, seeded_generator
from openwork.core.selection import Selection, weight_matrices
from openwork.core.snapshot import snapshot


def sensitivity(
    model: nn.Module,
    evaluate: Evaluate,
    sparsities: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
    *,
    lower_is_better: bool = False,
    select: Selection = weight_matrices,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Sensitivity:
    """Measures how much each layer bears: prunes one at a time, by magnitude, at each sparsity.

    The model is afterwards as it was, bit for bit, also where this raises.

    Args:
        model: A trained model.
        evaluate: model -> metric; called once for each layer and sparsity, and once for the dense model.
        sparsities: In [0, 1).
        lower_is_better: Whether the metric is a loss or a perplexity.
        select: Which weights are pruned.
        seed: Of draws between weights of equal magnitude.
        progress: Called with a line of text after each layer, such as ``print``.

    Returns:
        The metrics, from which `Sensitivity.allocation` makes sparsities for the layers.

    Raises:
        TypeError: If ``evaluate`` is no function, or returns no number.
        ValueError: If a sparsity is outside [0, 1), nothing is selected, or the dense model's metric is not finite.
    """
    check_model(model)
    check_evaluate(evaluate)
    seed = check_seed(seed)
    asked = sorted({_number(each) for each in _several(sparsities)})
    if not asked or not all(0 <= sparsity < 1 for sparsity in asked):
        percentages = any(sparsity >= 1 for sparsity in asked)
        cure = "did you pass percentages?" if percentages else "pass a list of fractions such as [0.5, 0.9]"
        raise ValueError(f"sparsities must be some in [0, 1), got {sparsities!r}; {cure}")
    # Under inference mode torch lets weights that were made in it be changed.
    weights = choose_weights(model, select, changes=not torch.is_inference_mode_enabled())[0]
    restore = snapshot(model)
    rows: list[SensitivityRow] = []

    def measured() -> float:
        try:
            return metric_of(evaluate, model)
        finally:
            restore()  # what evaluate moves, such as statistics of batch norms, is not the next layer's

    dense = measured()
    for number, weight in enumerate(weights, 1):
        parameter = weight.parameter.detach()
        kept = parameter.clone()
        scores, size = exact(kept).abs(), kept.numel()
        try:
            for sparsity in asked:
                ties = seeded_generator(seed, 0, f"{weight.name}/ties")
                mask = keep_largest(scores, keep_count(size, sparsity), ties)
                parameter.copy_(torch.where(mask, kept, 0))
                rows.append(SensitivityRow(weight.name, size, sparsity, measured()))
        finally:
            parameter.copy_(kept)
        if progress is not None:
            progress(f"{number} of {len(weights)}: {weight.name}, {rows[-1].metric:.4g} at {asked[-1]}")
    return Sensitivity(dense, tuple(rows), lower_is_better)


def _several(values: object) -> list[object]:
    """The values; none where this is one, such as a text or an array without axes, over which nothing goes."""
    one = isinstance(values, str | bytes) or getattr(values, "ndim", 1) == 0
    return [*values] if isinstance(values, Iterable) and not one else []


def _number(value: object) -> float:
    """The number; -1 where it is none."""
    return float(value) if isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1) else -1.0
