"""What a mask is worth without the training that found it: Gale, Elsen & Hooker 2019, arXiv 1902.09574, section 6.

Each function returns runs that keep a sparse run's zeros from the first step to the last: see `origin`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from openwork.study.runs.origin import LotteryTicket, Origin, Scratch
from openwork.study.runs.run import Run


def lottery_tickets(run: Run, replicas: int = 5) -> list[Run]:
    """The run's initial weights and final zeros, trained again on batches in another order for each replica.

    Args:
        run: A sparse run.
        replicas: How many runs to return.
    """
    return [replace(_from(run, LotteryTicket(run)), seed=seed) for seed in range(replicas)]


def scratch(run: Run, replicas: int = 5, *, budget: int = 1, augmented: bool = False) -> list[Run]:
    """New initial weights and the run's final zeros: scratch-e, and with ``budget=2`` the paper's scratch-b.

    Args:
        run: A sparse run.
        replicas: How many runs to return.
        budget: Factor of the number of steps, with which a task's learning rate stretches.
        augmented: As `Scratch` has it.
    """
    kept = replace(_from(run, Scratch(run, augmented)), steps=budget * run.steps)
    return [replace(kept, seed=run.seed + 1 + replica) for replica in range(replicas)]


SCHEMES = ("stretched", "final rate kept", "decay goes on", "decay from the start")
"""How the paper's learning rate of ResNet-50 falls in scratch-b, which has twice the steps."""


def scheme(
    name: str, *, warm_up: float, milestones: Sequence[float], length: float, every: float
) -> tuple[float, tuple[float, ...]]:
    """The warm-up and the milestones of a training twice as long, in the unit of the arguments.

    Args:
        name: One of `SCHEMES`: every stretch twice as long, the best in the paper; the schedule, and then its last
            rate; the schedule, and then a tenth at every ``every``; no warm-up, and such tenths from the start.
        warm_up: That of the training.
        milestones: Where its rate falls to a tenth.
        length: Its length.
        every: The paper's is 30 epochs.

    Raises:
        ValueError: For another name, or an ``every`` that is not positive.
    """
    if not every > 0:
        raise ValueError(f"every must be positive, got {every}; the paper's is 30 epochs")
    last = milestones[-1]
    schemes = {
        SCHEMES[0]: (2 * warm_up, [2 * each for each in milestones]),
        SCHEMES[1]: (warm_up, milestones),
        SCHEMES[2]: (warm_up, [*milestones, *_each(last + every, every, 2 * length)]),
        SCHEMES[3]: (0.0, _each(every, every, 2 * length)),
    }
    if name not in schemes:
        raise ValueError(f"the scheme must be one of {', '.join(SCHEMES)}, got {name!r}")
    warmth, found = schemes[name]
    return warmth, tuple(found)


def _each(first: float, every: float, end: float) -> list[float]:
    count = math.ceil((end - first) / every - 1e-9)
    return [first + number * every for number in range(max(count, 0))]


def _from(run: Run, origin: Origin) -> Run:
    if run.technique is None:
        raise ValueError(f"a lottery ticket needs a sparse run, got {run.name} of {run.task.title}")
    return replace(run, technique=None, origin=origin)
