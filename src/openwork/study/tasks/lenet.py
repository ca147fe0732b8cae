"""LeNets on handwritten digits, trained as by Molchanov, Ashukha & Vetrov 2017 (arXiv 1701.05369; their code)."""

from abc import ABC
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Self

import torch
from torch import nn

from openwork.study.data import digits, mnist
from openwork.study.data.images import Images, centered, on_device, read_hub, read_parquet
from openwork.study.data.splits import Splits, splits
from openwork.study.models.lenet import LeNet5Caffe, LeNet300100, draw_as_lasagne
from openwork.study.tasks.classification import ImageClassification
from openwork.study.tasks.task import check_part


@dataclass(frozen=True)
class LeNet(ImageClassification, ABC):
    """The base of tasks with a LeNet.

    Args:
        lasagne: Draw the initial weights as SparseVD's code does (`draw_as_lasagne`), not as PyTorch.
        beginning: The fraction of its training that is done when a run ends; below 1, it is part of a longer one.
        behind: The fraction that lies behind it when it begins.
    """

    lasagne: bool = field(default=False, kw_only=True)
    beginning: float = field(default=1.0, kw_only=True)
    behind: float = field(default=0.0, kw_only=True)

    varying = (*ImageClassification.varying, "lasagne", "beginning", "behind")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_part(self)

    def first(self, fraction: float) -> Self:
        """The task of a run that is this fraction of one of this task."""
        return replace(self, beginning=self.done(fraction))

    def rest(self, fraction: float) -> Self:
        """The task of a run that is what follows this fraction of one of this task."""
        return replace(self, behind=self.done(fraction))

    def learning_rate(self, progress: float) -> float:
        """The peak * min(2 - 2 * progress, 1), with the progress of the whole training."""
        return super().learning_rate(self.done(progress))

    def drawn(self, network: nn.Module) -> nn.Module:
        """The network, with the initial weights of the task."""
        return draw_as_lasagne(network) if self.lasagne else network


@dataclass(frozen=True)
class DigitsLeNet300100(LeNet):
    """LeNet-300-100 on scikit-learn's 8x8 digits: 1,437 training and 360 test images, no download."""

    benchmark = "LeNet-300-100, digits 8x8"

    def model(self) -> nn.Module:
        """64-300-100-10: 50,200 weights."""
        return self.drawn(LeNet300100(inputs=64))

    def data(self, device: torch.device) -> Splits:
        """8x8 pixels of 0-16."""
        return _digits(device, self.held_out)


@dataclass(frozen=True)
class MnistLeNet300100(LeNet):
    """LeNet-300-100 on MNIST: 60,000 training and 10,000 test images."""

    benchmark = "LeNet-300-100, MNIST"

    def model(self) -> nn.Module:
        """784-300-100-10: 266,200 weights."""
        return self.drawn(LeNet300100())

    def data(self, device: torch.device) -> Splits:
        """28x28 pixels of 0-255."""
        return _mnist(device, self.held_out)


@dataclass(frozen=True)
class MnistLeNet5Caffe(MnistLeNet300100):
    """LeNet-5-Caffe on MNIST; the learning rate falls on a straight line from the first step."""

    benchmark = "LeNet-5-Caffe, MNIST"

    def model(self) -> nn.Module:
        """Two convolutions and two fully-connected layers: 430,500 weights."""
        return self.drawn(LeNet5Caffe())

    def learning_rate(self, progress: float) -> float:
        """The peak * (1 - progress), with the progress of the whole training."""
        return self.peak_learning_rate * (1 - self.done(progress))


@dataclass(frozen=True)
class ImagesLeNet300100(LeNet):
    """LeNet-300-100 on your own images of one size: as many inputs and classes as they have.

    Args:
        batch_size: Images of a step.
        peak_learning_rate: The highest learning rate.
        held_out: As `ImageClassification` has it, like ``judged_on`` and ``order``.
        source: A folder of parquet files with the Hugging Face image schema, splits "train" and "test", or a hub name.
    """

    source: str = field(kw_only=True)

    @property
    def benchmark(self) -> str:
        """The network and the name of the source."""
        return f"LeNet-300-100, {Path(self.source).name}"

    def model(self) -> nn.Module:
        """Pixels-300-100-classes."""
        train = self.data(torch.device("cpu")).train
        return self.drawn(LeNet300100(inputs=train.images[0].numel(), classes=int(train.labels.max()) + 1))

    def data(self, device: torch.device) -> Splits:
        """8-bit pixels, scaled by 256."""
        return _images(self.source, device, self.held_out)

    def with_images(self, source: str) -> Self:
        """The task with the images of another source."""
        return replace(self, source=source)


@cache
def _images(source: str, device: torch.device, held_out: int) -> Splits:
    folder = Path(source)
    train, test = (
        read_parquet(folder, split) if folder.is_dir() else read_hub(source, split) for split in ("train", "test")
    )
    return _centered(train, test, held_out, device, mnist.SCALE)


@cache
def _digits(device: torch.device, held_out: int) -> Splits:
    return _centered(digits.digits("train"), digits.digits("test"), held_out, device, digits.SCALE)


@cache
def _mnist(device: torch.device, held_out: int) -> Splits:
    return _centered(mnist.mnist("train"), mnist.mnist("test"), held_out, device, mnist.SCALE)


def _centered(train: Images, test: Images, held_out: int, device: torch.device, scale: float) -> Splits:
    return splits(train, test, held_out, lambda train, others: on_device(device, centered(train, others, scale)))
