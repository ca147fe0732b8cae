"""Random weights of models that are trained as one: all coefficients in one tensor, and how they follow each step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functionalize, vmap
from torch.utils._pytree import tree_map

from openwork.core.parameters.layers import deterministic
from openwork.core.parameters.weight import ReparameterizedWeight, follows, total_cost
from openwork.core.precision import exact
from openwork.core.schedules import Schedule
from openwork.core.stacked import Stacked, Updated, call_with, stacked
from openwork.noise import keyed

if TYPE_CHECKING:
    from openwork.core.parameters.mechanism import Reparameterizing

_AT_ONCE = 2**24
"""How many weights are counted at once: the counts need several times their memory."""
_ALONE = "train these models one by one"
_PLAIN = (bool, int, float, str)


class StackedRandom(Stacked):
    """The distributions of N models, computed with those of the first one.

    ``inputs`` are the coefficients, by the name "coefficient", and those numbers of the technique that differ between
    the models, by their fields.

    Args:
        mechanisms: Those of the models.
        parameters: The models' parameters and buffers, by name, (N, *shape).

    Raises:
        ValueError: If the mechanisms cannot be stacked.
    """

    def __init__(self, mechanisms: Sequence[Reparameterizing], parameters: Mapping[str, Tensor]) -> None:
        numbers = _differing(mechanisms)
        self.masks = {}
        self._first = first = mechanisms[0]
        self._distributions = _Distributions(first.distributions)
        self._weights = [parameters[weight.name] for weight in first.weights]
        whole = {
            id(tensor): parameters[f"{place}.{name}"]
            for place, distribution in first.places().items()
            for name, tensor in _tensors(distribution).items()
            if f"{place}.{name}" in parameters  # not where it has the name that it has under another weight
        }
        self._learned = {name: whole[id(tensor)] for name, tensor in _tensors(self._distributions).items()}
        like = exact(self._weights[0])
        coefficients = [mechanism._coefficient for mechanism in mechanisms]
        self.inputs = {"coefficient": torch.stack(coefficients)}
        self.inputs |= {name: like.new_tensor(values) for name, values in numbers.items()}
        self._try()
        self.inputs["coefficient"] = stacked(coefficients)  # last, since the models' own become rows
        self._coefficients = _Coefficients([mechanism.technique.coefficient for mechanism in mechanisms])

    @contextmanager
    def using(self, inputs: Mapping[str, Tensor]) -> Iterator[None]:
        """Within it, the first model's distributions and penalty compute with these numbers."""
        technique, coefficient = self._first.technique, self._first._coefficient
        changed = copy.copy(technique)
        for name, value in inputs.items():
            if name != "coefficient":
                object.__setattr__(changed, name, value)
        places = [
            (vars(module), name)
            for module in self._distributions.modules()
            for name, value in vars(module).items()
            if value is technique
        ]
        for place, name in places:
            place[name] = changed
        self._first._coefficient = inputs["coefficient"]
        try:
            yield
        finally:
            for place, name in places:
                place[name] = technique
            self._first._coefficient = coefficient

    @torch.no_grad()
    def update(self, step: int) -> Updated:
        """Writes the coefficients of the next step, and lets the distributions follow."""
        self._coefficients.write(self.inputs["coefficient"], step)
        if not any(map(follows, self._distributions.all)):
            return Updated()

        def follow(weights: list[Tensor]) -> dict[str, Tensor]:
            for distribution, weight in zip(self._distributions.all, weights, strict=True):
                distribution.follow(exact(weight), step, self._first._coefficient)
            return _tensors(self._distributions)

        changed = self._for_each(follow)
        torch._foreach_copy_(list(self._learned.values()), [changed[name] for name in self._learned])
        return Updated()

    def zeros(self) -> dict[str, Tensor]:
        """The number of zeros among the deterministic weights, by name, (N,) int64, on the CPU."""
        counts = self._count(lambda distribution, weight: (deterministic(distribution, weight) == 0).sum())
        return {name: count.long() for name, count in counts.items()}

    def expected_nonzero(self) -> dict[str, Tensor]:
        """The expected number of non-zero weights in training, by name, (N,) float64, on the CPU."""
        return self._count(lambda distribution, weight: distribution.expected_nonzero(exact(weight)))

    @torch.no_grad()
    def _count(self, count: Callable[[ReparameterizedWeight, Tensor], Tensor]) -> dict[str, Tensor]:
        def counts(weights: list[Tensor]) -> Tensor:
            pairs = zip(self._distributions.all, weights, strict=True)
            return torch.stack([count(*pair).double() for pair in pairs])

        members = max(_AT_ONCE // sum(weight[0].numel() for weight in self._weights), 1)
        rows = self._for_each(counts, chunk_size=members).T.cpu()
        return {weight.name: row for weight, row in zip(self._first.weights, rows, strict=True)}

    @torch.no_grad()
    def _try(self) -> None:
        """Raises ValueError if the distributions cannot compute for several models at once."""

        def compute(weights: list[Tensor]) -> list[Tensor]:
            found = []
            weights = list(map(exact, weights))
            for distribution, weight in zip(self._distributions.all, weights, strict=True):
                found += [distribution.sample(weight), distribution.effective(weight)]
                found += [distribution.expected_nonzero(weight)]
            return [*found, total_cost(self._distributions.all, weights, self._first._coefficient)]

        try:
            with keyed(torch.zeros((), dtype=torch.int64, device=self._weights[0].device)):
                self._for_each(compute, most=2)
        except RuntimeError as error:
            kind, reason = type(self._first.technique).__name__, str(error).partition(".")[0]
            noise = "; draw by openwork.noise.normal or uniform" if "random" in reason else ""
            raise ValueError(f"{kind} cannot be computed for stacked models ({reason}){noise}; {_ALONE}") from error

    def _for_each(
        self, function: Callable[[list[Tensor]], Any], *, chunk_size: int | None = None, most: int | None = None
    ) -> Any:
        """What ``function(weights)`` returns for each model, stacked; the distributions hold that model's tensors.

        Args:
            function: Called within `using`, for one model.
            chunk_size: For how many models it is computed at once; None for all.
            most: For how many models it is computed; None for all.
        """

        def one(weights: list[Tensor], learned: dict[str, Tensor], inputs: dict[str, Tensor]) -> Any:
            with self.using(inputs):
                return call_with(self._distributions, learned, function, weights)

        tensors = tree_map(lambda tensor: tensor[:most], (self._weights, self._learned, self.inputs))
        return vmap(functionalize(one), chunk_size=chunk_size)(*tensors)


class _Distributions(nn.Module):
    """One model's distributions as a module, so that `call_with` can give them other tensors."""

    def __init__(self, distributions: Sequence[ReparameterizedWeight]) -> None:
        super().__init__()
        self.all: Any = nn.ModuleList(distributions)

    def forward(self, function: Callable[[list[Tensor]], Any], weights: list[Tensor]) -> Any:
        return function(weights)


class _Coefficients:
    """The coefficients of many models, computed once for all that have equal schedules."""

    def __init__(self, schedules: Sequence[Schedule | None]) -> None:
        self.moving = dict.fromkeys(schedule for schedule in schedules if schedule is not None)
        self.values: dict[Schedule | None, float] = {None: 0.0}
        places = {schedule: place for place, schedule in enumerate([None, *self.moving])}
        self.places = torch.tensor([places[schedule] for schedule in schedules], device="cpu")

    def write(self, coefficients: Tensor, step: int) -> None:
        """Writes those of the step to ``coefficients``, (N,), if any is new."""
        before = list(self.values.values())
        for schedule in list(self.moving):
            value = schedule(step)
            # An average still moves after the schedule's last step.
            if value == self.values.get(schedule) and schedule.last is not None and step > schedule.last:
                del self.moving[schedule]
            self.values[schedule] = value
        values = list(self.values.values())
        if values != before:
            coefficients.copy_(torch.tensor(values, dtype=torch.float64, device="cpu")[self.places], non_blocking=True)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _differing(mechanisms: Sequence[Reparameterizing]) -> dict[str, list[float]]:
    """The numbers of the techniques that are not all equal, by field.

    Raises:
        ValueError: If something else differs as well, or cannot be computed for stacked models.
    """
    first = mechanisms[0]
    kind, names = type(first.technique), [weight.name for weight in first.weights]
    for site in (site for weight in first.weights for site in weight.sites):
        if isinstance(site.module, nn.RNNBase | nn.RNNCellBase):
            raise ValueError(f"{site.name} is a random weight of a recurrent layer, which cannot be stacked; {_ALONE}")
    for each in mechanisms[1:]:
        if type(each.technique) is not kind or [weight.name for weight in each.weights] != names:
            raise ValueError(
                f"models cannot be stacked where their random weights, or the techniques of these, differ; {_ALONE}"
            )
    for distributions in zip(*(each.distributions for each in mechanisms), strict=True):
        _refuse_own_state(distributions)
    differing: dict[str, list[float]] = {}
    for field in fields(kind):
        values = [getattr(each.technique, field.name) for each in mechanisms]
        if field.name == "coefficient" or all(value == values[0] for value in values):
            continue
        if field.name not in kind.varying:
            raise ValueError(f"models whose {kind.__name__} differs in {field.name} cannot be stacked; {_ALONE}")
        differing[field.name] = values
    return differing


def _refuse_own_state(distributions: Sequence[ReparameterizedWeight]) -> None:
    """Raises ValueError for distributions of one weight that hold more than parameters, buffers and equal values."""
    for modules in zip(*(distribution.modules() for distribution in distributions), strict=True):
        for name, value in vars(modules[0]).items():
            unequal = isinstance(value, _PLAIN) and any(vars(module)[name] != value for module in modules)
            if unequal or isinstance(value, Tensor):
                raise ValueError(
                    f"{type(modules[0]).__name__}.{name} is a model's own but neither parameter nor buffer, and "
                    f"cannot be stacked; {_ALONE}"
                )
