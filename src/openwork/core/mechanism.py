"""Mechanisms: what makes the weights of one model sparse. A technique makes one, and the `Sparsifier` asks it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from openwork.core.schedules import Schedule
from openwork.core.stacked import Stacked

Calibrate = Callable[[nn.Module], object]
"""Runs batches through the model, and backward where gradients are wanted; what it returns is not used."""


def whole_number(state: Mapping[str, Any], name: str, *, least: int | None = None) -> int:
    """The whole number that a saved state has by this name.

    Args:
        state: The state.
        name: The entry's name.
        least: The smallest number that is valid; None where any is.

    Raises:
        ValueError: If the entry is missing, no whole number or too small.
    """
    number = state.get(name)
    if not isinstance(number, int) or (least is not None and number < least):
        kind = "a whole number" if least is None else f"a whole number >= {least}"
        raise ValueError(
            f"the state's {name} must be {kind}, got {number!r}; pass what Sparsifier.state_dict() returned"
        )
    return number


class Mechanism(ABC):
    """Holds the state of one technique on one model; ``owned`` are indices of the selected weights."""

    penalised: bool = False
    """Whether there is a penalty; what is learned besides the weights has no weight decay then."""
    prior: bool = False
    """Whether the penalty is a prior of the weights, in the place of weight decay."""

    @property
    @abstractmethod
    def schedule(self) -> Schedule | None:
        """What the technique follows step by step; None where it follows nothing."""

    @abstractmethod
    def reached(self, steps: int) -> float | None:
        """The schedule's value that is in force after ``steps`` steps; None where it has come to its end."""

    @property
    def needs_optimizer(self) -> str:
        """Why steps must be those of an attached optimizer; "" where `Sparsifier.step` will do."""
        return ""

    @property
    def closure_once(self) -> bool:
        """Whether an optimizer must not evaluate its closure again once its step has been prepared."""
        return False

    @abstractmethod
    def start(self, model: nn.Module, calibrate: Calibrate | None) -> None:
        """Makes the model sparse, as far as the technique does so before training.

        Args:
            model: The model that owns the weights.
            calibrate: What the user passed to `sparsify`.

        Raises:
            ValueError: If the technique cannot begin; nothing has changed.
        """

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Raises ValueError for an optimizer that the mechanism cannot work with; by default, never."""
        return

    @abstractmethod
    def attached(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Follows the parameters as they are now, since wrappers may have replaced them.

        Raises:
            ValueError: If it cannot follow them.
        """

    def detached(self) -> None:
        """Forgets the optimizers; by default it knows none."""
        return

    def state_loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes note that an attached optimizer has loaded a state; by default that does not matter."""
        return

    @classmethod
    def stack(cls, mechanisms: Sequence[Self], parameters: Mapping[str, Tensor]) -> Stacked:
        """The mechanisms of models that are trained as one; by default that is not possible.

        Args:
            mechanisms: Those of the models, which are all of this class, started, and between two steps.
            parameters: The stacked parameters by name, (N, *shape). The models' own are their rows already; masks,
                hidden values and evidence become rows here.

        Raises:
            ValueError: If these cannot be stacked; nothing has changed.
        """
        raise ValueError(f"{cls.__name__} cannot be stacked: it has no method stack; train these models one by one")

    def count_to(self, steps: int) -> None:
        """Readies the mechanism to go on alone after ``steps`` steps that `Stacked` made; by default it is ready."""
        return

    def before_step(self, owned: list[int], optimizer: torch.optim.Optimizer, *, counts: bool) -> None:
        """Prepares the owned weights and their gradients for an optimizer's step; by default there is nothing to do.

        Args:
            owned: The indices of the weights that the optimizer moves.
            optimizer: The optimizer.
            counts: Whether the step completes an iteration.
        """
        return

    @abstractmethod
    def after_step(self, step: int | None, owned: list[int], optimizer: torch.optim.Optimizer | None) -> None:
        """Does what is due after an optimizer's step.

        Args:
            step: The number of completed steps; None where this step did not complete one.
            owned: The indices of the weights that the optimizer moved.
            optimizer: The optimizer; None where none is attached, and after a CUDA graph has replayed its step.
        """

    @abstractmethod
    def penalty(self) -> Tensor:
        """What the technique adds to the loss at this step, shape ()."""

    def add_penalty_gradient(self, parameters: list[nn.Parameter], scale: Tensor | None) -> None:
        """Adds the penalty's gradient to those of ``parameters``; by default there is no penalty.

        Args:
            parameters: Those that the stepping optimizer owns.
            scale: A factor of the gradients, which the optimizer divides by; None for 1.
        """
        return

    @abstractmethod
    def zeros(self) -> dict[str, int]:
        """The number of zeros of each weight in evaluation, by name, in all its shards together."""

    @abstractmethod
    def expected_nonzero(self) -> dict[str, float]:
        """The number of non-zero weights that training computes with, by name."""

    def counts(self) -> tuple[dict[str, int], dict[str, float]]:
        """`zeros` and `expected_nonzero`, which need not be counted twice where one follows from the other."""
        return self.zeros(), self.expected_nonzero()

    @abstractmethod
    def masks(self) -> dict[str, Tensor]:
        """Where each weight is not masked in evaluation, by name: bool; sharded like the weights."""

    @abstractmethod
    def remarks(self) -> list[str]:
        """What a user should know of the weights before they are finalized, in sentences."""

    def mask_gradients(self) -> None:
        """Masks the gradients now; by default there is nothing to mask."""
        return

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is learned besides the weights, by name; by default nothing."""
        return {}

    @abstractmethod
    def finalize(self, model: nn.Module, *, in_place: bool) -> nn.Module:
        """The model, or with ``in_place=False`` a copy of it, as plain modules with zeros."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values; every entry is there from the start."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a saved ``state``, which also has ``steps``.

        Raises:
            ValueError: If the state is another model's; nothing changes.
        """
