"""Reparameterising: weights that are random variables; the dense parameter stays and is the mean.

The module that owns a weight switches its class in place. The module object and its ``state_dict`` keys stay. What is
learned besides hangs on one submodule, ``module.reparam``, by the parameter's name there; for a tied weight, on the
first module that has it. Layers that torch itself defines get a forward of `layers.py`. Any other module keeps its own
forward, in which the weight reads as a sample, drawn once. Other code that reads the weight, as MultiheadAttention
reads ``out_proj.weight``, also gets a sample; in evaluation all get the deterministic weight. Both are read-only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from openwork.core.copies import copied_model
from openwork.core.dead_paths import empty_layer
from openwork.core.mechanism import Calibrate, Mechanism, whole_number
from openwork.core.ownership import RANDOM
from openwork.core.parameters.layers import NOISE_SEED, RandomWeight, deterministic
from openwork.core.parameters.plain import make_plain
from openwork.core.parameters.rows import Rows
from openwork.core.parameters.stacked import StackedRandom
from openwork.core.parameters.switch import plain_of, switched
from openwork.core.parameters.weight import ReparameterizedWeight, follows, learned, total_cost
from openwork.core.parameters.whole import shard
from openwork.core.precision import LOW, exact
from openwork.core.schedules import Schedule
from openwork.core.seeding import seeded_generator
from openwork.core.selection import Weight
from openwork.core.sharded import gathered, is_offloaded, reshard, shard_like, shards_of, sum_each

if TYPE_CHECKING:
    from openwork.core.parameters.technique import Reparameterization


_log = logging.getLogger("openwork")


class Reparameterizing(Mechanism):
    """The distributions of one model's selected weights, and the coefficient of their penalty.

    Args:
        technique: The technique.
        weights: The selected weights, tied ones once.
        seed: The seed of what the technique draws at first, and of the noise of recurrent cells.

    Raises:
        ValueError: If the technique cannot work with one of the weights.
    """

    def __init__(self, technique: Reparameterization, weights: list[Weight], *, seed: int) -> None:
        self.technique = technique
        self.weights = weights
        self.seed = seed
        self.penalised, self.prior = technique.penalised, technique.penalised and technique.prior
        for weight in weights:
            _check(weight)
        self.distributions: list[ReparameterizedWeight] = []
        for some in [[weight] for weight in weights] if technique.apart else [weights]:  # few whole weights at a time
            self.distributions += self._distributions(some)
        self._rows = Rows(type(technique).__name__, weights, self.distributions)
        self._rows.find(settled=True)

    def _distributions(self, weights: list[Weight]) -> list[ReparameterizedWeight]:
        """The technique's distributions of these weights."""
        generators = [seeded_generator(self.seed, 0, weight.name) for weight in weights]
        found = self.technique.distributions([exact(gathered(w.parameter)) for w in weights], generators)
        if len(found) != len(weights):
            raise ValueError(
                f"{type(self.technique).__name__}.distributions returned {len(found)} for {len(weights)} "
                "weights; return one for each"
            )
        for weight, distribution in zip(weights, found, strict=True):
            distribution.layout = weight.layout
            distribution._apply(exact)  # type: ignore[no-untyped-call]
            shard(distribution, weight.parameter)
        return found

    @property
    def schedule(self) -> Schedule | None:
        """That of the penalty's coefficient."""
        return self.technique.coefficient

    def reached(self, steps: int) -> float | None:
        """The coefficient after ``steps`` steps; None once it no longer changes."""
        schedule = self.technique.coefficient
        return None if schedule is None or schedule.last is None or steps >= schedule.last else schedule(steps)

    def start(self, model: nn.Module, calibrate: Calibrate | None) -> None:
        """Switches the classes of the modules that own the weights."""
        if calibrate is not None:
            raise ValueError(f"{type(self.technique).__name__} looks at the weights alone; leave out calibrate=")
        # A tensor, so that a compiled penalty does not see a new constant at each step.
        self._coefficient = exact(torch.tensor(0.0, device=self.weights[0].parameter.device))
        self._move_on(0)  # which may raise, so first
        for weight, distribution in zip(self.weights, self.distributions, strict=True):
            for place, site in enumerate(weight.sites):
                random = site.module.__dict__.setdefault(RANDOM, {})
                random[site.leaf] = RandomWeight(weight.name, distribution)
                if place == 0:  # a tied weight has one entry in the state, as savers of tied weights want it
                    site.module.get_submodule(learned(site.module)).add_module(site.leaf, distribution)
        for module in {site.module: None for weight in self.weights for site in weight.sites}:
            plain = plain_of(type(module)) or type(module)  # of one in which another sparsifier has random weights
            module.__class__ = switched(plain, tuple(module.__dict__[RANDOM]))
        if _log.isEnabledFor(logging.INFO) or self._rows.sharded():  # whose processes may log at different levels
            self._log_change()

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Raises ValueError where the technique needs weight decay and the optimizer has none for what is learned."""
        names = {id(each): name for name, each in self.parameters().items()} if self.technique.needs_decay else {}
        for group in optimizer.param_groups:
            still = [names[id(each)] for each in group["params"] if id(each) in names]
            if still and group.get("weight_decay", 1) == 0:
                raise ValueError(
                    f"{self.technique} is moved by weight decay alone at first, and {type(optimizer).__name__} has "
                    f"none for {still[0]}; pass weight_decay=..., or make it of sparsifier.parameter_groups(...)"
                )

    def attached(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Raises ValueError where FSDP2 has sharded weights since `sparsify` as the technique cannot take them."""
        self._rows.find(settled=True)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the distributions learn besides the weights, by name."""
        return {
            f"{place}.{each.name}": each.parameter
            for place, distribution in self.places().items()
            for each in self._rows.learned(distribution)
        }

    def places(self) -> dict[str, ReparameterizedWeight]:
        """The distributions by their names in the model."""
        return {
            f"{site.name.removesuffix(site.leaf)}{learned(site.module)}.{site.leaf}": distribution
            for weight, distribution in zip(self.weights, self.distributions, strict=True)
            for site in (weight.sites[0],)
        }

    def zeros(self) -> dict[str, int]:
        """The number of zeros among the deterministic weights, by name."""
        counts = self._each(lambda distribution, weight: (deterministic(distribution, weight) == 0).sum())
        return {name: int(count) for name, count in counts.items()}

    def penalty(self) -> Tensor:
        """What the distributions add to the loss at this step, shape (), float32 at least; tied weights count once."""
        if self._rows.sharded():
            return self._rows.penalty(self._cost)
        return self._cost(self.distributions, [weight.parameter for weight in self.weights])

    def expected_nonzero(self) -> dict[str, float]:
        """The expected number of non-zero weights in training, by name."""
        return self._each(lambda distribution, weight: distribution.expected_nonzero(exact(weight)))

    def remarks(self) -> list[str]:
        """Which layers are empty in evaluation."""
        zeros = self.zeros()
        return [
            empty_layer(w.name, "lower the coefficient")
            for w in self.weights
            if zeros[w.name] == w.parameter.numel() > 0
        ]

    def masks(self) -> dict[str, Tensor]:
        """Where the deterministic weights are not zero, by name."""
        with torch.no_grad(), self._rows.here() as rows:
            masks = [deterministic(*pair) != 0 for pair in zip(self.distributions, rows, strict=True)]
        found = zip(self.weights, masks, self._rows.find(), strict=True)
        return {weight.name: shard_like(mask, whole) for weight, mask, whole in found}

    def add_penalty_gradient(self, parameters: list[nn.Parameter], scale: Tensor | None) -> None:
        """Adds the gradient of the penalty to those of ``parameters``."""
        self._rows.add_gradient(self._cost, parameters, scale)

    def after_step(self, step: int | None, owned: list[int], optimizer: torch.optim.Optimizer | None) -> None:
        """Takes the next step's coefficient and noise, once a step is completed."""
        if self._rows.sharded():
            self._rows.find(settled=True)
        if step is not None:
            self._move_on(step)

    def _move_on(self, step: int) -> None:
        """The penalty's coefficient, and the noise of the cells, which lasts for a step."""
        schedule = self.technique.coefficient
        self._coefficient.fill_(schedule(step) if schedule else 0.0)
        if any(map(follows, self.distributions)):
            with torch.no_grad():
                for distribution, weight in zip(self.distributions, self._rows.find(), strict=True):
                    distribution.follow(exact(weight), step, self._coefficient.to(weight.device))
        for site in (site for weight in self.weights for site in weight.sites):
            if isinstance(site.module, nn.RNNCellBase):
                name = site.name.removesuffix(site.leaf)
                site.module.__dict__[NOISE_SEED] = seeded_generator(self.seed, step, name).initial_seed()

    def finalize(self, model: nn.Module, *, in_place: bool) -> nn.Module:
        """The model, or a copy of it, of plain modules whose weights are the deterministic ones.

        In place, the mechanism lets its distributions go, and weights that another sparsifier made random stay so. In
        a copy no weight is random.
        """
        reshard(model)
        if not in_place:
            if self._rows.sharded():
                raise ValueError(
                    "FSDP2 models cannot be copied; ask the sparsifier for its sparsity() and layer_sparsity(), or "
                    "finalize the model and save its state_dict()"
                )
            model = copied_model(model)
        with self._rows.here():
            make_plain(model, self.distributions if in_place else None)
        if in_place:
            self.distributions.clear()
        return model

    def state_dict(self) -> dict[str, Any]:
        """The seed; the model's own state has what is learned."""
        return {"seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a sparsifier's state."""
        self.seed = whole_number(state, "seed")
        self._move_on(state["steps"])

    @classmethod
    def stack(cls, mechanisms: Sequence[Self], parameters: Mapping[str, Tensor]) -> StackedRandom:
        """The random weights of models that are trained as one."""
        return StackedRandom(mechanisms, parameters)

    def _cost(self, distributions: Sequence[ReparameterizedWeight], weights: Sequence[Tensor]) -> Tensor:
        return total_cost(distributions, [exact(weight) for weight in weights], self._coefficient.to(weights[0].device))

    @torch.no_grad()
    def _each(self, number: Callable[[ReparameterizedWeight, Tensor], Tensor]) -> dict[str, float]:
        """A number of each weight that is the sum of those of its rows, by name."""
        with self._rows.here() as rows:
            found = [float(number(*pair)) for pair in zip(self.distributions, rows, strict=True)]
        totals = sum_each(found, [shards_of(parameter) for parameter in self._rows.find()])
        return dict(zip([weight.name for weight in self.weights], totals, strict=True))

    def _log_change(self) -> None:
        """Says how far evaluation is from the model as it came, which may have been trained."""

        def change(distribution: ReparameterizedWeight, weight: Tensor) -> Tensor:
            return (distribution.effective(exact(weight)) - exact(weight)).square().sum()

        changes, norms = self._each(change), self._each(lambda _, weight: exact(weight).square().sum())
        shares = {name: math.sqrt(changes[name] / norm) if norm else 0.0 for name, norm in norms.items()}
        most = max(shares, key=lambda name: shares[name])
        norm = sum(norms.values())
        _log.info(
            "%s changes what the model computes before the first step: in evaluation its weights differ by %.1f %% of "
            "their norm from those that it came with, those of %s by %.1f %%",
            type(self.technique).__name__,
            100 * math.sqrt(sum(changes.values()) / norm) if norm else 0.0,
            most,
            100 * shares[most],
        )


def _check(weight: Weight) -> None:
    dtype = weight.parameter.dtype
    if dtype not in (torch.float32, torch.float64, *LOW):
        raise ValueError(
            f"{weight.name} is {dtype}, and only real floating-point weights can be random variables; leave it out "
            f"with select=excluding({weight.name!r})"
        )
    if is_offloaded(weight.parameter):
        raise ValueError(
            f"fully_shard keeps {weight.name} on the CPU, where nothing is gathered; call sparsify before fully_shard"
        )
    for site in weight.sites:
        if isinstance(site.module, nn.Embedding | nn.EmbeddingBag) and (site.module.max_norm or site.module.sparse):
            raise ValueError(
                f"{site.name}: an {type(site.module).__name__} with max_norm or sparse gradients cannot be a random "
                f"variable; leave it out with select=excluding({site.name!r})"
            )
