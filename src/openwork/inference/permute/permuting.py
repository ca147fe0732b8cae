"""The work of `permute`: a better order of channels, searched, put in force, and taken back where outputs change."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from openwork.core.masks.first_scores import first_scores
from openwork.core.masks.rows import NM
from openwork.core.masks.technique import MaskTechnique
from openwork.core.mechanism import Calibrate
from openwork.core.seeding import seeded_generator
from openwork.core.selection import Weight
from openwork.core.snapshot import same_generators, snapshot
from openwork.inference.models import difference
from openwork.inference.permute.permuted import Permuted
from openwork.inference.permute.rearrange import Rearrangement
from openwork.inference.permute.rules import follow
from openwork.inference.shrink.trace import outputs, trace


def permuting(
    model: nn.Module,
    example: Any,
    technique: MaskTechnique,
    weights: Sequence[Weight],
    calibrate: Calibrate | None,
    seed: int,
    seconds: float,
) -> Permuted:
    """Does what `permute` says, which has checked all but the example.

    Args:
        model: The model.
        example: Its input.
        technique: Whose pattern is an `NM`.
        weights: Those that will have the pattern.
        calibrate: For the technique's scores.
        seed: Of the search.
        seconds: How long it may take.

    Raises:
        ValueError: If the example does not fit, or `torch.export` cannot follow the model.
    """
    pattern = technique.pattern
    assert isinstance(pattern, NM)
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    with _evaluating(model):
        expected = outputs(model, example)
        traced = trace(model, example, "permute").with_one_name(tensors)
    scores = first_scores(technique, model, weights, seed=seed, calibrate=calibrate)
    found = Rearrangement(follow(traced, tensors), weights, scores, pattern)
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
        with same_generators(model):
            yield
    finally:
        restore()
