"""The base class of tasks that classify images, and what their optimizers share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.core.optimizers import Groups, parameter_groups
from openwork.core.selection import Select, all_parameters
from openwork.core.sparsifier import Sparsifier
from openwork.study.data.batches import ordered_batches, shuffled_batches, stacked_indices
from openwork.study.data.images import Images
from openwork.study.data.splits import Splits
from openwork.study.evaluation.metric import ACCURACY, DataName, Metric
from openwork.study.tasks.task import Models, Task


@dataclass(frozen=True)
class ImageClassification(Task, ABC):
    """A task that classifies images, with Adam (beta 0.9, 0.999).

    The learning rate stays at its peak for half of the steps, then falls to 0 on a straight line.

    Args:
        batch_size: Images of a step.
        peak_learning_rate: The highest learning rate.
        held_out: How many of the training images, the last ones, are not trained on. Training is watched on these, and
            the test set is read once, at the end; with 0 training is watched on the test set.
        judged_on: The data of the final metrics. With "validation", the held-out images, nothing reads the test set:
            for runs that settings are chosen by.
        order: The seed of the batches, so that runs of other seeds see the same ones; None is the run's own seed.

    Raises:
        ValueError: If held_out or order is negative, or if no images are held out to be judged on.
    """

    batch_size: int = 100
    peak_learning_rate: float = 1e-3
    held_out: int = field(default=0, kw_only=True)
    judged_on: DataName = field(default="test", kw_only=True)
    order: int | None = field(default=None, kw_only=True)

    varying: ClassVar[tuple[str, ...]] = ("peak_learning_rate", "order")
    tests_more = False

    def __post_init__(self) -> None:
        if self.held_out < 0:
            raise ValueError(f"held_out must be at least 0, got {self.held_out}; MNIST's is 10000")
        if self.order is not None and self.order < 0:
            raise ValueError(f"order must be at least 0, got {self.order}; None is the run's own seed")
        if self.judged_on == "validation" and not self.held_out:
            raise ValueError(
                "judged_on='validation' needs images that are not trained on, got held_out=0; hold out some, such as "
                "10000 of MNIST"
            )

    @property
    @abstractmethod
    def benchmark(self) -> str:
        """The network and its data, with which the title begins."""

    @property
    def title(self) -> str:
        """The benchmark, how many images are held out, and whether the metrics are those of validation."""
        held_out = f", {self.held_out:,} held out" if self.held_out else ""
        return f"{self.benchmark}{held_out}{', validation' if self.judged_on == 'validation' else ''}"

    @property
    def metric(self) -> Metric:
        """The accuracy."""
        return ACCURACY.on(self.judged_on)

    @abstractmethod
    def data(self, device: torch.device) -> Splits:
        """The images on the device, as `batches` and `logits` take them."""

    def optimizer(self, model: nn.Module, sparsifier: Sparsifier | None = None) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        return torch.optim.Adam(model.parameters(), lr=self.peak_learning_rate, fused=True)

    def learning_rate(self, progress: float) -> float:
        """The peak * min(2 - 2 * progress, 1)."""
        return self.peak_learning_rate * min(2 - 2 * progress, 1.0)

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless (images (N, C, H, W) float, labels (N,)) in an order drawn for each epoch from `batch_seed`."""
        return shuffled_batches(self.data(device).train, self.batch_size, seed=self.batch_seed(seed), start=start)

    def stacked_batches(
        self, tasks: Sequence[Self], seeds: Sequence[int], start: int, device: torch.device
    ) -> Iterator[Any]:
        """The numbers of the images in the batches of runs, (runs, N), for `taking`."""
        return stacked(stacked_indices, tasks, seeds, start, device)

    def taking(self, device: torch.device, dtype: torch.dtype | None = None) -> Callable[[Any], Any]:
        """Makes (images (runs, N, C, H, W) float, labels (runs, N)) of their numbers."""
        data = self.data(device).train
        images, labels = data.images.to(dtype or data.images.dtype), data.labels
        return lambda index: (images[index], labels[index])

    def batch_seed(self, seed: int) -> int:
        """The seed of the batches of a run with that seed."""
        return seed if self.order is None else self.order

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """The model's float32 output (N, classes) for images."""
        logits: Tensor = model(images)
        return logits

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy in nats."""
        images, labels = batch
        return F.cross_entropy(self.logits(model, images), labels)

    def example(self, device: torch.device) -> Tensor:
        """The first image that training is watched on, (1, C, H, W)."""
        return self.data(device).validation.images[:1]

    @property
    def watched_on(self) -> DataName:
        """The held-out images, if there are any."""
        return "validation" if self.held_out else "test"

    def judge_on(self, data: DataName) -> Self:
        """The task, with other data for `test`."""
        return replace(self, judged_on=data)

    def leak(self, other: Task) -> str:
        """How a run of the other task has been trained on the held-out images; empty where it has not."""
        if not isinstance(other, type(self)) or other.held_out >= self.held_out:
            return ""
        return (
            f"the run holds out {self.held_out} images and the one that it starts from {other.held_out}, so that it "
            f"would be judged on images that it was trained on; set origin.run.task.held_out={self.held_out}, too"
        )

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Accuracy (0-1) and mean cross-entropy in nats on the held-out images, without any on the test set."""
        return self._measured(model, self.data(device).validation)

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """The same on the data of ``judged_on``."""
        if self.watched_on == self.judged_on:
            return self.evaluate(model, device)
        return self._measured(model, self.data(device).test)

    def evaluate_stacked(self, models: Models, device: torch.device) -> list[dict[str, float]]:
        """What `evaluate` measures, of all models at once."""
        return self._measured_stacked(models, self.data(device).validation)

    def test_stacked(self, models: Models, device: torch.device) -> list[dict[str, float]]:
        """What `test` measures, of all models at once."""
        data = self.data(device)
        return self._measured_stacked(models, data.validation if self.watched_on == self.judged_on else data.test)

    def _measured_stacked(self, models: Models, data: Images) -> list[dict[str, float]]:
        if not models.together:
            return [self._measured(model, data) for model in models.each]
        # As many images at a time as in training, so that the memory of evaluation is no larger.
        size = self.batch_size * models.batches_at_once
        accuracies, losses = measure(partial(models.outputs, self.logits), data, batch_size=size)
        pairs = zip(accuracies.tolist(), losses.tolist(), strict=True)
        return [{"accuracy": accuracy, "loss": loss} for accuracy, loss in pairs]

    def _measured(self, model: nn.Module, data: Images) -> dict[str, float]:
        training = model.training
        model.eval()
        accuracy, loss = measure(partial(self.logits, model), data)
        model.train(training)
        return {"accuracy": float(accuracy), "loss": float(loss)}


