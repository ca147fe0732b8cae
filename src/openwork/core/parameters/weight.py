"""The distribution of one weight tensor, and where it hangs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from openwork.core.layout import Layout
from openwork.core.precision import LOW, exact

Op = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x, weight, bias or None) -> the layer's output; linear in the weight, which it casts to the dtype of a float x."""


class ReparameterizedWeight(nn.Module, ABC):
    """The base of distributions of one weight tensor: a paper's mathematics, written once for every kind of layer.

    Each method gets the ``weight``, which is the layer's parameter; what is learned besides belongs to this module.
    Both are float32 at least: a float16 or bfloat16 parameter is cast, and so is what the methods return.
    """

    layout: Layout | None = None
    """How the layer stores the weight, known from `sparsify` on; None where it holds no matrices that are known."""
    by_rows: ClassVar[bool] = False
    """Whether all but the forward can be computed from some of the weight's rows, as each process does under FSDP2.

    Then `effective` gives these rows, and `cost` and `expected_nonzero` are sums over rows. Together with some rows the
    methods find the same rows of what is learned, where it has as many dimensions and rows as the weight, and all of
    what has not, such as a threshold of shape (1,). FSDP2 takes no shape ().
    """

    def __init_subclass__(cls) -> None:
        """Sums a subclass's own `cost` or `penalty`, unless it also says what they all cost; so with `by_rows`."""
        super().__init_subclass__()
        own = vars(cls).keys()
        if own & {"cost", "penalty"} and "costs" not in own:
            cls.costs = vars(ReparameterizedWeight)["costs"]  # type: ignore[method-assign]
        if own & {"cost", "costs", "penalty", "effective", "expected_nonzero"} and "by_rows" not in own:
            cls.by_rows = False

    def forward(
        self, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The layer's output in training, by default that of one sample of the weights.

        Args:
            op: The layer's operation, ``op(x, weight, bias)``; linear in the weight.
            x: The layer's input.
            weight: The layer's parameter.
            bias: The layer's bias, if there is one; in its own dtype.
            generator: On the weight's device; by default torch's.
        """
        return op(x, self.sample(weight, generator), bias)

    @abstractmethod
    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Weights drawn from the distribution, of ``weight``'s shape.

        Args:
            weight: The layer's parameter.
            generator: On the weight's device; by default torch's.
        """

    @abstractmethod
    def effective(self, weight: Tensor) -> Tensor:
        """The deterministic weights of evaluation, with exact zeros, of ``weight``'s shape."""

    def penalty(self, weight: Tensor) -> Tensor:
        """What the technique adds to the loss for this ``weight``, before its coefficient, shape (); by default 0."""
        return weight.new_zeros(())

    def cost(self, weight: Tensor, coefficient: Tensor) -> Tensor:
        """What the technique adds to the loss, shape (): coefficient * penalty, and any terms that have another factor.

        Args:
            weight: The layer's parameter.
            coefficient: The coefficient at this step, shape ().
        """
        return coefficient * self.penalty(weight)

    @classmethod
    def costs(cls, distributions: Sequence[Any], weights: Sequence[Tensor], coefficient: Tensor) -> Tensor:
        """The sum of each `cost`, shape (); override it where one pass over all weights is faster.

        Args:
            distributions: All of this very class whose weights are on one device.
            weights: The layers' parameters.
            coefficient: The coefficient at this step, shape ().
        """
        pairs = zip(distributions, weights, strict=True)
        return torch.stack([exact(each.cost(weight, coefficient)) for each, weight in pairs]).sum()

    def expected_nonzero(self, weight: Tensor) -> Tensor:
        """The expected number of non-zero elements of this ``weight`` in training, shape (); by default all."""
        return torch.full((), weight.numel(), device=weight.device)

    def follow(self, weight: Tensor, step: int, coefficient: Tensor) -> None:
        """Follows the training in place: puts what is learned into its range, chooses what lasts until another step.

        Called before training, after every optimizer step, and when a state has been loaded.

        Args:
            weight: The layer's parameter; do not change it.
            step: Completed optimizer steps.
            coefficient: The coefficient of the step to come, shape ().
        """
        return


def follows(distribution: ReparameterizedWeight) -> bool:
    """Whether it has a `follow` of its own."""
    return type(distribution).follow is not ReparameterizedWeight.follow


def write(buffer: Tensor, value: Tensor) -> None:
    """Writes a value of its shape to a buffer in `ReparameterizedWeight.follow`, also of many models at once."""
    if buffer.dtype == torch.bool:
        buffer.logical_and_(value).logical_or_(value)
    else:  # neither copy_ nor zero_ has a batching rule when vmap makes them functions
        buffer.clamp_(min=value, max=value)


def total_cost(
    distributions: Sequence[ReparameterizedWeight], weights: Sequence[Tensor], coefficient: Tensor
) -> Tensor:
    """What the distributions add to the loss, shape (), on ``coefficient``'s device: each class is asked once a device.

    Args:
        distributions: Of any classes.
        weights: The layers' parameters, float32 at least.
        coefficient: The coefficient at this step, shape ().
    """
    alike: dict[tuple[type[ReparameterizedWeight], torch.device], list[int]] = {}
    for place, (distribution, weight) in enumerate(zip(distributions, weights, strict=True)):
        alike.setdefault((type(distribution), weight.device), []).append(place)
    totals = [
        kind.costs([distributions[n] for n in places], [weights[n] for n in places], coefficient.to(device))
        for (kind, device), places in alike.items()
    ]
    return torch.stack([exact(total).to(coefficient.device) for total in totals]).sum()


class Learned(nn.Module):
    """What a module learns besides its weights, by their names: ``module.reparam``. Stays in float32 at least."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_restore_precision)  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Learned":
        """Moves to another device or dtype, as ``model.to`` asks, but never to float16 or bfloat16.

        Masks stay masks, also where ``model.type`` asks for floats.
        """

        def apply(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            lowered = new.dtype in LOW and tensor.dtype not in LOW
            no_mask = tensor.dtype is torch.bool and new.dtype is not torch.bool
            return tensor.to(new.device) if lowered or no_mask else new

        super()._apply(apply, recurse)  # type: ignore[no-untyped-call]
        return self


def _restore_precision(module: nn.Module, incompatible: object) -> None:
    """Undoes what ``load_state_dict(..., assign=True)`` may have done."""
    if any(tensor.dtype in LOW for tensor in [*module.parameters(), *module.buffers()]):
        module._apply(exact)  # type: ignore[no-untyped-call]


def learned(module: nn.Module) -> str:
    """The name of the submodule with what the module learns besides: "reparam", unless the module has one of its own.

    Adds the submodule where there is none yet.
    """
    for name, child in module._modules.items():
        if isinstance(child, Learned):
            return name
    name = "reparam"
    while hasattr(module, name):
        name += "_"
    module.add_module(name, Learned())
    return name
