"""Iterative magnitude pruning: train, prune a fraction of what is left, go back in the training, and repeat.

Frankle & Carbin 2018, arXiv 1803.03635; rewinding to a later step than the first: Frankle et al. 2019, 1912.05671;
rewinding the learning rate: Renda, Frankle & Carbin 2020, 2003.02389.
"""

from dataclasses import replace
from typing import Literal

from openwork.study.runs.origin import LotteryTicket, Origin, Retrained, Rewound
from openwork.study.runs.run import Run


def iterative_pruning(
    dense: Run,
    count: int,
    *,
    step: int = 0,
    rewind: Literal["weights", "learning rate"] = "weights",
    fraction: float = 0.2,
) -> list[Run]:
    """The dense run, and a run for each round, which needs the one before it.

    A round keeps the zeros of the one before and prunes the smallest weights that it left, of all tensors together. It
    is trained from ``step`` to the end, with the learning rates from there on, a new optimizer, and the batches of the
    dense run from the first on.

    Args:
        dense: The run that the first round prunes.
        count: How many rounds follow it; the last one's density is about (1 - fraction) ^ count.
        step: Where training goes back to, from 0; for larger networks some percent of the steps.
        rewind: What goes back: the "weights" and the learning rate, or the "learning rate" alone.
        fraction: What each round prunes of what is left, rounded up.

    Raises:
        ValueError: If the first run is not dense, the step is none of its steps, or its task cannot be trained in part.
    """
    if dense.technique or dense.kept_zeros:
        raise ValueError(f"iterative pruning begins with a dense run, got {dense.name} of {dense.task.title}")
    if rewind not in ("weights", "learning rate"):
        raise ValueError(f"rewind must be 'weights' or 'learning rate', got {rewind!r}")
    if not 0 <= step < dense.steps:
        raise ValueError(f"step must be in [0, {dense.steps}), the steps of the dense run, got {step}")
    rest = dense
    if step:
        rest = replace(dense, steps=dense.steps - step, task=dense.task.rest(step / dense.steps))
    found = [dense]
    for number in range(count):
        found.append(replace(rest, origin=_origin(found[-1], 0 if number else step, rewind, fraction)))
    return found


def _origin(last: Run, step: int, rewind: str, fraction: float) -> Origin:
    """What a round takes over from the last one; ``step`` is 0 where that began with rewound weights itself."""
    if rewind == "learning rate":
        return Retrained(last, pruned=fraction)
    return Rewound(last, step=step, pruned=fraction) if step else LotteryTicket(last, pruned=fraction)
