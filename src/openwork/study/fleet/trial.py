"""A step of one run of a fleet, alone: it says whether the stacked step is the run's own.

A stack computes with the tensors of all runs and the Python of the first one. What `same.py` and `common.py` cannot see
of that, or a hook of a parameter or of an optimizer, would be lost without a word.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from openwork.core.masks.check import DivergedError
from openwork.study.fleet.training import Training
from openwork.study.runs.checkpoint import load_training
from openwork.study.runs.live import Live
from openwork.study.tasks.check import try_evaluation
from openwork.study.training.loop import train

EXACT, ROUNDED = 0.1, 0.5
"""How far a step may be from the one alone, as a part of it: Adam's is whole where a gradient is 0 up to rounding."""

Kinds = dict[str, list[Tensor]]


class Trial:
    """The run's next step, alone.

    Args:
        live: A run of the fleet, made once more.
        state: The content of its checkpoint; None without one.

    Raises:
        ValueError: If the task's model or optimizer has hooks of its own, which a stack would not call. Whatever the
            task's own code raises.
    """

    def __init__(self, live: Live, state: Mapping[str, Any] | None) -> None:
        task, device = live.run.task, live.device
        self._before = _tensors(live, {})
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            try_evaluation(task, device)
            if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in task.model().parameters()):
                raise ValueError(f"the model of {task.title} has hooks at its parameters, which see one run each")
            optimizer = task.optimizer(live.model, live.sparsifier)
            if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
                raise ValueError(f"the optimizer of {task.title} has hooks, which see one run each")
            if live.sparsifier:
                live.sparsifier.attach(optimizer)
            start = load_training(dict(state), optimizer, device)[-1]["step"] if state else 0
            self._loss = self._step(live, optimizer, start)
        self._after = _tensors(live, optimizer.state_dict())
        if live.sparsifier:
            live.sparsifier.detach()

    def check(self, training: Training, number: int, *, exact: bool) -> None:
        """Compares the step with that of a stack.

        Args:
            training: The fleet, after that step.
            number: The run's number in it.
            exact: Whether products are those of float32.

        Raises:
            ValueError: If they differ by more than their rounding.
        """
        if self._loss is None:
            return
        near, far = (1e-3, EXACT) if exact else (0.05, ROUNDED)
        live, loss = training.stack.lives[number], training.last_losses()[number]
        found = [] if abs(loss - self._loss) <= near * (1 + abs(self._loss)) else ["loss"]
        for kind, stacked in _tensors(live, training.states()[number]).items():
            if not _near(stacked, self._after.get(kind, []), self._before.get(kind), far):
                found.append(kind)
        if found:
            raise ValueError(
                f"a step of run {live.run.id} alone comes to another {found[0]}: perhaps its task, model or technique "
                "uses a number of its own that is no tensor of the model"
            )

    @staticmethod
    def _step(live: Live, optimizer: torch.optim.Optimizer, start: int) -> float | None:
        """Trains for a step; the sum of loss and penalty, None where there is no step or the run diverges in it."""
        run = live.run
        settings: dict[str, Any] = {"steps": run.steps, "seed": run.seed, "start": start, "every": 1}
        stretch: Iterator[tuple[int, dict[str, float]]] = train(
            run.task, live.model, optimizer, live.objective, device=live.device, **settings
        )
        try:
            with _NoHooks(run.task.title):
                _, losses = next(stretch, (start, {"train_loss": math.nan}))
        except DivergedError:
            return None
        total = sum(losses.values())
        return total if math.isfinite(total) else None


class _NoHooks(TorchFunctionMode):
    """Within it, nobody hooks a tensor that is computed: in a stack it needs no gradient, and code may pass over it.

    Args:
        title: The task's, for the ValueError.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.register_hook and args[0].grad_fn is not None:
            raise ValueError(f"{self._title} registers hooks at tensors that it computes, which see one run each")
        return func(*args, **(kwargs or {}))


def generators(device: torch.device) -> Tensor:
    """The state of torch's generators, of which only vmap on a GPU would refuse the use.

    Args:
        device: The one whose generator runs might use besides that of the CPU.
    """
    cpu = torch.get_rng_state()
    return torch.cat([cpu, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else cpu


def _tensors(live: Live, optimizer: Mapping[str, Any]) -> Kinds:
    """Copies of the floating-point tensors of the model and of its optimizer's state, by what they are."""
    found: Kinds = {"weight": [*live.model.parameters()], "buffer": [*live.model.buffers()]}
    for _, kept in sorted(optimizer.get("state", {}).items()):
        for name, value in kept.items():
            if isinstance(value, Tensor):
                found.setdefault(f"{name} of the optimizer", []).append(value)
    return {
        kind: [each.detach().double() for each in tensors if each.is_floating_point()]
        for kind, tensors in found.items()
    }


def _near(stacked: Sequence[Tensor], alone: Sequence[Tensor], before: Sequence[Tensor] | None, far: float) -> bool:
    """Whether the tensors of a kind differ by at most this part of what the step did to them."""
    if len(stacked) != len(alone):  # what an optimizer keeps of a weight without a gradient, perhaps
        return True
    difference = _norm([s - a for s, a in zip(stacked, alone, strict=True)])
    moved = _norm([a - b for a, b in zip(alone, before, strict=True)]) if before else _norm(alone)
    return difference <= far * moved + 1e-5 * _norm(alone) + 1e-9


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))
