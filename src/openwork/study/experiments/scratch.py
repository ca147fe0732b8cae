"""What a mask is worth without the training that found it: Gale, Elsen & Hooker 2019, arXiv 1902.09574, section 6.

Each function returns runs that keep a sparse run's zeros from the first step to the last: see `origin`.
"""

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


def _from(run: Run, origin: Origin) -> Run:
    if run.technique is None:
        raise ValueError(f"a lottery ticket needs a sparse run, got {run.name} of {run.task.title}")
    return replace(run, technique=None, origin=origin)
