"""The base class of tasks that classify images, and what their optimizers share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.core.optimizers import Groups, parameter_groups
from openwork.core.selection import Select, all_parameters
from openwork.core.sparsifier import Sparsifier
from openwork.study.data.batches import ordered_batches, shuffled_batches
from openwork.study.data.images import Images
from openwork.study.evaluation.metric import ACCURACY
from openwork.study.tasks.task import Task


@dataclass(frozen=True)
class ImageClassification(Task, ABC):
    """A task that classifies images, with Adam (beta 0.9, 0.999).

    The learning rate stays at its peak for half of the steps, then falls to 0 on a straight line.

    Args:
        batch_size: Images of a step.
        peak_learning_rate: The highest learning rate.
    """

    batch_size: int = 100
    peak_learning_rate: float = 1e-3

    metric = ACCURACY
    varying = ("peak_learning_rate",)

    @abstractmethod
    def data(self, device: torch.device) -> tuple[Images, Images]:
        """Training and test images on the device, as `batches` and `logits` take them."""

    def optimizer(self, model: nn.Module, sparsifier: Sparsifier | None = None) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        return torch.optim.Adam(model.parameters(), lr=self.peak_learning_rate, fused=True)

    def learning_rate(self, progress: float) -> float:
        """The peak * min(2 - 2 * progress, 1)."""
        return self.peak_learning_rate * min(2 - 2 * progress, 1.0)

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless (images (N, C, H, W) float, labels (N,)) in an order drawn for each epoch from the seed."""
        return shuffled_batches(self.data(device)[0], self.batch_size, seed=seed, start=start)

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """The model's float32 output (N, classes) for images."""
        logits: Tensor = model(images)
        return logits

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy in nats."""
        images, labels = batch
        return F.cross_entropy(self.logits(model, images), labels)

    def example(self, device: torch.device) -> Tensor:
        """The first test image, (1, C, H, W)."""
        return self.data(device)[1].images[:1]

    @torch.no_grad()
    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Accuracy (0-1) and mean cross-entropy in nats over the whole test set, in evaluation mode."""
        training = model.training
        model.eval()
        test = self.data(device)[1]
        correct, total = 0, 0.0
        for images, labels in ordered_batches(test, 1000):
            logits = self.logits(model, images)
            correct += int((logits.argmax(1) == labels).sum())
            total += float(F.cross_entropy(logits, labels, reduction="sum"))
        model.train(training)
        return {"accuracy": correct / len(test.labels), "loss": total / len(test.labels)}


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


def kernels(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """True for matrices and kernels, not for norms and biases."""
    return parameter.dim() > 1
