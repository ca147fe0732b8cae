"""N models as one: their tensors are rows of stacked ones, and the first one computes for all.

It does so by `torch.func.vmap`, or, where a step of one model fills the device, for one after the other: nothing is
gained by larger kernels then, and each model has those that it has alone, for the memory of one step
(on a GPU up to four: `lanes.py`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

from openwork.core.stacked import Stacked, call_with, move, stack, stacked
from openwork.noise import keyed, keys
from openwork.study.fleet.common import common
from openwork.study.fleet.convolutions import Unfolded
from openwork.study.fleet.lanes import Lanes
from openwork.study.fleet.linear import StraightLinears
from openwork.study.fleet.memory import fills_the_device
from openwork.study.fleet.same import check_same
from openwork.study.runs.live import Live
from openwork.study.tasks.task import Task

Gradients = Callable[[Any, Tensor], tuple[Tensor, Tensor, dict[str, Tensor]]]
"""(batch, steps done) -> losses (N,), penalties (N,), and the gradient of their sum by parameter."""


class StackedModels:
    """Models of one shape, whose tensors become rows of stacked ones.

    Args:
        models: The models, on one device.
        in_turn: Compute one after the other.
        batches_at_once: How many times as many models were trained together.

    Attributes:
        each: The models.
        together: Whether they compute at once.
        batches_at_once: As `Models` has it.
        parameters: Their trained parameters by name, (N, *shape).
        buffers: Their other tensors by name, (N, *shape).
        mechanism: What makes them sparse, once it is there; None for plain ones.

    Raises:
        ValueError: If the models have tensors of different names, shapes or dtypes, or freeze different ones.
    """

    def __init__(self, models: Sequence[nn.Module], *, in_turn: bool = False, batches_at_once: int = 1) -> None:
        self.each, self.together, self.batches_at_once = models, not in_turn, batches_at_once
        tensors = [_tensors(model) for model in models]
        shapes = _shapes(tensors[0])
        for number, each in enumerate(tensors):
            if _shapes(each) != shapes:
                raise ValueError(f"model {number} has other tensors than the first one; train it alone")
        whole = {name: stacked([each[name] for each in tensors]) for name in shapes}
        trained = {name for name, parameter in models[0].named_parameters() if parameter.requires_grad}
        self.parameters = {name: tensor for name, tensor in whole.items() if name in trained}
        self.buffers = {name: tensor for name, tensor in whole.items() if name not in trained}
        self.mechanism: Stacked | None = None

    @torch.no_grad()
    def outputs(self, function: Callable[[nn.Module, Any], Tensor], argument: Any) -> Tensor:
        """What ``function`` returns for each model in evaluation mode and the argument, stacked: (N, ...).

        Args:
            function: Calls the model that it is given.
            argument: The same for all models.
        """
        if not self.together:
            return torch.stack([_evaluated(model, function, argument) for model in self.each])
        model = self.each[0]
        call = _Call(model, function)

        def one(tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
            with self._using(inputs), self._layers():
                found: Tensor = call_with(call, tensors, argument)
            return found

        inputs = self.mechanism.inputs if self.mechanism else {}
        training = model.training
        model.eval()
        found: Tensor = vmap(one)(_named(self.parameters | self.buffers), inputs)
        model.train(training)
        return found

    def leave(self, members: Sequence[int], copied: Callable[[Tensor], Tensor]) -> None:
        """Moves models that will not be computed with any more to the CPU, where they can be saved.

        Args:
            members: Their numbers.
            copied: Returns a tensor's copy there.
        """
        if self.mechanism:
            self.mechanism.leave(members, copied)
        for tensors in zip(*(_tensors(self.each[member]).values() for member in members), strict=True):
            move(tensors, copied)

    def _layers(self) -> AbstractContextManager[object]:
        if not self.together:
            return nullcontext()
        on_gpu = next(iter(self.parameters.values())).is_cuda  # on a CPU convolutions are no slower in groups
        return _straight_products() if on_gpu else StraightLinears()

    def _using(self, inputs: Mapping[str, Tensor]) -> AbstractContextManager[object]:
        return self.mechanism.using(inputs) if self.mechanism else nullcontext()


@dataclass(frozen=True)
class SomeModels:
    """Some of the stacked models, as `Models`.

    Args:
        stack: All of them.
        numbers: The numbers of these.
    """

    stack: StackedModels
    numbers: Sequence[int]

    @property
    def batches_at_once(self) -> int:
        """One: all of them compute."""
        return 1

    @property
    def each(self) -> list[nn.Module]:
        """The models."""
        return [self.stack.each[number] for number in self.numbers]

    @property
    def together(self) -> bool:
        """Whether they compute at once."""
        return self.stack.together

    def outputs(self, function: Callable[[nn.Module, Any], Tensor], argument: Any) -> Tensor:
        """As those of all, of these."""
        return self.stack.outputs(function, argument)[[*self.numbers]]


class Stack(StackedModels):
    """The models of runs in the middle of their training, which go on being the runs' own.

    Args:
        lives: The runs.

    Attributes:
        task: What computes for all of them (`openwork.study.fleet.common`).

    Raises:
        ValueError: If their models or what makes them sparse cannot be stacked.
    """

    def __init__(self, lives: Sequence[Live]) -> None:
        super().__init__([live.model for live in lives], in_turn=fills_the_device(lives[0]))
        check_same(self.each)
        self.lives, self.task = lives, common([live.run.task for live in lives])
        sparsifiers = [live.sparsifier for live in lives if live.sparsifier]
        self.mechanism = stack(sparsifiers, self.parameters | self.buffers) if sparsifiers else None
        for parameter in self.parameters.values():
            parameter.requires_grad_()
        self.seeds = torch.tensor([live.run.seed for live in lives], device=lives[0].device)
        self._objective = _Objective(lives[0], self.task)

    def gradients(
        self, *, shared: bool, compile: bool = False, without: Collection[str] = (), anchor: Tensor | None = None
    ) -> Gradients:
        """A function that computes the losses of a step and their gradients.

        Args:
            shared: Whether all runs have the same batch; otherwise each of its tensors has a first axis of N.
            compile: Whether to compile it, at its first call.
            without: Parameters whose gradients nobody needs.
            anchor: What leads autograd to the layers of these.
        """

        def one(tensors: Mapping[str, Tensor], inputs: Mapping[str, Tensor], key: Tensor, batch: Any) -> Any:
            with keyed(key), self._using(inputs), self._layers():
                return call_with(self._objective, tensors, batch)

        if not self.together:
            return self._in_turn(one, shared=shared, compile=compile)
        every = vmap(one, in_dims=(0, 0, 0, None if shared else 0))

        def compute(
            parameters: dict[str, Tensor],
            buffers: dict[str, Tensor],
            inputs: dict[str, Tensor],
            seeds: Tensor,
            steps: Tensor,
            batch: Any,
        ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            losses, penalties = every(_named(parameters | buffers), inputs, keys(seeds, steps), batch)
            wanted = {name: parameter for name, parameter in parameters.items() if name not in without}
            leaves = [*wanted.values(), *([] if anchor is None else [anchor])]
            gradients = _gradients((losses + penalties).sum(), leaves, wanted)
            return losses.detach(), penalties.detach(), gradients

        inputs = self.mechanism.inputs if self.mechanism else {}
        if compile:
            call = _compiled(compute)
            return lambda batch, steps: call(self.parameters, self.buffers, inputs, self.seeds, steps, batch)
        return lambda batch, steps: compute(self.parameters, self.buffers, inputs, self.seeds, steps, batch)

    def _in_turn(self, one: Callable[..., Any], *, shared: bool, compile: bool) -> Gradients:
        """What `gradients` returns, where ``one`` is called for each model."""

        def compute(
            parameters: dict[str, Tensor],
            buffers: dict[str, Tensor],
            inputs: dict[str, Tensor],
            key: Tensor,
            batch: Any,
        ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            loss, penalty = one(_named(parameters | buffers), inputs, key, batch)
            gradients = _gradients(loss + penalty, [*parameters.values()], parameters)
            return loss.detach(), penalty.detach(), gradients

        call = _compiled(compute) if compile else compute
        inputs = self.mechanism.inputs if self.mechanism else {}

        lanes = Lanes(self.seeds.device)

        def of_row(row: int, key: Tensor, batch: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            # Leaves of their own: the gradient by a row of a leaf would be as large as all rows.
            own = {name: whole.detach()[row].requires_grad_() for name, whole in self.parameters.items()}
            buffers, read = ({name: whole[row] for name, whole in each.items()} for each in (self.buffers, inputs))
            with lanes.lane(row):
                found: tuple[Tensor, Tensor, dict[str, Tensor]] = call(own, buffers, read, key, batch)
            return found

        def every(batch: Any, steps: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            rows = enumerate(keys(self.seeds, steps))
            with lanes.forked():
                found = [of_row(n, key, batch if shared else tree_map(itemgetter(n), batch)) for n, key in rows]
            losses, penalties, gradients = zip(*found, strict=True)
            whole = {name: torch.stack([each[name] for each in gradients]) for name in gradients[0]}
            return torch.stack(losses), torch.stack(penalties), whole

        return every


@contextmanager
def _straight_products() -> Iterator[None]:
    """Within it, convolutions are products as well."""
    with StraightLinears(), Unfolded():
        yield


class _Objective(nn.Module):
    """Loss and penalty of one run, as a module, so that `call_with` may replace its tensors."""

    def __init__(self, live: Live, task: Task) -> None:
        super().__init__()
        self.live, self.model, self.task = live, live.model, task

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self.task.loss(self.model, batch), self.live.penalty()


class _Call(nn.Module):
    """A function of a model, as a module, for the same reason."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, argument: Any) -> Tensor:
        return self.function(self.model, argument)


