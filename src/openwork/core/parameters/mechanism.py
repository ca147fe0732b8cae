"""Reparameterising: weights that are random variables; the dense parameter stays and is the mean.

The module that owns a weight switches its class in place. The module object and its ``state_dict`` keys stay. What is
learned besides hangs on one submodule, ``module.reparam``, by the parameter's name there; for a tied weight, on the
first module that has it. Layers that torch itself defines get a forward of `layers.py`. Any other module keeps its own
forward, in which the weight reads as a sample, drawn once. Other code that reads the weight, as MultiheadAttention
reads ``out_proj.weight``, also gets a sample; in evaluation all get the deterministic weight. Both are read-only.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from openwork.core.dead_paths import empty_layer
from openwork.core.mechanism import Calibrate, Mechanism, whole_number
from openwork.core.ownership import RANDOM
from openwork.core.parameters.layers import NOISE_SEED, RandomWeight, deterministic
from openwork.core.parameters.stacked import StackedRandom
from openwork.core.parameters.switch import PLAIN, switched
from openwork.core.parameters.weight import Learned, ReparameterizedWeight, learned, total_cost
from openwork.core.precision import LOW, exact
from openwork.core.schedules import Schedule
from openwork.core.seeding import seeded_generator
from openwork.core.selection import Weight
from openwork.core.sharded import is_sharded

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
        self.random = technique.penalised
        self._refuse_shards()
        for weight in weights:
            _check(weight)
        generators = [seeded_generator(seed, 0, weight.name) for weight in weights]
        self.distributions = technique.distributions([exact(w.parameter.detach()) for w in weights], generators)
        if len(self.distributions) != len(weights):
            raise ValueError(
                f"{type(technique).__name__}.distributions returned {len(self.distributions)} for {len(weights)} "
                "weights; return one for each"
            )
        for distribution in self.distributions:
            distribution._apply(exact)  # type: ignore[no-untyped-call]

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
            module.__class__ = switched(type(module), tuple(module.__dict__[RANDOM]))
        if _log.isEnabledFor(logging.INFO):
            self._log_change()

    def attached(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Raises ValueError for weights that FSDP2 has sharded since `sparsify`."""
        self._refuse_shards()

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the distributions learn besides the weights, by name."""
        return {
            f"{place}.{name}": parameter
            for place, distribution in self.places().items()
            for name, parameter in distribution.named_parameters()
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
        with torch.no_grad():
            return {
                w.name: int((deterministic(d, w.parameter) == 0).sum())
                for w, d in zip(self.weights, self.distributions, strict=True)
            }

    def penalty(self) -> Tensor:
        """What the distributions add to the loss at this step, shape (), float32 at least; tied weights count once."""
        weights = [exact(weight.parameter) for weight in self.weights]
        return total_cost(self.distributions, weights, self._coefficient.to(weights[0].device))

    def expected_nonzero(self) -> dict[str, float]:
        """The expected number of non-zero weights in training, by name."""
        with torch.no_grad():
            return {
                w.name: float(d.expected_nonzero(exact(w.parameter)))
                for w, d in zip(self.weights, self.distributions, strict=True)
            }

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
        with torch.no_grad():
            return {
                w.name: deterministic(d, w.parameter) != 0
                for w, d in zip(self.weights, self.distributions, strict=True)
            }

    def add_penalty_gradient(self, parameters: list[nn.Parameter], scale: Tensor | None) -> None:
        """Adds the gradient of the penalty to those of ``parameters``."""
        with torch.enable_grad():
            penalty = self.penalty() if scale is None else self.penalty() * scale
            if parameters:
                torch.autograd.backward(penalty, inputs=parameters)

    def after_step(self, step: int | None, owned: list[int], optimizer: torch.optim.Optimizer | None) -> None:
        """Takes the next step's coefficient and noise, once a step is completed."""
        if step is not None:
            self._move_on(step)

    def _move_on(self, step: int) -> None:
        """The penalty's coefficient, and the noise of the cells, which lasts for a step."""
        schedule = self.technique.coefficient
        self._coefficient.fill_(schedule(step) if schedule else 0.0)
        with torch.no_grad():
            for distribution in self.distributions:
                distribution.constrain()
        for site in (site for weight in self.weights for site in weight.sites):
            if isinstance(site.module, nn.RNNCellBase):
                name = site.name.removesuffix(site.leaf)
                site.module.__dict__[NOISE_SEED] = seeded_generator(self.seed, step, name).initial_seed()

    def finalize(self, model: nn.Module, *, in_place: bool) -> nn.Module:
        """The model, or a copy of it, of plain modules whose weights are the deterministic ones.

        In place, the mechanism lets its distributions go.
        """
        if not in_place:
            model = copy.deepcopy(model)
        modules = [module for module in model.modules() if type(module) in PLAIN]
        written: set[int] = set()
        for module in modules:
            for leaf, (_, distribution) in module.__dict__[RANDOM].items():
                parameter = module._parameters[leaf]
                assert parameter is not None
                if id(parameter) not in written:  # L0 would multiply a tied weight by its gate twice
                    with torch.no_grad():
                        parameter.copy_(deterministic(distribution, parameter) + 0.0)  # no -0.0
                    written.add(id(parameter))
        for module in modules:
            for name in [name for name, child in module._modules.items() if isinstance(child, Learned)]:
                del module._modules[name]
            for own in (RANDOM, NOISE_SEED):
                module.__dict__.pop(own, None)
            module.__class__ = PLAIN[type(module)]
        if in_place:
            self.distributions = []
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

    @torch.no_grad()
    def _log_change(self) -> None:
        """Says how far evaluation is from the model as it came, which may have been trained."""
        squares = {}
        for weight, distribution in zip(self.weights, self.distributions, strict=True):
            values = exact(weight.parameter)
            change = distribution.effective(values) - values
            squares[weight.name] = float(change.square().sum()), float(values.square().sum())
        shares = {name: math.sqrt(change / norm) if norm else 0.0 for name, (change, norm) in squares.items()}
        most = max(shares, key=lambda name: shares[name])
        change, norm = (sum(parts) for parts in zip(*squares.values(), strict=True))
        _log.info(
            "%s changes what the model computes before the first step: in evaluation its weights differ by %.1f %% of "
            "their norm from those that it came with, those of %s by %.1f %%",
            type(self.technique).__name__,
            100 * math.sqrt(change / norm) if norm else 0.0,
            most,
            100 * shares[most],
        )

    def _refuse_shards(self) -> None:
        for weight in self.weights:
            if is_sharded(weight.parameter):
                raise ValueError(
                    f"{type(self.technique).__name__} does not work under fully_shard, which holds {weight.name}: its "
                    "penalty needs whole weights; use DistributedDataParallel, or a technique with masks"
                )


def _check(weight: Weight) -> None:
    dtype = weight.parameter.dtype
    if dtype not in (torch.float32, torch.float64, *LOW):
        raise ValueError(
            f"{weight.name} is {dtype}, and only real floating-point weights can be random variables; leave it out "
            f"with select=excluding({weight.name!r})"
        )
    for site in weight.sites:
        if isinstance(site.module, nn.Embedding | nn.EmbeddingBag) and (site.module.max_norm or site.module.sparse):
            raise ValueError(
                f"{site.name}: an {type(site.module).__name__} with max_norm or sparse gradients cannot be a random "
                f"variable; leave it out with select=excluding({site.name!r})"
            )
