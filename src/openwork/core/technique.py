"""Techniques: immutable values that say what is sparsified and when. All state lives in the `Sparsifier`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from openwork.core.allocations import AboveThreshold, Allocation, Uniform
from openwork.core.patterns import Pattern, Unstructured
from openwork.core.schedules import Schedule

Hidden = Literal["frozen", "trained", "lost"]


@dataclass(frozen=True)
class Technique:
    """A paper's method with its settings: hashable, printable, equal when the settings are equal."""

    @property
    def threshold(self) -> float | None:
        """At what evaluation makes weights zero, where it can be set again after training; None where it cannot."""
        return None


@dataclass(frozen=True)
class MaskTechnique(Technique, ABC):
    """A technique that says which weights are zero.

    schedule: the sparsity in [0, 1) at each step, and the steps at which masks are recomputed.
    allocation: how the sparsity is spread over the tensors.
    hidden: what becomes of a value under the mask. "frozen": remembered as it was when masked; "trained": moved on by
        leftover momentum and weight decay, as in TensorFlow's model_pruning; "lost": forgotten.
    pattern: where the zeros may lie.

    With the allocation `AboveThreshold` the schedule's values are thresholds on the scores instead of sparsities.

    Raises ValueError for a sparsity outside [0, 1), and where the pattern cannot follow the schedule or allocation.
    """

    dense_gradients: ClassVar[bool] = False
    """Whether the gradient of the masked model moves the weights under the mask, too (needs hidden="trained")."""

    schedule: Schedule
    allocation: Allocation = field(default=Uniform(), kw_only=True)
    hidden: Hidden = field(default="frozen", kw_only=True)
    pattern: Pattern = field(default=Unstructured(), kw_only=True, metadata={"added later": True})

    def __post_init__(self) -> None:
        _check_schedule("schedule", self.schedule, "OneShot")
        for sparsity in (self.schedule.final, self.schedule(0)):
            if not 0 <= sparsity < 1 and self.allocation != AboveThreshold():
                raise ValueError(f"sparsity must be in [0, 1), got {sparsity}; did you pass a percentage?")
        if self.hidden not in ("frozen", "trained", "lost"):
            raise ValueError(f"hidden must be 'frozen', 'trained' or 'lost', got {self.hidden!r}")
        self.pattern.check(self.schedule, self.allocation)

    def reference(self, weight: Tensor) -> Tensor:
        """What `scores` has to know of the weight as it was in `sparsify`, of any shape; nothing by default."""
        return weight.new_empty(0)

    @abstractmethod
    def scores(self, weight: Tensor, mask: Tensor, generator: torch.Generator, reference: Tensor) -> Tensor:
        """Scores of ``weight``'s shape: the largest are kept, -inf never.

        weight: with the hidden values restored; mask: bool, True = kept until now; generator: CPU, seeded; reference:
        what the method `reference` returned at the beginning.
        """


Op = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x, weight, bias or None) -> output; linear in the weight."""


class ReparameterizedWeight(nn.Module, ABC):
    """The distribution of one weight tensor: a paper's mathematics, written once for every kind of layer."""

    def forward(
        self, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The layer's output in training, by default that of one sample of the weights."""
        return op(x, self.sample(weight, generator), bias)

    @abstractmethod
    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Weights drawn from the distribution, of ``weight``'s shape; generator: on its device, by default torch's."""

    @abstractmethod
    def effective(self, weight: Tensor) -> Tensor:
        """The deterministic weights of evaluation, with exact zeros, of ``weight``'s shape."""

    @abstractmethod
    def penalty(self, weight: Tensor) -> Tensor:
        """What the technique adds to the loss before its coefficient, shape ()."""

    def cost(self, weight: Tensor, coefficient: Tensor) -> Tensor:
        """What the technique adds to the loss, shape (): coefficient * penalty, and what has a factor of its own."""
        return coefficient * self.penalty(weight)

    def expected_nonzero(self, weight: Tensor) -> Tensor:
        """The expected number of non-zero weights in training, shape (); by default all of them."""
        return torch.full((), weight.numel(), device=weight.device)

    def constrain(self) -> None:
        """Puts what is learned back into its range; called after every optimizer step."""
        return


@dataclass(frozen=True)
class Reparameterization(Technique, ABC):
    """A technique that says what the weights are, as random variables.

    coefficient: the factor of the penalty at each step, usually of the order 1 / (number of training examples).

    Raises ValueError for a negative coefficient.
    """

    coefficient: Schedule

    def __post_init__(self) -> None:
        _check_schedule("coefficient", self.coefficient, "Constant")
        if self.coefficient.final < 0:
            raise ValueError(f"the penalty coefficient must be >= 0, got {self.coefficient.final}")

    def distributions(self, weights: list[Tensor], generators: list[torch.Generator]) -> list[ReparameterizedWeight]:
        """The distribution of each weight; a technique whose weights share something learned overrides this."""
        return [self.distribution(*pair) for pair in zip(weights, generators, strict=True)]

    @abstractmethod
    def distribution(self, weight: Tensor, generator: torch.Generator) -> ReparameterizedWeight:
        """The module that holds what is learned besides ``weight``; hung on the layer as ``layer.reparam.weight``.

        generator: CPU, seeded.
        """


def _check_schedule(name: str, value: object, example: str) -> None:
    if not isinstance(value, Schedule):
        raise TypeError(f"{name} must be a schedule such as {example}({value!r}), got {value!r}")
