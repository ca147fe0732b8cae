"""Techniques whose weights are computed from what is learned: random variables with a penalty."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from openwork.core.parameters.mechanism import Reparameterizing
from openwork.core.parameters.weight import ReparameterizedWeight
from openwork.core.schedules import Schedule
from openwork.core.selection import Weight
from openwork.core.technique import Technique, check_schedule


@dataclass(frozen=True)
class Reparameterization(Technique, ABC):
    """The base of techniques that say how the weights are computed from what is learned.

    Args:
        coefficient: The factor of the penalty at each step, usually of the order 1 / (number of training examples);
            None only for weights that are computed but not ``penalised``.

    Raises:
        TypeError: If ``coefficient`` is missing, or no schedule.
        ValueError: If the coefficient is negative.
    """

    varying: ClassVar[tuple[str, ...]] = ("coefficient",)
    penalised: ClassVar[bool] = True
    """Whether the weights have a penalty, which needs a coefficient."""
    prior: ClassVar[bool] = True
    """Whether the penalty is a prior of the weights, in the place of weight decay."""

    coefficient: Schedule | None = None

    def __post_init__(self) -> None:
        if self.coefficient is None:
            if self.penalised:
                raise TypeError(f"{type(self).__name__} needs a coefficient, such as Constant(1e-4)")
            return
        check_schedule("coefficient", self.coefficient, "Constant")
        if self.coefficient.final < 0:
            raise ValueError(f"the penalty coefficient must be >= 0, got {self.coefficient.final}")

    @property
    def needs_decay(self) -> bool:
        """Whether at first nothing but weight decay moves what is learned besides, so that it must have some."""
        return False

    @property
    def apart(self) -> bool:
        """Whether the distribution of each weight is made by itself, so that nothing is learned for several."""
        return type(self).distributions is Reparameterization.distributions

    def distributions(self, weights: list[Tensor], generators: list[torch.Generator]) -> list[ReparameterizedWeight]:
        """The distribution of each weight; override it where weights share something that is learned.

        Args:
            weights: The values of the selected weights as they are in `sparsify`.
            generators: For each weight a CPU generator, seeded.
        """
        return [self.distribution(*pair) for pair in zip(weights, generators, strict=True)]

    @abstractmethod
    def distribution(self, weight: Tensor, generator: torch.Generator) -> ReparameterizedWeight:
        """The module that holds what is learned besides ``weight``; it hangs on the layer as ``layer.reparam.weight``.

        Args:
            weight: The values of the weight as they are in `sparsify`.
            generator: A CPU generator, seeded.
        """

    def mechanism(self, weights: list[Weight], *, seed: int, keep_zeros: bool) -> Reparameterizing:
        """Random variables in the place of these weights.

        Raises:
            ValueError: If ``keep_zeros`` is set, which needs masks, or one of the weights cannot be a random variable.
        """
        if keep_zeros:
            raise ValueError(f"keep_zeros needs masks, and {type(self).__name__} has none; leave it out")
        return Reparameterizing(self, weights, seed=seed)