@torch.no_grad()
def measure(logits: Callable[[Tensor], Tensor], data: Images, *, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    """The accuracy (0-1) and mean cross-entropy in nats over all images, float64, of one model or of many at once.

    Args:
        logits: From images (N, C, H, W) to (..., N, classes), where the leading axes are those of models.
        data: The images.
        batch_size: How many of them go through the models at once.

    Returns:
        Two tensors of the shape of the leading axes, () of one model.
    """
    correct = total = torch.zeros((), dtype=torch.float64, device=data.labels.device)
    for images, labels in ordered_batches(data, batch_size):
        found = logits(images)
        expected = labels.expand(found.shape[:-1])
        losses = F.cross_entropy(found.flatten(0, -2), expected.flatten(), reduction="none").view(expected.shape)
        correct = correct + (found.argmax(-1) == expected).sum(-1)
        # In float64 sums do not depend on how many models there are.
        total = total + losses.sum(-1, dtype=torch.float64)
    return correct / len(data.labels), total / len(data.labels)


def stacked(
    draw: Callable[..., Iterator[Any]],
    tasks: Sequence[ImageClassification],
    seeds: Sequence[int],
    start: int,
    device: torch.device,
) -> Iterator[Any]:
    """What ``draw``, such as `stacked_indices`, gives for the training images and the seeds of runs; see `Task`."""
    size, batch_size = len(tasks[0].data(device).train.labels), tasks[0].batch_size
    own = [task.batch_seed(seed) for task, seed in zip(tasks, seeds, strict=True)]
    return draw(size, batch_size, seeds=own, start=start, device=device)


def channels_last(model: nn.Module) -> nn.Module:
    """The model, its weights in the layout that a GPU's convolutions want."""
    # torch's stubs do not know the argument.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def decayed(
    model: nn.Module,
    sparsifier: Sparsifier | None,
    weight_decay: float,
    *,
    among: Select = all_parameters,
    means: bool = False,
) -> Groups:
    """Parameter groups for an optimizer that decays all parameters ``among`` the model's but random weights.

    Args:
        model: The model.
        sparsifier: What makes it sparse, None for a dense one.
        weight_decay: The decay of those parameters.
        among: Which parameters are decayed.
        means: Decay the means of random weights, too; otherwise only their technique decays them.
    """
    if sparsifier is None:
        return parameter_groups(model, weight_decay, decayed=among, spared=())
    return sparsifier.parameter_groups(weight_decay, decayed=among, means=means)


def scaled(groups: Groups, model: nn.Module, factor: float) -> Groups:
    """The groups, of which what a technique learns beside the weights has its own, with this factor of the rate.

    Args:
        groups: Parameter groups of the model.
        model: The model, with what a technique has added to it.
        factor: What training multiplies the learning rate of these parameters by: the key ``scale`` of their groups.

    Raises:
        ValueError: If there are none.
    """
    learned = {id(parameter) for name, parameter in model.named_parameters() if ".reparam." in f".{name}"}
    if not learned:
        raise ValueError(f"learned_rate is {factor:g}, and nothing is learned beside the weights; leave it out")
    found: Groups = []
    for group in groups:
        for own in (False, True):
            if parameters := [each for each in group["params"] if (id(each) in learned) is own]:
                found.append(group | {"params": parameters} | ({"scale": factor} if own else {}))
    return found


def kernels(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """True for matrices and kernels, not for norms and biases."""
    return parameter.dim() > 1
