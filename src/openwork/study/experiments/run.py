"""A run: one task, one technique, one seed, and what identifies it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from openwork.core.selection import Select, weight_matrices
from openwork.core.technique import Technique
from openwork.study.experiments.config import canonical, describe, inside
from openwork.study.tasks.task import Task


@dataclass(frozen=True)
class Run:
    """One training: everything that its result depends on, up to rounding on other hardware or in compiled kernels.

    technique: None trains densely. steps: optimizer steps.
    start: another run, whose finalized weights this one begins with: a pre-training. It is trained in the same
    directory unless it is there, and once for all runs that start from it. Its seed is this run's, whatever it says
    itself, so that another seed is an independent repetition.
    zeros: another run, whose finalized weights' zeros this one keeps from the first step to the last; the technique is
    then None. It is trained first, too, and keeps its own seed. With ``augmented`` each weight that has such zeros
    begins divided by the root of its fraction of non-zeros, so that its outputs have the scale they would have dense.
    initial_seed: that of the initial weights where it is not ``seed``: with that of ``zeros`` a run is its lottery
    ticket.
    """

    task: Task
    technique: Technique | None
    steps: int
    seed: int = 0
    select: Select = weight_matrices
    start: "Run | None" = field(default=None)
    zeros: "Run | None" = field(default=None)
    augmented: bool = field(default=False)
    initial_seed: int | None = field(default=None)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        for name, other in (("start", self.start), ("zeros", self.zeros)):
            if other is not None and not isinstance(other, Run):
                raise ValueError(f"{name} must be a Run or None, got {other!r}")
        if self.start is not None:
            object.__setattr__(self, "start", replace(self.start, seed=self.seed))
        if self.zeros and self.technique:
            raise ValueError(f"a run that keeps zeros has no technique, got {self.technique!r}")
        if self.augmented and not self.zeros:
            raise ValueError("augmented needs zeros: it scales the weights that are left")

    @property
    def id(self) -> str:
        """The name of the run's directory: 16 hexadecimal digits."""
        return hashlib.sha256(canonical(self).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The technique's name; "LotteryTicket" or "Scratch" of a run that keeps another one's zeros; or "dense"."""
        if self.zeros:
            own, its = ((r.seed if r.initial_seed is None else r.initial_seed, r.start) for r in (self, self.zeros))
            return "LotteryTicket" if own == its and not self.augmented else "Scratch"
        return type(self.technique).__name__ if self.technique else "dense"

    @property
    def before(self) -> "list[Run]":
        """The runs that have to be finished before this one can begin."""
        return [run for run in (self.start, self.zeros) if run]

    @property
    def settings(self) -> str:
        """All that distinguishes this run from others of its technique and task but the seed, in one line."""
        parts = [inside(self.technique), f"steps={self.steps}", inside(self.task, prefix="task.")]
        if self.select != weight_matrices:
            parts.append(f"select={describe(self.select)}")
        if self.start:
            parts.append(f"start={self.start.name}({self.start.settings})")
        if self.zeros:
            parts.append(f"zeros={self.zeros.name}({self.zeros.settings}, seed={self.zeros.seed})")
        if self.augmented:
            parts.append("augmented=True")
        return ", ".join(part for part in parts if part)


def with_starts(runs: Iterable[Run]) -> list[Run]:
    """The runs, each after those that have to be finished before; what several runs need is there once."""
    found: dict[str, Run] = {}
    for run in runs:
        found |= {each.id: each for each in with_starts(run.before)} | {run.id: run}
    return list(found.values())
