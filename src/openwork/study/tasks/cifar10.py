"""CIFAR-10: SparseVD's VGG-like network, and residual networks of CIFAR-10's own, wide or small.

Molchanov, Ashukha & Vetrov 2017, arXiv 1701.05369; Louizos, Welling & Kingma 2018, arXiv 1712.01312; their code. On a
GPU layers compute in bfloat16 (autocast), parameters and losses in float32.
"""

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn

from openwork.core.sparsifier import Sparsifier
from openwork.study.data import cifar10
from openwork.study.data.batches import cropped_batches, cut, padded, stacked_crops
from openwork.study.data.images import Images, on_device
from openwork.study.data.splits import Splits, splits
from openwork.study.data.whitening import whitened
from openwork.study.models.small_resnet import SmallResNet
from openwork.study.models.vgg import VggLike
from openwork.study.models.wide_resnet import WideResNet
from openwork.study.tasks.classification import ImageClassification, channels_last, decayed, stacked
from openwork.study.tasks.task import check_part


@dataclass(frozen=True)
class Cifar10(ImageClassification, ABC):
    """A network on CIFAR-10: 50,000 training and 10,000 test images.

    Args:
        jpeg: Read the copy that was compressed as JPEG, with loss; the title says so, beside every number.
    """

    jpeg: bool = field(default=False, kw_only=True)

    @property
    def images(self) -> str:
        """The name of the data set."""
        return "CIFAR-10 (JPEG copy)" if self.jpeg else "CIFAR-10"

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """The model's output (N, 10) as float32; on a GPU computed in bfloat16."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            logits: Tensor = model(images)
        return logits.float()


@dataclass(frozen=True)
class Cifar10Vgg(Cifar10):
    """The VGG-like network on whitened images, no augmentation; Adam, the rate as `ImageClassification` has it.

    Args:
        batch_size: Images of a step.
        peak_learning_rate: The learning rate before it falls.
        width: Factor of all layer sizes.
        dropout: Train with binary dropout.
        l2: Coefficient in the loss of the sum of squared parameters; without random weights, which have a prior.
    """

    batch_size: int = 100
    peak_learning_rate: float = 1e-5
    width: float = field(default=1.0, kw_only=True)
    dropout: bool = field(default=False, kw_only=True)
    l2: float = field(default=1e-5, kw_only=True)

    @property
    def benchmark(self) -> str:
        """The network with its width and the data set."""
        return f"VGG-like x {self.width:g}, {self.images}"

    def model(self) -> nn.Module:
        """Thirteen convolutions and two fully-connected layers."""
        return channels_last(VggLike(self.width, dropout=self.dropout))

    def data(self, device: torch.device) -> Splits:
        """Pixels of 0-255, ZCA-whitened."""
        return _whitened(device, self.jpeg, self.held_out)

    def optimizer(self, model: nn.Module, sparsifier: Sparsifier | None = None) -> torch.optim.Optimizer:
        """Adam; its weight decay is the gradient of ``l2`` times the sum of squares."""
        return torch.optim.Adam(decayed(model, sparsifier, 2 * self.l2), lr=self.peak_learning_rate, fused=True)


@dataclass(frozen=True)
class Cifar10Cropped(Cifar10, ABC):
    """A network on randomly cropped and mirrored images."""

    def data(self, device: torch.device) -> Splits:
        """Training images as read, since they are augmented first; the others normalised."""
        return _normalized(device, self.jpeg, self.held_out)

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Images cropped from 40x40, padded with black, mirrored every other time, then normalised."""
        return augmented(self.data(device).train, self.batch_size, self.batch_seed(seed), start)

    def stacked_batches(
        self, tasks: Sequence[Self], seeds: Sequence[int], start: int, device: torch.device
    ) -> Iterator[Any]:
        """The numbers of the images in the batches of runs, and where they are cropped, (runs, N), for `taking`."""
        return stacked(stacked_crops, tasks, seeds, start, device)

    def taking(self, device: torch.device, dtype: torch.dtype | None = None) -> Callable[[Any], Any]:
        """Makes (images (runs, N, C, H, W) float, labels (runs, N)) of them."""
        train = self.data(device).train
        images, (height, width) = padded(train.images), train.images.shape[2:]

        def take(crops: Any) -> tuple[Tensor, Tensor]:
            seen = cifar10.normalized(cut(images, crops, height, width))
            return seen.to(dtype or seen.dtype), train.labels[crops.number]

        return take


