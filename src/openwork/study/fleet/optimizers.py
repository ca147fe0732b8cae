"""The tasks' own optimizers, over stacked parameters."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.masks.optimizer_state import keeps_zeros
from openwork.kernels.masks import mask_
from openwork.study.runs.live import Live

SHARED = {"step", "eta", "mu", "mu_product"}
"""What torch's elementwise optimizers keep of the number of steps alone: of the shape of a parameter () by chance."""


class StackedOptimizer:
    """The optimizer of neighbouring runs whose tasks have equal settings.

    Each number has an optimizer of its own anyway in torch's elementwise optimizers, so one that holds the stacked
    parameters does what one for each run would do.

    Args:
        lives: The runs of the fleet.
        place: Which of them are these.
        parameters: The stacked parameters of the fleet, by name.

    Attributes:
        place: Where these runs lie in the stacked tensors.
        parameters: Their part of the stacked parameters, as the optimizer holds them; without frozen ones.

    Raises:
        ValueError: If the task's optimizer is no elementwise one of torch's, or trains other tensors than the model's.
    """

    def __init__(self, lives: Sequence[Live], place: slice, parameters: Mapping[str, Tensor]) -> None:
        first = lives[place.start]
        self.task, self.place, self.count = first.run.task, place, place.stop - place.start
        self.optimizer = self.task.optimizer(first.model, first.sparsifier)
        if not keeps_zeros(self.optimizer):
            raise ValueError(
                f"{self.task.title} trains with {type(self.optimizer).__name__}, which is none of torch's elementwise "
                "optimizers"
            )
        self._format = self.optimizer.state_dict()["param_groups"]
        self.parameters = {name: nn.Parameter(tensor.detach()[place]) for name, tensor in parameters.items()}
        names = {id(parameter): name for name, parameter in first.model.named_parameters()}
        self._order: list[str] = []
        for group in self.optimizer.param_groups:
            if not all(id(parameter) in names for parameter in group["params"]):
                raise ValueError(f"the optimizer of {self.task.title} trains a tensor that is not the model's")
            names_here = [names[id(parameter)] for parameter in group["params"]]
            # A frozen one is there for its place, which states count by; it never has a gradient.
            own = zip(names_here, group["params"], strict=True)
            group["params"] = [self.parameters.get(name, parameter) for name, parameter in own]
            self._order += names_here

    @property
    def waits(self) -> bool:
        """Whether a step on a GPU waits for the device, so that no CUDA graph can hold it."""
        return not all("capturable" in group for group in self.optimizer.param_groups)

    def rate(self, progress: float) -> None:
        """Sets the learning rate.

        Args:
            progress: The fraction of the steps that is done.
        """
        peak = self.task.learning_rate(progress)
        for group in self.optimizer.param_groups:
            rate = peak * group.get("scale", 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            elif "capturable" in group and group["params"][0].is_cuda:
                group["lr"] = torch.full((), rate, device=group["params"][0].device)  # as CUDA graphs want it
                group["capturable"] = True
            else:
                group["lr"] = rate

    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """Moves those of the parameters that have gradients here: of the whole fleet, by name."""
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name][self.place] if name in gradients else None
        self.optimizer.step()

    @torch.no_grad()
    def clear(self, masks: Mapping[str, Tensor]) -> None:
        """Zeroes the state under the masks of the fleet, by weight: momentum would move a masked weight."""
        for name, mask in masks.items():
            for slot in self._slots(name):
                mask_([slot], [mask[self.place]])

    @torch.no_grad()
    def restart(self, members: Sequence[int], names: Collection[str]) -> None:
        """Zeroes the state of these weights in these members of the fleet."""
        rows = [member - self.place.start for member in members if self.place.start <= member < self.place.stop]
        for name in names if rows else ():
            for slot in self._slots(name):
                slot[rows] = 0

    def states(self) -> list[dict[str, Any]]:
        """The state of each run's own optimizer, as its ``state_dict`` would return it, with views of the tensors."""
        states = {name: self.optimizer.state.get(parameter, {}) for name, parameter in self.parameters.items()}
        whole = [states.get(name, {}) for name in self._order]
        return [
            {
                "state": {
                    place: {key: self._row(value, number, self._order[place]) for key, value in state.items()}
                    for place, state in enumerate(whole)
                    if state
                },
                "param_groups": self._format,
            }
            for number in range(self.count)
        ]

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Takes over what the optimizers of the runs, trained to one step, returned from ``state_dict``."""
        for place, name in enumerate(self._order):
            if name not in self.parameters:
                continue
            kept = [state["state"].get(place, {}) for state in states]
            parameter = self.parameters[name]
            self.optimizer.state[parameter] = {
                key: torch.stack([each[key].to(parameter.device) for each in kept]).contiguous()
                if key not in SHARED and self._is_slot(value, name)
                else self._placed(value, parameter.device)
                for key, value in kept[0].items()
            }

    def _slots(self, name: str) -> list[Tensor]:
        """The state that is a number for each weight; none of one that is frozen, or has had no gradient yet."""
        parameter = self.parameters.get(name)
        if parameter is None:
            return []
        kept = self.optimizer.state.get(parameter, {}).values()
        return [value for value in kept if isinstance(value, Tensor) and value.shape == parameter.shape]

    def _placed(self, value: Any, device: torch.device) -> Any:
        """What all runs share, where the step looks for it: beside the parameters if a graph may hold the step."""
        return value.to(device) if isinstance(value, Tensor) and not self.waits else value

    def _is_slot(self, value: Any, name: str) -> bool:
        return isinstance(value, Tensor) and value.shape == self.parameters[name].shape[1:]

    def _row(self, value: Any, number: int, name: str) -> Any:
        if isinstance(value, Tensor) and value.shape == self.parameters[name].shape:
            return value[number]
        return value
