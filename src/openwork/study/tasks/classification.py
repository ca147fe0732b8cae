"""What the tasks that classify images have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.study.data.batches import ordered_batches, shuffled_batches
from openwork.study.data.images import Images
from openwork.study.evaluation.metric import ACCURACY
from openwork.study.tasks.task import Task


@dataclass(frozen=True)
class ImageClassification(Task, ABC):
    """Adam (beta 0.9, 0.999); the learning rate stays for half of the steps, then falls to 0 on a straight line."""

    batch_size: int = 100
    peak_learning_rate: float = 1e-3

    metric = ACCURACY

    @abstractmethod
    def data(self, device: torch.device) -> tuple[Images, Images]:
        """Training and test images on the device, as `batches` and `logits` take them."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
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


def decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer that decays all parameters but those of random variables.

    Weight decay is a prior. A weight that is a random variable has that of its technique, and what is learned besides,
    on the submodule ``reparam``, is no weight: the optimizer decays neither.
    """
    means, learned = _random(model)
    return _groups(model, weight_decay, [p for p in model.parameters() if id(p) not in means | learned])


def kernels_decayed(model: nn.Module, weight_decay: float, *, random: bool) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer that decays matrices and kernels alone, not norms and biases.

    random: also the means of random variables, which otherwise have the decay of their technique alone.
    """
    means, learned = _random(model)
    spared = learned if random else means | learned
    return _groups(model, weight_decay, [p for p in model.parameters() if p.dim() > 1 and id(p) not in spared])


def _random(model: nn.Module) -> tuple[set[int], set[int]]:
    """The ids of the parameters that are means of random variables, and of what is learned besides."""
    means: set[int] = set()
    others: set[int] = set()
    for module in model.modules():
        if isinstance(learned := module._modules.get("reparam"), nn.ModuleDict):
            others |= {id(parameter) for parameter in learned.parameters()}
            means |= {id(module._parameters[leaf]) for leaf in learned}
    return means, others


def _groups(model: nn.Module, weight_decay: float, chosen: list[nn.Parameter]) -> list[dict[str, Any]]:
    ids = {id(parameter) for parameter in chosen}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    decays = ((chosen, weight_decay), (rest, 0.0))
    return [{"params": parameters, "weight_decay": decay} for parameters, decay in decays if parameters]
