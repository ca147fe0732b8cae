"""Adam of stacked models by operations of our own, which know the masks and each model's learning rate.

A gradient is multiplied by no mask: the operations see in the second moments which weights are masked
(`openwork.kernels.adam.mark_masked`).
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor

from openwork.kernels.adam import adam_scales, mark_masked, stacked_adam
from openwork.study.fleet.optimizers import StackedOptimizer

_UNUSUAL = ("amsgrad", "maximize", "differentiable", "decoupled_weight_decay", "scale")


class Adam:
    """What moves parameters in place of the optimizers, in whose states the moments are as ever.

    Args:
        optimizers: Those of the stacked models, with their states loaded.
        masks: The masks by parameter, (N, *shape), 0 where a weight stays 0, whatever its gradient is.

    Attributes:
        settings: Those of the optimizers by parameter, of the parameters that `torch.optim.Adam` trains everywhere
            alike, without `amsgrad` or `maximize`.
        masked: Those that have masks.
        names: The parameters that `step` moves.
    """

    def __init__(self, optimizers: Sequence[StackedOptimizer], masks: Mapping[str, Tensor]) -> None:
        self.settings = _settings(optimizers)
        self.masked = masks.keys()
        self._optimizers, self._masks = optimizers, masks
        device = next(iter(optimizers[0].parameters.values())).device
        self._rates = torch.zeros(sum(each.count for each in optimizers), device=device)
        self._steps: dict[str, list[Tensor]] = {}  # each optimizer's own, as in torch: shared ones count too often
        self._squares: dict[str, Tensor] = {}
        self._moved: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def names(self) -> AbstractSet[str]:
        """See above."""
        return self._moved.keys()

    def take(self, name: str, parameter: Tensor) -> None:
        """Lets `step` move a parameter from now on.

        Args:
            name: The parameter's.
            parameter: (N, *shape) float32, contiguous.
        """
        self._moved[name] = (parameter.detach(), *self.moments(name, parameter.detach()))

    def moments(self, name: str, parameter: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """The moments of a parameter, of which each optimizer has its part as its own state from now on.

        Args:
            name: The parameter's.
            parameter: (N, *shape).
            dtype: Of the moments.
        """
        kept = [torch.zeros_like(parameter, dtype=dtype) for _ in range(2)]
        self._steps[name] = []
        for each in self._optimizers:
            state = each.optimizer.state.setdefault(each.parameters[name], {})
            for slot, tensor in zip(("exp_avg", "exp_avg_sq"), kept, strict=True):
                if slot in state:
                    tensor[each.place].copy_(state[slot])
                state[slot] = tensor[each.place]
            state["step"] = torch.zeros((), device=parameter.device).copy_(state.get("step", torch.zeros(())))
            self._steps[name].append(state["step"])
        self._squares[name] = kept[1]
        self._mark(name)
        return kept[0], kept[1]

    def take_masks(self) -> None:
        """Takes over the masks; to be called whenever they have changed."""
        for name in self._squares:
            self._mark(name)

    def rate(self, progress: float) -> None:
        """Sets the learning rates.

        Args:
            progress: The fraction of the steps that is done.
        """
        if not self._steps:
            return
        rates = [optimizer.task.learning_rate(progress) for optimizer in self._optimizers]
        if len(rates) == 1:
            self._rates.fill_(rates[0])
        else:
            counts = torch.tensor([optimizer.count for optimizer in self._optimizers])
            self._rates.copy_(torch.tensor(rates).repeat_interleave(counts))

    # What follows does the same on the device each time, so that a CUDA graph may hold it.

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Moves the parameters that it has taken and whose gradients, (N, *shape), are here."""
        for name, constants in self.begin([name for name in self._moved if name in gradients]).items():
            stacked_adam(*self._moved[name], gradients[name].contiguous(), *constants)

    def begin(self, names: Sequence[str]) -> dict[str, tuple[Tensor, float, float, float, float]]:
        """Counts a step of these parameters; returns `adam_scales`, β₁, β₂, ε and the weight decay of each in it."""
        found = {}
        if names:
            torch._foreach_add_([step for name in names for step in self._steps[name]], 1)
        for betas in dict.fromkeys(self.settings[name]["betas"] for name in names):  # at once: these are small numbers
            alike = [name for name in names if self.settings[name]["betas"] == betas]
            steps = torch.stack([self._steps[name][0] for name in alike])
            for name, scales in zip(alike, adam_scales(self._rates, steps[:, None], betas), strict=True):
                found[name] = (scales, *betas, self.settings[name]["eps"], self.settings[name]["weight_decay"])
        return found

    @torch.no_grad()
    def _mark(self, name: str) -> None:
        if name in self._masks:
            mark_masked(self._squares[name], self._masks[name])


def _settings(optimizers: Sequence[StackedOptimizer]) -> dict[str, dict[str, Any]]:
    """Adam's settings by parameter, of those that have one in all optimizers."""
    found: list[dict[str, dict[str, Any]]] = []
    for each in optimizers:
        if type(each.optimizer) is not torch.optim.Adam:
            return {}
        names = {id(parameter): name for name, parameter in each.parameters.items()}
        found.append(
            {
                names[id(parameter)]: {name: group[name] for name in ("betas", "eps", "weight_decay")}
                for group in each.optimizer.param_groups
                if not any(group.get(name) for name in _UNUSUAL)
                for parameter in group["params"]
                if id(parameter) in names  # others are frozen
            }
        )
    return {name: one for name, one in found[0].items() if all(other.get(name) == one for other in found)}
