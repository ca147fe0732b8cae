"""What a benchmark provides."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from openwork.core.sparsifier import Sparsifier
from openwork.study.evaluation.metric import DataName, Metric
from openwork.study.tasks.parts import refuse_parts
from openwork.study.tasks.translator import Translator


class Models(Protocol):
    """Several models of one shape."""

    @property
    def each(self) -> Sequence[nn.Module]:
        """The models."""

    @property
    def together(self) -> bool:
        """Whether they compute at once; otherwise nothing is gained by `outputs`."""

    @property
    def batches_at_once(self) -> int:
        """How many batches of training fit the memory at once, since more models than these were trained together."""

    def outputs(self, function: Callable[[nn.Module, Any], Tensor], argument: Any) -> Tensor:
        """What ``function`` returns for each model in evaluation mode and the argument, stacked: (models, ...)."""


class Task(ABC):
    """A benchmark as a frozen dataclass: its fields are part of a run's identity.

    A subclass provides the abstract methods and `metric`. The other methods are abilities that a task may have; a task
    without one refuses with the reason.
    """

    varying: ClassVar[tuple[str, ...]] = ()
    """The fields whose numbers may differ between runs that are trained as one model.

    `model`, `optimizer`, `learning_rate` and `batches` may read them, as each run's own; what `model` makes of one must
    be a tensor of the model. `loss`, `evaluate` and `test` compute for all runs at once: where one of them reads a
    field that differs, the runs are trained one by one.
    """

    @property
    @abstractmethod
    def title(self) -> str:
        """A short name for tables and pictures."""

    @property
    def metric(self) -> Metric:
        """What the task's models are judged by: a value that `evaluate` returns, or `test` where the task has one.

        Raises:
            ValueError: If the task does not declare it.
        """
        raise ValueError(
            f"{type(self).__name__} does not declare what its models are judged by; set `metric = ACCURACY`, or a "
            "Metric of your own, in the class"
        )

    @abstractmethod
    def model(self) -> nn.Module:
        """A freshly initialised model; draws from torch's global generator."""

    @abstractmethod
    def optimizer(self, model: nn.Module, sparsifier: Sparsifier | None = None) -> torch.optim.Optimizer:
        """The optimizer of all the model's parameters.

        A parameter group may have a number ``scale``, by which training multiplies the learning rate.

        Args:
            model: The model, with what a technique has added to it.
            sparsifier: What makes it sparse, None for a dense one; its `Sparsifier.parameter_groups` are for an
                optimizer with weight decay.
        """

    @abstractmethod
    def learning_rate(self, progress: float) -> float:
        """The learning rate when the fraction ``progress`` in [0, 1) of the steps is done."""

    @property
    def behind(self) -> float:
        """The fraction of its training that is done when a run begins: 0, unless a task can be trained in part."""
        return 0.0

    @property
    def beginning(self) -> float:
        """The fraction of its training that is done when a run ends: 1, unless a task can be trained in part."""
        return 1.0

    def done(self, progress: float) -> float:
        """How much of its training is done when a run has made this progress, both in [0, 1]."""
        return self.behind + (self.beginning - self.behind) * progress

    def first(self, fraction: float) -> Self:
        """The task of a run that is the first part of one of this task, with the learning rates of the whole.

        Args:
            fraction: Of the steps, in (0, 1).

        Raises:
            ValueError: If the task cannot be trained in part.
        """
        raise ValueError(f"{self.title} cannot be trained in part; give its task a field `beginning` as LeNets have it")

    def rest(self, fraction: float) -> Self:
        """The task of a run that is the last part of one of this task, with the learning rates of the whole.

        Args:
            fraction: Of the steps, in (0, 1), that are left out.

        Raises:
            ValueError: If the task cannot be trained in part.
        """
        raise ValueError(f"{self.title} cannot be trained in part; give its task a field `behind` as LeNets have it")

    @abstractmethod
    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Any]:
        """Endless training batches, each as `loss` takes it, or `Parts` of it.

        Args:
            seed: Decides the batches.
            start: The step of the first batch; each step has the same batch whatever the start.
            device: Where the batches go.
        """

    def batch_seed(self, seed: int) -> int:
        """The seed that decides the batches of a run with that ``seed``, by default the same one."""
        return seed

    def stacked_batches(
        self, tasks: Sequence[Self], seeds: Sequence[int], start: int, device: torch.device
    ) -> Iterator[Any]:
        """What `taking` makes the batches of runs of; by default the batches, stacked.

        Args:
            tasks: Those of the runs, which differ in `varying` alone.
            seeds: Those of the runs.
            start: The step of the first batch.
            device: Where the batches go.

        Raises:
            ValueError: If the task's batches are `Parts`.
        """
        each = [task.batches(seed, start, device) for task, seed in zip(tasks, seeds, strict=True)]
        for batches in zip(*each, strict=False):
            refuse_parts(batches[0], self.title)
            yield tree_map(lambda *tensors: torch.stack(tensors), *batches)

    def taking(self, device: torch.device, dtype: torch.dtype | None = None) -> Callable[[Any], Any]:
        """A function that makes stacked batches of what `stacked_batches` yields; by default they are the same.

        The tensors of a stacked batch have a first axis of the number of runs. The function does the same operations on
        the device each time, so that a CUDA graph may hold them.

        Args:
            device: Where the batches go.
            dtype: What products round images to, so that these may be in it; None for none.
        """
        return lambda batch: batch

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss of a batch, shape ()."""

    @abstractmethod
    def example(self, device: torch.device) -> Any:
        """One example as the model's input, to count FLOPs and to export with; a tuple is several arguments."""

    @property
    def axes(self) -> dict[int, str]:
        """The axes of `example` whose size may vary when the model is used, and their names."""
        return {0: "batch"}

    @abstractmethod
    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Metrics of the model while it trains, by name: `metric`'s, and what else is worth a look, such as "loss"."""

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Metrics of a trained model; by default those of `evaluate`.

        A task defines its own where the full measure takes too long during training, or training is watched on other
        data, which it then says in `watched_on`.
        """
        return self.evaluate(model, device)

    def evaluate_stacked(self, models: Models, device: torch.device) -> list[dict[str, float]]:
        """What `evaluate` returns for each model; by default one after the other."""
        return [self.evaluate(model, device) for model in models.each]

    def test_stacked(self, models: Models, device: torch.device) -> list[dict[str, float]]:
        """What `test` returns for each model; by default one after the other."""
        return [self.test(model, device) for model in models.each]

    @property
    def watched_on(self) -> DataName:
        """The data that `evaluate` measures; "validation" where a task keeps the test set for the end."""
        return "test"

    @property
    def judged_on(self) -> DataName:
        """The data that `test` measures; "validation" while settings are chosen. The title must then say so."""
        return "test"

    def judge_on(self, data: DataName) -> Self:
        """The task, with other data for `test`.

        Raises:
            ValueError: If the task has no such data.
        """
        if data == self.judged_on:
            return self
        raise ValueError(f"{self.title} holds no {data} data out; leave --on out")

    def leak(self, other: "Task") -> str:
        """How a run of the other task has been trained on what this one holds out; empty where it has not."""
        return ""

    @property
    def tests_more(self) -> bool:
        """Whether `test` measures more than `evaluate`, and the metric may be missing there.

        By default where a task has its own `test`.
        """
        return type(self).test is not Task.test

    @property
    def evaluates_quickly(self) -> bool:
        """Whether openwork tries `evaluate` with a new model before each run; otherwise it checks the first evaluation.

        False for tasks whose evaluation takes more than a moment.
        """
        return True

    @property
    def metrics_note(self) -> str:
        """A line to print below the figures of `test` that says what they are; empty where their names say it."""
        return ""

    def weights_from(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Another program's state dict, with the names of `model`; by default as it is."""
        return state

    def with_images(self, source: str) -> Self:
        """The task with the images of another source.

        Raises:
            ValueError: If the task has only its own images, or can tell that the others show other classes.
        """
        raise ValueError(f"--data is for tasks with a source, and {self.title} has no other images; leave --data out")

    def with_vocabulary(self, file: str) -> Self:
        """The task with the vocabulary of a file.

        Raises:
            ValueError: If the task has no vocabulary, or makes its own.
        """
        raise ValueError(f"--vocabulary is for a run on text files; {self.title} always makes its own, so leave it out")

    def translator(self) -> Translator:
        """The task as one that translates sentences.

        Raises:
            ValueError: If it does not translate.
        """
        raise ValueError(f"{self.title} does not translate; give a run of a task that does")


def check_part(task: Task) -> None:
    """Raises ValueError for a task that is no part of a training, from ``behind`` to ``beginning``."""
    if not 0 < task.beginning <= 1:
        raise ValueError(f"beginning must be in (0, 1], the fraction of a training, got {task.beginning}")
    if not 0 <= task.behind < task.beginning:
        raise ValueError(f"behind must be in [0, {task.beginning:g}), where the training ends, got {task.behind}")
