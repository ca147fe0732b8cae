"""`permute`, which puts a model's channels in an order in which n of m neighbours keep more."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.chosen import check_model, choose_weights
from openwork.core.masks.first_scores import first_scores
from openwork.core.masks.rows import NM
from openwork.core.masks.technique import MaskTechnique
from openwork.core.mechanism import Calibrate
from openwork.core.seeding import check_seed, seeded_generator
from openwork.core.selection import Selection, weight_matrices
from openwork.core.snapshot import snapshot
from openwork.inference.models import difference
from openwork.inference.permute.permuted import Permuted
from openwork.inference.permute.rearrange import Rearrangement
from openwork.inference.permute.rules import follow
from openwork.inference.shrink.check import check_finalized
from openwork.inference.shrink.trace import outputs, trace


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
    check_finalized(model, "permute")
    weights, _ = technique.fitting(choose_weights(model, select)[0])
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    with _evaluating(model):
        expected = outputs(model, example)
        traced = trace(model, example, "permute").with_one_name(tensors)
    scores = first_scores(technique, model, weights, seed=seed, calibrate=calibrate)
    found = Rearrangement(follow(traced, tensors), weights, scores, technique.pattern)
    complete = found.search(time.monotonic() + seconds, seeded_generator(seed, 0, "permute"))
    far = _take(model, example, found, expected)
    unread = [name for name, parameter in model.named_parameters() if name not in found.order.axes]
    return found.report(far, complete=complete, unread=unread)


def _take(model: nn.Module, example: Any, found: Rearrangement, expected: list[Tensor]) -> float:
    """Puts the channels in their new order, as far as outputs stay the same; returns how much they differ.

    Code may count on an order in ways that the operations do not show, as by a value that it read from a weight before.
    Then each group of channels is tried alone.
    """

    def differ(cells: list[int]) -> float | None:
        """How much outputs differ with these in their new order, where they stay; None where too much."""
        found.turn(cells)
        try:
            with _evaluating(model):
                far, problem = difference(expected, outputs(model, example))
        except BaseException:
            found.turn(cells, back=True)
            raise
        if problem:
            found.turn(cells, back=True)
        return None if problem else far

    far = differ(found.changed)
    if far is None:
        right = []
        for cell in found.changed:
            if differ([cell]) is not None:
                found.turn([cell], back=True)
                right.append(cell)
        found.forget(set(found.changed) - set(right))
        far = differ(right)
    if far is None:
        found.forget(set(found.changed))
    return far or 0.0


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode; buffers, training flags and torch's generators are afterwards as they were."""
    restore = snapshot(model)
    model.eval()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        restore()
