"""What a sparsifier saw of the training, and whether the model still has the tensors that it follows."""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from openwork.core.mechanism import Mechanism
from openwork.core.selection import Weight
from openwork.core.sharded import is_offloaded, is_sharded, version
from openwork.core.snapshot import rescales
from openwork.words import count

Places = dict[str, nn.Parameter | None]
"""The tensor at each place where a selected weight hangs, by the name there."""

_SWAPS = 2
"""Swapping averaged weights in and out moves a weight between two gradients no oftener."""


class _Moves:
    """A hook on a parameter that counts the gradients before which it was moved since the gradient before."""

    def __init__(self) -> None:
        self.count = 0
        self.last: int | None = None  # the version at the last gradient

    def __call__(self, parameter: Tensor) -> None:
        now = version(parameter)
        self.count += self.last is not None and now != self.last
        self.last = now


def _stands_for(now: nn.Parameter | None, then: nn.Parameter | None) -> bool:
    """Whether ``now`` is what FSDP2 puts in the place of a shard between forward and backward.

    That is the whole tensor, or with ``reshard_after_forward=<number>`` a shard on another mesh.
    """
    if then is None or not is_sharded(then):
        return False
    return now is not None and not (is_sharded(now) and now.device_mesh == then.device_mesh)


def _rescaled(weight: Weight) -> bool:
    return any(rescales(site.module) for site in weight.sites)


