"""Random weights under FSDP2: what a process has of them, and how its share of the penalty reaches the gradients.

In the forward FSDP2 gathers a layer's weight and what is learned with it, and averages their gradients. Everything else
is computed by each process from its rows: the sum over the processes is the penalty, and each gets the gradient of its
own rows, which nobody averages.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from openwork.core.parameters.shares import Shares, summed, total
from openwork.core.parameters.weight import ReparameterizedWeight
from openwork.core.selection import Weight
from openwork.core.sharded import Shards, is_fsdp, is_sharded, local, shards_of

Cost = Callable[[Sequence[ReparameterizedWeight], Sequence[Tensor]], Tensor]
"""(distributions, their weights) -> what they add to the loss together, shape ()."""


class Rows:
    """The rows of random weights that are in this process; all of them where FSDP2 does not shard a weight.

    Args:
        technique: The technique's name, for errors.
        weights: The weights.
        distributions: Their distributions.
    """

    def __init__(
        self, technique: str, weights: Sequence[Weight], distributions: Sequence[ReparameterizedWeight]
    ) -> None:
        self.technique = technique
        self.weights = weights
        self.distributions = distributions
        # FSDP2 puts whole tensors into the modules between forward and backward; the shards stay the parameters.
        self._shards: dict[tuple[int, str], nn.Parameter] = {}
        self._late = self.sharded()  # `sparsify` came after ``fully_shard``, which does not know what it added

    def sharded(self) -> bool:
        """Whether FSDP2 shards a weight, or did so at any time when one was looked at."""
        return bool(self._shards) or any(is_sharded(weight.parameter) for weight in self.weights)

    def find(self, *, settled: bool = False) -> list[nn.Parameter]:
        """The weights as the optimizer has them: DTensors where they are sharded.

        Args:
            settled: Whether no layer is between its forward and backward, so that all shards are in their places.

        Raises:
            ValueError: If the technique cannot work with the way in which they are sharded.
        """
        return [self._find(*pair, settled) for pair in zip(self.weights, self.distributions, strict=True)]

    @contextmanager
    def here(self, shares: "Shares | None" = None) -> Iterator[list[Tensor]]:
        """Within it, distributions hold what is learned with the rows that are here; yields these rows of each weight.

        Args:
            shares: Collects what to differentiate by, and where the gradients belong.
        """
        shares = Shares() if shares is None else shares
        found = self.find()
        pairs = zip(found, self.distributions, strict=True)
        learned = [(each, weight) for weight, distribution in pairs for each in self._sharded(weight, distribution)]
        whole = _gathered([each.parameter for each, weight in learned if not _has_rows(each.parameter, weight)])
        own = [(each.module, each.leaf, each.module._parameters[each.leaf]) for each, _ in learned]
        try:
            for each, _ in learned:
                part = shares.stand_for(each.parameter, whole.get(id(each.parameter)))
                each.module._parameters[each.leaf] = part  # type: ignore[assignment]
            yield [shares.stand_for(weight) if is_sharded(weight) else weight for weight in found]
        finally:
            for module, leaf, parameter in own:
                module._parameters[leaf] = parameter

    def penalty(self, cost: Cost) -> Tensor:
        """The sum over all weights and processes; in backward each process's share goes to its own parameters."""
        totals = []
        for shards, places in self._processes().items():
            shares = Shares()
            with self.here(shares) as rows:
                own = cost([self.distributions[place] for place in places], [rows[place] for place in places])
            totals.append(total(own, shards, shares))
        return torch.stack([each.to(totals[0].device) for each in totals]).sum()

    def add_gradient(self, cost: Cost, parameters: Sequence[Tensor], scale: Tensor | None) -> None:
        """Adds the gradient of the penalty to those of ``parameters``, which are as `find` gives them."""
        shares = Shares()
        with torch.enable_grad(), self.here(shares) as rows:
            own = cost(self.distributions, rows)
        inputs = [*{id(leaf): leaf for leaf in shares.inputs(parameters)}.values()]  # a mixture is that of many weights
        if inputs and own.requires_grad:  # of a technique without a penalty it is a constant
            # Not by backward(), which runs post-accumulate hooks of others a second time: they may step, or divide.
            found = torch.autograd.grad(own if scale is None else own * scale, inputs, allow_unused=True)
            for leaf, gradient in zip(inputs, found, strict=True):
                if gradient is not None and leaf.grad is None:
                    leaf.grad = gradient.clone()  # two leaves may have got one tensor
                elif gradient is not None:
                    leaf.grad.add_(gradient)
        shares.deliver()

    def learned(self, distribution: ReparameterizedWeight, *, settled: bool = False) -> "list[_Learned]":
        """What is learned besides a weight, as the optimizer has it."""
        return [
            _Learned(f"{prefix}.{leaf}" if prefix else leaf, module, leaf, self._held(module, leaf, parameter, settled))
            for prefix, module in distribution.named_modules()
            for leaf, parameter in module._parameters.items()
            if parameter is not None
        ]

    def _sharded(self, weight: Tensor, distribution: ReparameterizedWeight) -> "list[_Learned]":
        return self.learned(distribution) if is_sharded(weight) else []

    def _processes(self) -> dict[Shards, list[int]]:
        """Which weights are sharded over the same processes."""
        found: dict[Shards, list[int]] = {}
        for place, weight in enumerate(self.find()):
            found.setdefault(shards_of(weight), []).append(place)
        return found

    def _find(self, weight: Weight, distribution: ReparameterizedWeight, settled: bool) -> nn.Parameter:
        site, now = weight.sites[0], weight.parameter
        if is_sharded(now) and (settled or (id(site.module), site.leaf) not in self._shards):
            learned = self.learned(distribution, settled=settled)
            if reason := self._misfit(weight.name, now, type(distribution), learned):
                raise ValueError(reason)
        return self._held(site.module, site.leaf, now, settled)

    def _held(self, module: nn.Module, leaf: str, now: nn.Parameter, settled: bool) -> nn.Parameter:
        """What a module has by this name: its shard, even where FSDP2 has put something else there for some time."""
        place = id(module), leaf
        # With reshard_after_forward=<number> that may also be a shard, on a mesh of fewer processes.
        if is_sharded(now) and (settled or place not in self._shards):
            self._shards[place] = now  # type: ignore[assignment]
        return self._shards.get(place, now)

    def _misfit(self, name: str, weight: Tensor, kind: type[ReparameterizedWeight], learned: "list[_Learned]") -> str:
        """Why the technique cannot work with a weight as it is sharded; "" where it can."""
        shards_of(weight)
        if not kind.by_rows:
            return (
                f"{self.technique} does not work under fully_shard, which holds {name}: a {kind.__name__} needs whole "
                "weights; use DistributedDataParallel, or a technique with masks"
            )
        for leaf, module, _, own in learned:
            if is_fsdp(module):
                return (
                    f"fully_shard was called on the module that holds {leaf} of {name}, whose forward nobody calls; "
                    "call it on the layer or around it"
                )
            if not is_sharded(own):
                return f"fully_shard holds {name} but not its {leaf}; list both in ignored_params, or neither"
            if own.dtype != weight.dtype and not self._late:
                return (
                    f"{name} is {weight.dtype} and its {leaf} {own.dtype}, and fully_shard takes one dtype; keep the "
                    "model in float32, and pass mp_policy=MixedPrecisionPolicy(param_dtype=...)"
                )
        return ""


class _Learned(NamedTuple):
    name: str
    module: nn.Module
    leaf: str
    parameter: nn.Parameter


def _has_rows(parameter: Tensor, weight: Tensor) -> bool:
    """Whether what is learned has a row for each row of the weight."""
    return parameter.dim() == weight.dim() and parameter.shape[0] == weight.shape[0]


@torch.no_grad()
def _gathered(parameters: Sequence[Tensor]) -> dict[int, Tensor]:
    """All rows of sharded tensors by their ``id``, on the devices of their parts, in one communication."""
    own = []
    for parameter in parameters:
        rows = shards_of(parameter).own_rows(len(parameter))
        own.append(torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device))
        own[-1][rows] = local(parameter)
    found = zip(parameters, summed(list(zip(parameters, own, strict=True))), strict=True)
    return {id(parameter): whole for parameter, whole in found}
