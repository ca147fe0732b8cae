"""Linear mode connectivity: Frankle, Dziugaite, Roy & Carbin 2020, arXiv 1912.05671, section 2.

Two trainings of one network that differ in the order of their batches are stable if the error does not rise on the
straight line between their weights.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from openwork.core.batchnorm import has_statistics, recalibrate_batchnorm
from openwork.core.copies import copied_model


@dataclass(frozen=True)
class Path:
    """The errors on the straight line between two models.

    Args:
        places: From 0, the first model, to 1, the second.
        errors: The error at each place.
    """

    places: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """The highest error less the mean of the two ends; the paper calls 0.02 and less of a rate stable."""
        return max(self.errors) - (self.errors[0] + self.errors[-1]) / 2


@torch.no_grad()
def path_between(
    first: nn.Module,
    second: nn.Module,
    error: Callable[[nn.Module], float],
    *,
    batches: Collection[Any] = (),
    points: int = 30,
) -> Path:
    """The errors of models between two, whose weights are (1 - place) * first + place * second.

    Args:
        first: A finalized model. It stays as it is.
        second: Another one of the same shapes.
        error: model -> its error, such as 1 - accuracy.
        batches: For a model with batch norms, whose statistics are computed anew at every place, also at the ends.
        points: How many places, at least 2 with the ends.

    Raises:
        ValueError: If the models differ in names, shapes or dtypes, there are fewer than 2 points, or batch norms have
            no batches.
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, the ends, got {points}; the paper has 30")
    here, there = first.state_dict(), second.state_dict()
    for name in {**here, **there}:
        kinds = [(tuple(s[name].shape), s[name].dtype) if name in s else "absent" for s in (here, there)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"{name} is {kinds[0]} in the first model and {kinds[1]} in the second; compare like ones")
    if has_statistics(first) and not batches:
        raise ValueError(
            "the models have batch norms, whose statistics between two models are those of none; pass batches="
        )
    model, errors = copied_model(first), []
    places = tuple(torch.linspace(0, 1, points, dtype=torch.float64).tolist())
    for place in places:
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.lerp(here[name], there[name].to(here[name].device), place))
        if has_statistics(model):
            recalibrate_batchnorm(model, batches)
        errors.append(float(error(model)))
    return Path(places, tuple(errors))