class Seen:
    """What a sparsifier saw of the training in this process.

    Args:
        model: The sparsified module.
        weights: The selected weights.
    """

    def __init__(self, model: nn.Module, weights: Sequence[Weight]) -> None:
        self.model = model
        self.weights = weights
        self.trained = False
        """Whether a step was completed since `sparsify`, or since a state was loaded."""
        self.penalty = False
        """Whether the penalty was taken."""
        self._optimizers = ""
        self._places: Places = {}
        self._shapes = {weight.name: weight.parameter.shape for weight in weights}
        self._frozen: list[Weight] = []
        trained = [weight for weight in weights if weight.parameter.requires_grad]
        self._watched = next((weight for weight in trained if not _rescaled(weight)), [*trained, *weights][0])
        self._moves = _Moves()
        self._hook: RemovableHandle | None = None
        self._watch()

    def find(self) -> Places:
        """The tensors at the places of the weights, which may have other names in the model by now.

        Raises:
            ValueError: If a place is no longer in the model, a tensor has another shape than in `sparsify`, or what was
                one tensor there is several now, or the other way round.
        """
        found: Places = {}
        owners: dict[int, str] = {}
        modules = {id(module) for module in self.model.modules()}
        for weight in self.weights:
            for site in weight.sites:
                if id(site.module) not in modules:
                    raise ValueError(
                        f"{site.name} is no longer in the model; put its layer back, or replace it before sparsify or "
                        "after finalize"
                    )
                now = found[site.name] = site.module._parameters.get(site.leaf)
                if now is not found[weight.name]:
                    raise ValueError(
                        f"{weight.name} and {site.name} were one tensor in sparsify and are two now; tie them again, "
                        "or untie them before sparsify or after finalize"
                    )
            other = owners.setdefault(id(now), weight.name)
            if other != weight.name:
                raise ValueError(
                    f"{other} and {weight.name} were two tensors in sparsify and are one now; tie them before sparsify "
                    "or after finalize"
                )
            self._check_shape(weight, now)
        return found

    def attach(self, places: Places, optimizers: Sequence[torch.optim.Optimizer], *, penalty: bool) -> None:
        """Takes note that the optimizers are attached.

        Args:
            places: The tensors as they are now.
            optimizers: The optimizers.
            penalty: Whether their steps take the penalty.
        """
        self._optimizers = " and ".join(type(optimizer).__name__ for optimizer in optimizers)
        self.penalty |= penalty
        self._places = places
        self._frozen = [weight for weight in self.weights if not weight.parameter.requires_grad]
        self._watch()

    def thawed(self) -> bool:
        """Whether a weight is trained now that was still frozen when this was last asked.

        Raises:
            ValueError: If another tensor has taken the place of one that `attach` saw.
        """
        for weight in self.weights:
            for site in weight.sites:
                then, now = self._places[site.name], site.module._parameters.get(site.leaf)
                if now is not then and not _stands_for(now, then):
                    raise ValueError(
                        f"{site.name} is another tensor than attach saw, and {self._optimizers} would go on with the "
                        "old one; write new values into the parameter with copy_(), or call detach(), make the "
                        "optimizer anew and attach it"
                    )
            self._check_shape(weight, then)
        thawed = [weight for weight in self._frozen if weight.parameter.requires_grad]
        self._frozen = [weight for weight in self._frozen if weight not in thawed]
        return bool(thawed)

    def step(self) -> None:
        """Takes note of a completed step, after which the weights are as they should be."""
        self.trained = True
        self._look()

    def load(self) -> None:
        """Takes note that a state was loaded: what came before it happened elsewhere."""
        self.trained = False
        self._look()

    def remarks(self, technique: str, mechanism: Mechanism, steps: int) -> list[str]:
        """What a user should know of a training that ends here, in sentences.

        Args:
            technique: The technique's name.
            mechanism: Its mechanism.
            steps: Completed steps, those before a state was loaded included.
        """
        found = []
        schedule, reached, others = mechanism.schedule, mechanism.reached(steps), self._others()
        if schedule is not None and reached is not None:
            if others and steps:
                seen = f"since the last of the {count(steps, 'step')} that it saw, {others}"
            elif not steps and self._optimizers:
                seen = f"{self._optimizers}, which is attached, made no step; attach the one that trains the model"
            elif not steps:
                seen = "it saw no step, since no optimizer was attached; call attach(optimizer) before training"
            else:
                seen = f"it saw {count(steps, 'step')}; train on, or choose a schedule that ends earlier"
            found.append(f"{technique} stopped at {reached:.3g} of a schedule up to {schedule.final:g}: {seen}")
        elif others:
            found.append(f"since the last of the {count(steps, 'step')} that {technique} saw, {others}")
        if mechanism.penalised and self.trained and not self.penalty:
            found.append(
                f"nothing took the penalty of {technique}, which makes the weights sparse; add sparsifier.penalty() to "
                "the loss, or attach(optimizer, penalty_gradient=True)"
            )
        return found

    def _check_shape(self, weight: Weight, parameter: nn.Parameter | None) -> None:
        then = self._shapes[weight.name]
        if parameter is not None and parameter.shape != then:
            raise ValueError(
                f"{weight.name} had the shape {tuple(then)} in sparsify and has {tuple(parameter.shape)} now; sparsify "
                "after such a change, and shard with fully_shard, not FSDP1"
            )

    def close(self) -> None:
        """Stops watching."""
        if self._hook is not None:
            self._hook.remove()

    def _watch(self) -> None:
        """Watches the parameter as it is now: FSDP2 replaces it by a shard."""
        self.close()
        parameter = self._watched.parameter
        if parameter.requires_grad and not is_offloaded(parameter):
            self._hook = parameter.register_post_accumulate_grad_hook(self._moves)  # type: ignore[no-untyped-call]
            weakref.finalize(self, self._hook.remove)  # a sparsifier may be abandoned
        self._look()

    def _look(self) -> None:
        self._version = version(self._watched.parameter)
        self._moves.count, self._moves.last = 0, None

    def _others(self) -> str:
        """What other code has done to a weight since the last step that was counted; "" for nothing unusual."""
        # Optimizers move weights after each gradient, but so does a forward that writes to its weight.
        if self._moves.count <= _SWAPS or _rescaled(self._watched):
            return ""
        writes = version(self._watched.parameter) - self._version
        return (
            f"other code wrote {writes} times to {self._watched.name}, as an optimizer does; attach the optimizer that "
            "trains the model"
        )
