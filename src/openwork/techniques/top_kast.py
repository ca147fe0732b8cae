"""Top-KAST: Jayakumar et al. 2020, arXiv 2106.03517, section 2: always sparse, forward and backward.

The forward computes with the set A of the largest weights. The backward trains a larger set B, so that weights of B
that are not in A can grow into it. Both sets are chosen again from time to time.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from openwork.core.masks.allocations import Allocation, Uniform
from openwork.core.parameters.technique import Reparameterization
from openwork.core.parameters.weight import ReparameterizedWeight, write
from openwork.core.schedules import Constant, Schedule


@dataclass(frozen=True)
class TopKAST(Reparameterization):
    """Computes with the largest weights of each tensor, and trains more of them.

    ``TopKAST(sparsity=0.9, backward_sparsity=0.8)``. The penalty is the paper's exploration loss, in the place of
    weight decay: weights of B that are not in A decay faster, by the inverse of A's density. Outside of B the gradient
    is 0, so that plain SGD leaves weights there; momentum lets them coast for some steps after they leave B. With
    ``backward_sparsity=0.0`` and ``every=1`` all weights are trained by a straight-through gradient.

    Args:
        coefficient: The factor of the penalty, as of weight decay.
        sparsity: That of the forward pass, in [0, 1).
        backward_sparsity: That of the gradient, at most ``sparsity``.
        allocation: How both are spread over the tensors: `Uniform` or `ERK`.
        every: Optimizer steps between choices of the sets.
        stop: The step at which exploration ends: from then on B is A, and neither changes. None for no end.

    Raises:
        ValueError: Unless 0 <= backward_sparsity <= sparsity < 1 and every >= 1, or if the allocation needs scores.
    """

    coefficient: Schedule | None = field(default=Constant(1e-4))
    sparsity: float = field(kw_only=True)
    backward_sparsity: float = field(kw_only=True)
    allocation: Allocation = field(default=Uniform(), kw_only=True)
    every: int = field(default=100, kw_only=True)
    stop: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.backward_sparsity <= self.sparsity < 1:
            raise ValueError(
                f"sparsity must be in [0, 1) and backward_sparsity no larger, got {self.sparsity} and "
                f"{self.backward_sparsity}; did you pass percentages?"
            )
        if self.every < 1:
            raise ValueError(f"every must be at least 1 step, got {self.every}")
        if self.allocation.needs_scores:
            raise ValueError(
                f"{self.allocation} needs scores, and TopKAST ranks each tensor alone; take Uniform or ERK"
            )

    def distributions(self, weights: list[Tensor], generators: list[torch.Generator]) -> list[ReparameterizedWeight]:
        """The sets of each weight, of as many elements as the allocation says."""
        named = {str(place): weight for place, weight in enumerate(weights)}
        kept, trained = (self.allocation(named, s, s) for s in (self.sparsity, self.backward_sparsity))
        return [KastWeight(weight, self, kept[name], trained[name]) for name, weight in named.items()]

    def distribution(self, weight: Tensor, generator: torch.Generator) -> ReparameterizedWeight:
        """The sets of this weight alone."""
        return self.distributions([weight], [generator])[0]


class KastWeight(ReparameterizedWeight):
    """w on A with a gradient on B; ``A`` and ``B`` are bool, of the weight's shape."""

    A: Tensor
    B: Tensor

    def __init__(self, weight: Tensor, technique: TopKAST, kept: int, trained: int) -> None:
        super().__init__()
        self.technique, self.kept, self.trained = technique, kept, trained
        self.register_buffer("A", torch.ones_like(weight, dtype=torch.bool))
        self.register_buffer("B", torch.ones_like(weight, dtype=torch.bool))

    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """W on A, with a gradient on B."""
        trained = torch.where(self.B, weight, 0)
        return trained - torch.where(self.A, 0, trained).detach()  # w - w is 0, and w - 0 is w

    def effective(self, weight: Tensor) -> Tensor:
        """W on A."""
        return torch.where(self.A, weight, 0)

    def penalty(self, weight: Tensor) -> Tensor:
        """Half the squares on A, and those of the rest of B over the density of A."""
        factors = torch.where(self.A, 1.0, torch.where(self.B, weight.numel() / max(self.kept, 1), 0.0))
        return 0.5 * (factors * weight.square()).sum()

    def expected_nonzero(self, weight: Tensor) -> Tensor:
        """The size of A."""
        return torch.full((), self.kept, device=weight.device)

    def follow(self, weight: Tensor, step: int, coefficient: Tensor) -> None:
        """Chooses A and B by magnitude where they are due."""
        stop = self.technique.stop
        if stop is not None and step >= stop:
            write(self.B, self.A)
        elif step % self.technique.every == 0:
            order = weight.abs().flatten().topk(self.trained).indices
            for chosen, count in ((self.A, self.kept), (self.B, self.trained)):
                none = torch.zeros_like(weight, dtype=torch.bool).flatten()
                write(chosen, none.scatter(0, order[:count], True).view_as(weight))
