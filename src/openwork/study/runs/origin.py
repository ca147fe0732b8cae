"""Where a run's first weights, and the zeros that it keeps, come from: another run, which is trained before it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openwork.study.runs.config import inside

if TYPE_CHECKING:
    from openwork.study.runs.run import Run


@dataclass(frozen=True)
class Origin(ABC):
    """What a run takes over from another one: an immutable value, whose subclass says what that is.

    Args:
        run: The other run.
    """

    run: "Run"

    @property
    @abstractmethod
    def weights(self) -> "Run | None":
        """The run whose finalized weights are the first ones; None where a seed draws them."""

    @property
    @abstractmethod
    def zeros(self) -> "Run | None":
        """The run whose zeros, when finalized, are kept from the first step to the last; None keeps no zeros."""

    @property
    def initial_seed(self) -> int | None:
        """The seed of the initial weights; None where it is that of the run that has this origin."""
        return None

    def seeded(self, seed: int) -> "Origin":
        """The origin of a run with that seed."""
        return self

    def name(self, technique: str) -> str:
        """The name of a run of this origin.

        Args:
            technique: The name of its technique, or "dense".
        """
        return type(self).__name__

    def kept(self, nonzero: Tensor, generator: torch.Generator) -> Tensor:
        """Which weights of a tensor are kept, bool: by default those that are not zero in the other run.

        Args:
            nonzero: True where they are not, bool.
            generator: A CPU generator, seeded by the run that has this origin.
        """
        return nonzero

    def scale(self, kept: Tensor) -> Tensor:
        """The factors by which a tensor's first weights are multiplied.

        Args:
            kept: True where they are not zero, bool, of their shape.
        """
        return kept

    def __str__(self) -> str:
        run = f"{self.run.name}({self.run.settings}, seed={self.run.seed})"
        others = inside(self, without=("run",))
        return f"{type(self).__name__}({run}{', ' if others else ''}{others})"


@dataclass(frozen=True)
class Pretrained(Origin):
    """The finalized weights of another run are the first ones.

    Its seed is replaced by that of the run that starts from it, as another seed repeats both.
    """

    @property
    def weights(self) -> "Run":
        """The run."""
        return self.run

    @property
    def zeros(self) -> None:
        """None: its zeros may change."""

    def seeded(self, seed: int) -> "Pretrained":
        """The run with that seed."""
        return replace(self, run=replace(self.run, seed=seed))

    def name(self, technique: str) -> str:
        """The technique's."""
        return technique

    def __str__(self) -> str:
        return f"Pretrained({self.run.name}({self.run.settings}))"


@dataclass(frozen=True)
class KeptZeros(Origin):
    """The zeros of a sparse run; what the other weights begin with, its kinds say.

    Args:
        run: The sparse run.
        shuffled: Put each tensor's zeros at random places of the tensor, other ones for each seed. It is then as sparse
            as the run's, and what the places are worth is lost.
    """

    shuffled: bool = field(default=False, kw_only=True)

    @property
    def zeros(self) -> "Run":
        """The sparse run."""
        return self.run

    def kept(self, nonzero: Tensor, generator: torch.Generator) -> Tensor:
        """The same ones or, if shuffled, as many at random places."""
        if not self.shuffled:
            return nonzero
        order = torch.randperm(nonzero.numel(), generator=generator).to(nonzero.device)
        return nonzero.flatten()[order].view_as(nonzero)


@dataclass(frozen=True)
class LotteryTicket(KeptZeros):
    """The zeros of a sparse run, and what that run began with: Frankle & Carbin 2018, arXiv 1803.03635."""

    @property
    def weights(self) -> "Run | None":
        """Those that the sparse run itself started from."""
        return self.run.first_weights

    @property
    def initial_seed(self) -> int:
        """The sparse run's."""
        return self.run.seed


@dataclass(frozen=True)
class Rewound(KeptZeros):
    """The zeros of a sparse run, and the weights that it had after some steps: Frankle et al. 2019, arXiv 1903.01611.

    Those steps are a run of their own, with the learning rates of the whole (`Task.first`).

    Args:
        run: The sparse run.
        step: How many of its steps the weights have been trained for; at least 1, and fewer than it has.
        shuffled: As `KeptZeros` has it.

    Raises:
        ValueError: If the run has not so many steps, or its task cannot be trained in part.
    """

    step: int

    def __post_init__(self) -> None:
        steps = getattr(self.run, "steps", None)
        if steps is None:  # no run: whoever has this origin says so
            return
        if type(self.step) is not int or not 1 <= self.step < steps:
            raise ValueError(f"step must be in [1, {steps}), the steps of {self.run.name}, got {self.step!r}")
        self.run.task.first(self.step / steps)

    @property
    def weights(self) -> "Run":
        """Its first steps, as a run of their own."""
        return replace(self.run, steps=self.step, task=self.run.task.first(self.step / self.run.steps))


@dataclass(frozen=True)
class Scratch(KeptZeros):
    """The zeros of a sparse run, and new initial weights: Liu et al. 2018, arXiv 1810.05270.

    Args:
        run: The sparse run.
        augmented: Divide the weights of each tensor by the root of the fraction that is kept, so that its outputs have
            the scale that they would have dense.
        shuffled: As `KeptZeros` has it.
    """

    augmented: bool = False

    @property
    def weights(self) -> None:
        """None: they are new."""

    def scale(self, kept: Tensor) -> Tensor:
        """1 or, if augmented, the root of the inverse density."""
        # Glorot & Bengio's and He et al.'s variances are inverse to the connections of a unit.
        return kept / kept.float().mean().sqrt() if self.augmented and kept.any() else kept
