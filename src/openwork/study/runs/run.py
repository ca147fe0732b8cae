"""A run: one task, one technique, one seed, and what identifies it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from openwork.core.selection import Select, weight_matrices
from openwork.core.technique import Technique
from openwork.study.results.result import identity
from openwork.study.runs.config import describe, inside, to_plain
from openwork.study.runs.origin import Origin
from openwork.study.tasks.check import check_data, check_numbers
from openwork.study.tasks.task import Task
from openwork.words import printable

LAST_SEED = 2**32 - 1
"""The largest seed of a run: torch's CPU generator reads 32 bits, so that larger ones would repeat initial weights."""


@dataclass(frozen=True)
class Run:
    """One training: everything that its result depends on, up to rounding on other hardware or in compiled kernels.

    Args:
        task: The benchmark.
        technique: What makes the model sparse; None trains densely.
        steps: Optimizer steps.
        seed: Of weights, batches and noise: from 0 to `LAST_SEED`.
        select: Picks the weights that become sparse.
        origin: Where the first weights and kept zeros come from: `Pretrained`, `LotteryTicket`, `Rewound`, `Retrained`
            or `Scratch` of another run, which is trained in the same directory unless it is there, and once for all
            runs that need it. A run that keeps zeros has no technique.
        variant: The experiment's word for this way of using the technique, such as "extended"; part of the run's name.

    Raises:
        ValueError: If a field is of another kind, steps are below 1, the seed is out of its range, a number of the task
            makes no sense (`openwork.study.tasks.check.check_numbers`), the variant is not one line of text, the task
            is judged on no known data, there is a technique beside kept zeros, or the other run may have been trained
            on what the task holds out.
    """

    task: Task
    technique: Technique | None
    steps: int
    seed: int = 0
    select: Select = weight_matrices
    origin: Origin | None = None
    variant: str = ""

    def __post_init__(self) -> None:
        for name, kind, example in (
            ("task", Task, "an instance of Task"),
            ("technique", Technique | None, "an instance of a technique, or None"),
            ("steps", int, "a whole number"),
            ("seed", int, "a whole number"),
            ("variant", str, "text"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"a run's {name} must be {example}, got {value!r}")
        if not callable(self.select):
            raise ValueError(f"a run's select must be a selection such as matching('fc*'), got {self.select!r}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.seed <= LAST_SEED:
            raise ValueError(f"a run's seed must be from 0 to {LAST_SEED}, got {self.seed}; count seeds from 0")
        if printable(self.variant) != self.variant:
            raise ValueError(f"a run's variant must be printable text in one line, got {self.variant!r}; change it")
        check_numbers(self.task)
        check_data(self.task)
        if self.origin is None:
            return
        if not isinstance(self.origin, Origin) or not isinstance(self.origin.run, Run):
            raise ValueError(
                f"origin must be Pretrained, LotteryTicket, Rewound, Retrained or Scratch of a Run, got {self.origin!r}"
            )
        if self.origin.zeros and self.technique:
            raise ValueError(f"a run that keeps zeros has no technique, got {self.technique!r}")
        if leak := self.task.leak(self.origin.run.task):
            raise ValueError(leak)
        object.__setattr__(self, "origin", self.origin.seeded(self.seed))

    @cached_property  # a sweep asks thousands of runs, each a dozen times
    def id(self) -> str:
        """The name of the run's directory: 16 hexadecimal digits."""
        return identity(to_plain(self))

    @property
    def name(self) -> str:
        """The technique's name, that of the origin where it keeps zeros, or "dense"; and the variant."""
        technique = type(self.technique).__name__ if self.technique else "dense"
        name = self.origin.name(technique) if self.origin else technique
        return f"{name}, {self.variant}" if self.variant else name

    @property
    def first_weights(self) -> "Run | None":
        """The run whose finalized weights are this one's first; None where a seed draws them."""
        return self.origin.weights if self.origin else None

    @property
    def kept_zeros(self) -> "Run | None":
        """The run whose zeros this one keeps."""
        return self.origin.zeros if self.origin else None

    @property
    def prerequisites(self) -> "list[Run]":
        """The runs that must be finished before this one can begin."""
        return [run for run in (self.first_weights, self.kept_zeros) if run]

    @property
    def settings(self) -> str:
        """All but the seed that distinguishes this run from others of its name and task, in one line."""
        parts = [inside(self.technique), f"steps={self.steps}", inside(self.task, prefix="task.")]
        if self.select != weight_matrices:
            parts.append(f"select={describe(self.select)}")
        if self.origin:
            parts.append(f"origin={self.origin}")
        return ", ".join(part for part in parts if part)


def with_prerequisites(runs: Iterable[Run]) -> list[Run]:
    """The runs, each after its prerequisites; a run that several others need is there once."""
    found: dict[str, Run] = {}
    for run in runs:
        found |= {each.id: each for each in with_prerequisites(run.prerequisites)} | {run.id: run}
    return list(found.values())