@dataclass(frozen=True)
class Cifar10WideResNet(Cifar10Cropped):
    """A wide residual network on randomly cropped and mirrored images; SGD, Nesterov momentum 0.9.

    The learning rate falls to a fifth after 0.3, 0.6 and 0.8 of the steps: epochs 60, 120 and 160 of 200.

    Args:
        batch_size: Images of a step.
        peak_learning_rate: The learning rate before it falls.
        depth: Layers of the network.
        width: Factor of its channels.
        weight_decay: The decay of all parameters but random weights, which have a prior.
    """

    batch_size: int = 128
    peak_learning_rate: float = 0.1
    depth: int = field(default=28, kw_only=True)
    width: int = field(default=10, kw_only=True)
    weight_decay: float = field(default=5e-4, kw_only=True)

    @property
    def benchmark(self) -> str:
        """The network with its depth and width, and the data set."""
        return f"WRN-{self.depth}-{self.width}, {self.images}"

    def model(self) -> nn.Module:
        """36,479,194 parameters for WRN-28-10."""
        return channels_last(WideResNet(self.depth, self.width))

    def optimizer(self, model: nn.Module, sparsifier: Sparsifier | None = None) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum."""
        groups = decayed(model, sparsifier, self.weight_decay)
        return torch.optim.SGD(groups, lr=self.peak_learning_rate, momentum=0.9, nesterov=True, fused=True)

    def learning_rate(self, progress: float) -> float:
        """The peak * 0.2 to the power of the number of milestones passed."""
        return float(self.peak_learning_rate * 0.2 ** sum(progress >= milestone for milestone in (0.3, 0.6, 0.8)))


@dataclass(frozen=True)
class Cifar10SmallResNet(Cifar10Cropped):
    """He et al.'s ResNet for CIFAR-10 on randomly cropped and mirrored images, in a short training with AdamW.

    The learning rate rises on a straight line from a tenth of its peak in the first fifth of the steps, then falls to 0
    on another one. AdamW, since what is learned besides weights, such as L0's gates, needs steps of its own size.

    Args:
        batch_size: Images of a step.
        peak_learning_rate: The highest learning rate.
        depth: Layers of the network.
        channels: Of its first stage.
        weight_decay: The decay of all parameters but random weights, which have a prior.
        beginning: The fraction of its training that is done when a run ends; below 1, it is part of a longer one.
        behind: The fraction that lies behind it when it begins.
    """

    batch_size: int = 256
    peak_learning_rate: float = 6e-3
    depth: int = field(default=20, kw_only=True)
    channels: int = field(default=16, kw_only=True)
    weight_decay: float = field(default=0.05, kw_only=True)
    beginning: float = field(default=1.0, kw_only=True)
    behind: float = field(default=0.0, kw_only=True)

    varying = (*Cifar10Cropped.varying, "beginning", "behind")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_part(self)

    @property
    def benchmark(self) -> str:
        """The network with its depth, and with its channels where these are not 16; and the data set."""
        narrow = "" if self.channels == 16 else f" of {self.channels} channels"
        return f"ResNet-{self.depth}{narrow}, {self.images}"

    def first(self, fraction: float) -> Self:
        """The task of a run that is this fraction of one of this task."""
        return replace(self, beginning=self.done(fraction))

    def rest(self, fraction: float) -> Self:
        """The task of a run that is what follows this fraction of one of this task."""
        return replace(self, behind=self.done(fraction))

    def model(self) -> nn.Module:
        """269,722 parameters for ResNet-20."""
        return channels_last(SmallResNet(self.depth, self.channels))

    def optimizer(self, model: nn.Module, sparsifier: Sparsifier | None = None) -> torch.optim.Optimizer:
        """AdamW."""
        groups = decayed(model, sparsifier, self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.peak_learning_rate, fused=True)

    def learning_rate(self, progress: float) -> float:
        """The peak * min(0.1 + 4.5 * p, 1.25 * (1 - p)) with the progress p of the whole training."""
        done = self.done(progress)
        return self.peak_learning_rate * min(0.1 + 4.5 * done, 1.25 * (1 - done))


def augmented(train: Images, batch_size: int, seed: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (images, labels), cropped from 40x40, mirrored every other time, and normalised."""
    for images, labels in cropped_batches(train, batch_size, seed=seed, start=start):
        yield cifar10.normalized(images), labels


def read(device: torch.device, jpeg: bool) -> tuple[Images, Images]:
    """The training and the test images, on the device."""
    return on_device(device, (cifar10.cifar10("train", jpeg=jpeg), cifar10.cifar10("test", jpeg=jpeg)))


@cache
def _whitened(device: torch.device, jpeg: bool, held_out: int) -> Splits:
    return splits(*read(device, jpeg), held_out, lambda train, others: whitened(train, others, scale=1.0))


@cache
def _normalized(device: torch.device, jpeg: bool, held_out: int) -> Splits:
    def prepare(train: Images, others: Images) -> tuple[Images, Images]:
        return train, Images(cifar10.normalized(others.images), others.labels)

    return splits(*read(device, jpeg), held_out, prepare)
