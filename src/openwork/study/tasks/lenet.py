"""LeNets on handwritten digits, trained as by Molchanov, Ashukha & Vetrov 2017 (arXiv 1701.05369; their code)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.study.data import digits, mnist
from openwork.study.data.batches import ordered_batches, shuffled_batches
from openwork.study.data.images import Images, centered, read_hub, read_parquet
from openwork.study.models.lenet import LeNet5Caffe, LeNet300100


@dataclass(frozen=True)
class ImageClassification(ABC):
    """Adam (beta 0.9, 0.999); the learning rate stays for half of the steps, then falls to 0 on a straight line."""

    batch_size: int = 100
    peak_learning_rate: float = 1e-3

    @property
    @abstractmethod
    def title(self) -> str:
        """A short name for tables and pictures."""

    @abstractmethod
    def model(self) -> nn.Module:
        """A freshly initialised model; draws from torch's global generator."""

    @abstractmethod
    def data(self, device: torch.device) -> tuple[Images, Images]:
        """Training and test images, centered, on the device."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        return torch.optim.Adam(model.parameters(), lr=self.peak_learning_rate, fused=True)

    def learning_rate(self, progress: float) -> float:
        """The peak * min(2 - 2 * progress, 1)."""
        return self.peak_learning_rate * min(2 - 2 * progress, 1.0)

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless (images (N, C, H, W) float, labels (N,)) in an order drawn for each epoch from the seed."""
        return shuffled_batches(self.data(device)[0], self.batch_size, seed=seed, start=start)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy in nats."""
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Accuracy (0-1) and mean cross-entropy in nats over the whole test set, in evaluation mode."""
        training = model.training
        model.eval()
        test = self.data(device)[1]
        correct, total = 0, 0.0
        for images, labels in ordered_batches(test, 1000):
            logits = model(images)
            correct += int((logits.argmax(1) == labels).sum())
            total += float(F.cross_entropy(logits, labels, reduction="sum"))
        model.train(training)
        return {"accuracy": correct / len(test.labels), "loss": total / len(test.labels)}


@dataclass(frozen=True)
class DigitsLeNet300100(ImageClassification):
    """LeNet-300-100 on scikit-learn's 8x8 digits: 1,437 training and 360 test images, no download."""

    title = "LeNet-300-100, digits 8x8"

    def model(self) -> nn.Module:
        """64-300-100-10: 50,200 weights."""
        return LeNet300100(inputs=64)

    def data(self, device: torch.device) -> tuple[Images, Images]:
        """8x8 pixels of 0-16."""
        return _digits(device)


@dataclass(frozen=True)
class MnistLeNet300100(ImageClassification):
    """LeNet-300-100 on MNIST: 60,000 training and 10,000 test images."""

    title = "LeNet-300-100, MNIST"

    def model(self) -> nn.Module:
        """784-300-100-10: 266,200 weights."""
        return LeNet300100()

    def data(self, device: torch.device) -> tuple[Images, Images]:
        """28x28 pixels of 0-255."""
        return _mnist(device)


@dataclass(frozen=True)
class MnistLeNet5Caffe(MnistLeNet300100):
    """LeNet-5-Caffe on MNIST; the learning rate falls on a straight line from the first step."""

    title = "LeNet-5-Caffe, MNIST"

    def model(self) -> nn.Module:
        """Two convolutions and two fully-connected layers: 430,500 weights."""
        return LeNet5Caffe()

    def learning_rate(self, progress: float) -> float:
        """The peak * (1 - progress)."""
        return self.peak_learning_rate * (1 - progress)


@dataclass(frozen=True)
class ImagesLeNet300100(ImageClassification):
    """LeNet-300-100 on your own images of one size: as many inputs and classes as they have.

    source: a folder of parquet files with the Hugging Face image schema, splits "train" and "test", or a hub name.
    """

    source: str = field(kw_only=True)

    @property
    def title(self) -> str:
        """The network and the name of the source."""
        return f"LeNet-300-100, {Path(self.source).name}"

    def model(self) -> nn.Module:
        """Pixels-300-100-classes."""
        train, _ = self.data(torch.device("cpu"))
        return LeNet300100(inputs=train.images[0].numel(), classes=int(train.labels.max()) + 1)

    def data(self, device: torch.device) -> tuple[Images, Images]:
        """8-bit pixels, scaled by 256."""
        return _images(self.source, device)


@cache
def _images(source: str, device: torch.device) -> tuple[Images, Images]:
    folder = Path(source)
    train, test = (
        read_parquet(folder, split) if folder.is_dir() else read_hub(source, split) for split in ("train", "test")
    )
    return _on(device, centered(train, test, mnist.SCALE))


@cache
def _digits(device: torch.device) -> tuple[Images, Images]:
    return _on(device, centered(digits.digits("train"), digits.digits("test"), digits.SCALE))


@cache
def _mnist(device: torch.device) -> tuple[Images, Images]:
    return _on(device, centered(mnist.mnist("train"), mnist.mnist("test"), mnist.SCALE))


def _on(device: torch.device, splits: tuple[Images, Images]) -> tuple[Images, Images]:
    train, test = (Images(split.images.to(device), split.labels.to(device)) for split in splits)
    return train, test
