"""Where a run's first weights, and the zeros that it keeps, come from: another run, which is trained before it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openwork.core.masks.threshold import keep_largest
from openwork.core.seeding import seeded_generator
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

    def kept(self, weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Which weights are kept, by name, bool: by default those that are not zero in the other run.

        Args:
            weights: The other run's, when finalized, by name.
            seed: That of the run that has this origin.
        """
        return {name: weight != 0 for name, weight in weights.items()}

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
        pruned: The fraction of the run's other weights, rounded up, that become zero as well: the smallest of all
            tensors together. A level of iterative magnitude pruning is 0.2; the run may then be a dense one.

    Raises:
        ValueError: If ``pruned`` is outside [0, 1).
    """

    shuffled: bool = field(default=False, kw_only=True)
    pruned: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.pruned < 1:
            raise ValueError(f"pruned must be in [0, 1), the fraction of the weights that are left, got {self.pruned}")

    @property
    def zeros(self) -> "Run":
        """The sparse run."""
        return self.run

    def kept(self, weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Those that are left by pruning or, if shuffled, as many of each tensor at random places."""
        kept = super().kept(weights, seed)
        if self.pruned:
            kept = self._largest(weights, seed)
        if self.shuffled:
            kept = {name: _shuffled(mask, seeded_generator(seed, 0, f"kept {name}")) for name, mask in kept.items()}
        return kept

    def _largest(self, weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
        """The largest of all tensors together."""
        every = torch.cat([weight.flatten() for weight in weights.values()])
        left = int(every.count_nonzero())
        keep = left - math.ceil(self.pruned * left - 1e-6)  # 0.2 * 15 is 3.0000000000000004 in binary
        mask = keep_largest(every.abs(), keep, seeded_generator(seed, 0, "pruned"))
        parts = torch.split(mask, [weight.numel() for weight in weights.values()])
        return {name: part.view_as(weight) for part, (name, weight) in zip(parts, weights.items(), strict=True)}


def _shuffled(mask: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(mask.numel(), generator=generator).to(mask.device)
    return mask.flatten()[order].view_as(mask)


@dataclass(frozen=True)
class LotteryTicket(KeptZeros):
    """The zeros of a sparse run, and what that run began with: Frankle & Carbin 2018, arXiv 1803.03635."""

    @property
    def weights(self) -> "Run | None":
        """Those that the sparse run itself started from."""
        return self.run.first_weights

    @property
    def initial_seed(self) -> int:
        """That of the sparse run's first weights."""
        before = self.run.origin.initial_seed if self.run.origin else None
        return self.run.seed if before is None else before

    def name(self, technique: str) -> str:
        """That of the run, where this one begins where it did: each round of iterative pruning has the first's."""
        before = self.run.origin
        return before.name(technique) if isinstance(before, LotteryTicket | Rewound) else super().name(technique)


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
        super().__post_init__()
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
class Retrained(KeptZeros):
    """The zeros of a run and its final weights, which are trained on: Renda, Frankle & Carbin 2020, arXiv 2003.02389.

    With a task that is the rest of another one (`Task.rest`) the learning rate is rewound, and nothing else; with one
    whose learning rate is small and constant it is fine-tuning.

    Raises:
        ValueError: If zeros are shuffled: with those that the weights have they would be more than the run's.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shuffled:
            raise ValueError("Retrained keeps the run's zeros where they are, got shuffled=True; take Scratch for that")

    @property
    def weights(self) -> "Run":
        """The run."""
        return self.run


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
