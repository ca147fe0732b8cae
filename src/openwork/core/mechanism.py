"""What makes the weights of one model sparse: made by its technique, asked by the `Sparsifier`."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Calibrate = Callable[[nn.Module], object]
"""Runs batches through the model, and backward where gradients are wanted; what it returns is not used."""


class Mechanism(ABC):
    """Holds the state of one technique on one model; ``owned`` are indices of the selected weights."""

    random: bool = False
    """Whether the weights are random variables, so that their decay is the technique's affair."""
    owner: "weakref.ref[object]"
    """The sparsifier, which sets it."""

    @property
    def needs_optimizer(self) -> str:
        """Why steps have to be those of an attached optimizer; "" where `Sparsifier.step` will do."""
        return ""

    @property
    def closure_once(self) -> bool:
        """Whether an optimizer must not evaluate its closure again once its step has been prepared."""
        return False

    @abstractmethod
    def start(self, model: nn.Module, calibrate: Calibrate | None) -> None:
        """Changes the model as the technique has it before training. Raises ValueError before it changes anything."""

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Raises ValueError for an optimizer that the mechanism cannot work with; by default, never."""
        return

    @abstractmethod
    def attached(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Follows the parameters as they are now: wrappers may have replaced them. Raises where it cannot."""

    def detached(self) -> None:
        """Forgets the optimizers; by default none are known."""
        return

    def state_loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """Hears that an attached optimizer's state came from elsewhere; by default it does not matter."""
        return

    def before_step(self, owned: list[int], optimizer: torch.optim.Optimizer, *, counts: bool) -> None:
        """Readies the owned weights and their gradients for an optimizer's step; counts: it completes an iteration."""
        return

    @abstractmethod
    def after_step(self, step: int | None, owned: list[int], optimizer: torch.optim.Optimizer | None) -> None:
        """Does what is due after an optimizer's step.

        Args:
            step: The number of completed steps, None where other optimizers' steps are needed to complete one.
            owned: The indices of the weights that the optimizer moved.
            optimizer: The optimizer, None where nobody is attached.

        """

    @abstractmethod
    def penalty(self) -> Tensor:
        """What the technique adds to the loss at this step, shape ()."""

    def add_penalty_gradient(self, parameters: list[nn.Parameter], scale: Tensor | None) -> None:
        """Adds the penalty's gradient, times ``scale``, to those of ``parameters``; by default there is none."""
        return

    @abstractmethod
    def zeros(self) -> dict[str, int]:
        """The number of zeros of each weight in evaluation, by name; of all shards together."""

    @abstractmethod
    def expected_nonzero(self) -> dict[str, float]:
        """The number of non-zero weights that training computes with, by name."""

    @abstractmethod
    def masks(self) -> dict[str, Tensor]:
        """Where each weight is not masked in evaluation, by name: bool; sharded like the weights."""

    def mask_gradients(self) -> None:
        """Masks the gradients now; by default there is nothing to mask."""
        return

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is learned besides the weights, by name; by default nothing."""
        return {}

    @abstractmethod
    def finalize(self, model: nn.Module, *, in_place: bool) -> nn.Module:
        """The model, or a copy of it, as plain modules with zeros."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, all there from the start."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state that also has ``steps``. Raises ValueError for another model's, and changes nothing."""