def _gradients(total: Tensor, leaves: Sequence[Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The gradients by the first of the leaves, which have these names; without those that nothing depends on."""
    pairs = zip(names, torch.autograd.grad(total, leaves, allow_unused=True), strict=False)
    # Contiguous: torch's fused optimizers take a transposed gradient for a straight one.
    return {name: each.contiguous() for name, each in pairs if each is not None}


def _compiled(compute: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose first argument is the leaves by name, compiled at its first call."""
    made: Callable[..., Any] | None = None

    @torch.no_grad()
    def call(leaves: Mapping[str, Tensor], *args: Any) -> Any:
        nonlocal made
        if made is None:
            # Traced before it is compiled: Dynamo would have to follow vmap, functional_call and our modules.
            with torch.enable_grad():
                traced = make_fx(compute, tracing_mode="fake")(leaves, *args)
            made = torch.compile(traced, fullgraph=True)
        return made({name: leaf.detach() for name, leaf in leaves.items()}, *args)

    return call


def _evaluated(model: nn.Module, function: Callable[[nn.Module, Any], Tensor], argument: Any) -> Tensor:
    training = model.training
    model.eval()
    found = function(model, argument)
    model.train(training)
    return found


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model by their names in the modules above, which hold it as ``model``."""
    return {f"model.{name}": tensor for name, tensor in tensors.items()}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype, bool]]:
    return {name: (tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in tensors.items()}
