"""Where a run's first weights, and the zeros that it keeps, come from: another run, which is trained before it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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
class LotteryTicket(Origin):
    """The zeros of a sparse run, and what that run began with: Frankle & Carbin 2018, arXiv 1803.03635."""

    @property
    def weights(self) -> "Run | None":
        """Those that the sparse run itself started from."""
        return self.run.first_weights

    @property
    def zeros(self) -> "Run":
        """The sparse run."""
        return self.run

    @property
    def initial_seed(self) -> int:
        """The sparse run's."""
        return self.run.seed


@dataclass(frozen=True)
class Scratch(Origin):
    """The zeros of a sparse run, and new initial weights: Liu et al. 2018, arXiv 1810.05270.

    Args:
        run: The sparse run.
        augmented: Divide the weights of each tensor by the root of the fraction that is kept, so that its outputs have
            the scale that they would have dense.
    """

    augmented: bool = False

    @property
    def weights(self) -> None:
        """None: they are new."""

    @property
    def zeros(self) -> "Run":
        """The sparse run."""
        return self.run

    def scale(self, kept: Tensor) -> Tensor:
        """1 or, if augmented, the root of the inverse density."""
        # Glorot & Bengio's and He et al.'s variances are inverse to the connections of a unit.
        return kept / kept.float().mean().sqrt() if self.augmented and kept.any() else kept
