"""The distribution of one weight tensor."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

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

    def penalty(self, weight: Tensor) -> Tensor:
        """What the technique adds to the loss before its coefficient, shape (); by default nothing."""
        return weight.new_zeros(())

    def cost(self, weight: Tensor, coefficient: Tensor) -> Tensor:
        """What the technique adds to the loss, shape (): coefficient * penalty, and what has a factor of its own."""
        return coefficient * self.penalty(weight)

    def expected_nonzero(self, weight: Tensor) -> Tensor:
        """The expected number of non-zero weights in training, shape (); by default all of them."""
        return torch.full((), weight.numel(), device=weight.device)

    def constrain(self) -> None:
        """Puts what is learned back into its range; called after every optimizer step."""
        return
