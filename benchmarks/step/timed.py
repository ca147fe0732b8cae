"""A step of a model and a variant: built, compiled, and timed."""

import gc
import importlib
import random
import time
from ast import literal_eval
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from timing import milliseconds
from torch import Tensor

from .models import MODELS, Model
from .variants import VARIANTS

Series = dict[tuple[str, str, str], list[float]]
"""(name, unit, reference) -> numbers; a reference is another name, or empty."""

TIME, MEMORY = "ms a step", "GiB"
"""Units."""

_TRIES = 60  # while other processes, which compile as well, hold the device's memory
_FULL = ("out of memory", "ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "CUDNN_STATUS", "unable to find an engine")
T = TypeVar("T")


@dataclass(frozen=True)
class Counts:
    """How much is measured.

    Args:
        warmup: Steps before.
        steps: Steps that are timed.
    """

    warmup: int = 10
    steps: int = 40


class TimedStep:
    """A model with its variant, optimizer and compiled objective.

    Args:
        model: Of `MODELS`.
        variant: Of `VARIANTS`.
        device: Where it is trained.
        small: Whether sizes are such that a CPU takes them.
        backend: Of torch.compile.
    """

    def __init__(self, model: str, variant: str, device: torch.device, *, small: bool, backend: str) -> None:
        self.device, self.graph, self.variant = device, MODELS[model].graph, VARIANTS[variant]
        if device.type == "cuda" and self.graph == "step":
            # From the beginning: what the backward pass keeps of a stream must be that of the capture.
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            torch.cuda.set_stream(self.stream)
        patiently(lambda: self._make(MODELS[model], small, backend))

    def _make(self, model: Model, small: bool, backend: str) -> None:
        torch.manual_seed(0)
        training = model.make(self.device, small)
        prepared = self.variant.prepare(training.model)
        self.optimizer = training.optimizer()
        prepared.attach(self.optimizer)
        self.model, self.batch, self.replayed = training.model.train(), training.batch, prepared.replayed

        def objective(*batch: Tensor) -> Tensor:
            loss = training.loss(*batch)
            return loss if prepared.penalty is None else loss + prepared.penalty()

        self.objective: Callable[..., Tensor] = objective
        if self.variant.compiled and backend != "none":
            mode = self.graph if self.graph == "reduce-overhead" and backend == "inductor" else None
            self.objective = torch.compile(
                objective, fullgraph=self.variant.fullgraph, dynamic=False, backend=backend, mode=mode
            )

    def step(self) -> Tensor:
        """A step of training; returns the loss."""
        loss: Tensor = self.objective(*self.batch)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def compile(self) -> None:
        """Makes the first steps, which compile, and lets their memory go."""

        def first() -> None:
            for _ in range(3):
                self.step()

        patiently(first, self.rest)
        self.rest()

    def rest(self) -> None:
        """Gives memory that is not needed between steps back."""
        self.optimizer.zero_grad()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def measure(self, counts: Counts) -> Series:
        """Milliseconds of each step, and the peak of its memory in GiB on a GPU."""
        found: Series = {}
        self._run(self.step, counts.warmup)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._run(self.step, 2)
            found["", MEMORY, ""] = [torch.cuda.max_memory_allocated(self.device) / 2**30]
        with self._replayed() as step:
            self._run(step, counts.warmup)
            found["", TIME, ""] = self._run(step, counts.steps)
            if not bool(torch.isfinite(step())):
                raise FloatingPointError("the loss is not finite, and what computes with NaN may be faster")
        return found

    def _run(self, step: Callable[[], object], count: int) -> list[float]:
        def made() -> None:
            step()

        return milliseconds(made, count, self.device)

    @contextmanager
    def _replayed(self) -> Iterator[Callable[[], Tensor]]:
        """The step; that of one CUDA graph for a model that asks for it."""
        if self.device.type != "cuda" or self.graph != "step":
            yield self.step
            return
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            loss = self.step()

        def replay() -> Tensor:
            graph.replay()
            self.replayed()
            return loss

        yield replay
        torch.cuda.synchronize()
        graph.reset()


def patiently(run: Callable[[], T], rest: Callable[[], object] = gc.collect) -> T:
    """What ``run`` returns, as soon as there is memory for it.

    Args:
        run: May be called again and again.
        rest: Called in between; gives memory back.

    Raises:
        RuntimeError: What ``run`` raises, if it has another reason.
    """
    for _ in range(_TRIES):
        try:
            return run()
        except RuntimeError as error:
            if not any(text in str(error) for text in _FULL):
                raise
        rest()
        time.sleep(random.uniform(1, 5))
    return run()


def set_flags(flags: Sequence[str]) -> None:
    """Sets settings of torch's compiler.

    Args:
        flags: ``module.name=value``, such as ``functorch.ban_recompute_materialized_backward=False``; the module is
            dynamo, functorch or inductor.
    """
    for flag in flags:
        name, _, value = flag.partition("=")
        module, _, setting = name.partition(".")
        config = importlib.import_module(f"torch._{module}.config")
        if not hasattr(config, setting):
            raise ValueError(
                f"torch._{module}.config has no {setting!r}; give module.name=value of dynamo, functorch or inductor"
            )
        setattr(config, setting, literal_eval(value))
