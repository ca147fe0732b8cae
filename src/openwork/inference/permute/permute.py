"""`permute`, which puts a model's channels in an order in which n of m neighbours keep more."""

from typing import Any

from torch import nn

from openwork.core.chosen import check_model, choose_weights, refuse_inference_mode
from openwork.core.masks.rows import NM
from openwork.core.masks.technique import MaskTechnique
from openwork.core.mechanism import Calibrate
from openwork.core.seeding import check_seed
from openwork.core.selection import Selection, weight_matrices
from openwork.inference.permute.permuted import Permuted
from openwork.inference.shrink.check import check_finalized


def permute(
    model: nn.Module,
    example: Any,
    technique: MaskTechnique,
    *,
    select: Selection = weight_matrices,
    calibrate: Calibrate | None = None,
    seed: int = 0,
    seconds: float = 60.0,
) -> Permuted:
    """Reorders the channels of ``model``, in place, so that the technique's n:m masks keep more of its scores.

    Channels that the model's operations on the example treat alike may change places: the outputs of a layer together
    with the inputs of all layers that read them, and with the norms and biases between. What is added to each other,
    as in a residual stream, is one group of channels that many layers share; features of an attention head stay in
    their head. The model computes what it did, but for the order of its sums: its outputs for the example are compared,
    and channels whose order changes them are put back. Call it on a dense trained model, before `prune` or `sparsify`
    with the same technique, and before the optimizer.

    The order is the best that a search has found, never worse than the one before. It is the same for the same seed,
    unless time is over before the search is done.

    Args:
        model: A trained model.
        example: Its input: a tuple holds several arguments, a mapping keyword arguments.
        technique: The one that will prune, with an `NM` pattern:
            ``GradualMagnitude(OneShot(0.5), pattern=NM(2, 4))``.
        select: Which parameters will become sparse, as in `sparsify`.
        calibrate: As in `sparsify`, for a technique that looks at inputs or gradients.
        seed: The seed of the search.
        seconds: How long to search at most; reading the model and comparing its outputs comes on top.

    Returns:
        What the masks would keep before, and what they keep now; prints as a table.

    Raises:
        TypeError: If ``model`` is no module, or ``technique`` no mask technique.
        ValueError: If the pattern is no `NM`, the model is being sparsified, the example does not fit, or
            `torch.export` cannot follow the model. The model is then as it was.
    """
    check_model(model)
    seed = check_seed(seed)
    if not (isinstance(seconds, int | float) and seconds > 0):
        raise ValueError(f"seconds must be a number above 0, got {seconds!r}; 60 is the default")
    if not isinstance(technique, MaskTechnique):
        raise TypeError(
            "permute takes the technique that will prune, such as GradualMagnitude(OneShot(0.5), pattern=NM(2, 4)), "
            f"got {technique!r}"
        )
    if not isinstance(technique.pattern, NM):
        raise ValueError(
            f"an order of channels matters to n of m neighbours, got {technique}; give it pattern=NM(2, 4)"
        )
    refuse_inference_mode()
    check_finalized(model, "permute")
    weights, _ = technique.fitting(choose_weights(model, select)[0])
    from openwork.inference.permute.permuting import permuting  # not before it is called: 18 modules

    return permuting(model, example, technique, weights, calibrate, seed, seconds)
