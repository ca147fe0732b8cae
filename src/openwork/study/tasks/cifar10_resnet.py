"""ImageNet's ResNet on CIFAR-10. On a GPU layers compute in bfloat16 (autocast), parameters and losses in float32."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.core.sparsifier import Sparsifier
from openwork.study.data import cifar10
from openwork.study.data.images import Images
from openwork.study.data.splits import Splits, splits
from openwork.study.models.resnet import ResNet
from openwork.study.tasks.cifar10 import Cifar10, augmented, read
from openwork.study.tasks.classification import channels_last, decayed, kernels


@dataclass(frozen=True)
class Cifar10ResNet(Cifar10):
    """ImageNet's ResNet on images enlarged to 64x64, randomly cropped and mirrored; SGD, Nesterov momentum 0.9.

    The learning rate falls along half a cosine, after rising for the first 5 % of the steps: ImageNet's steps, which
    leave the peak after three tenths of the training, come too early in the few epochs that CIFAR-10 gets.

    Args:
        batch_size: Images of a step.
        peak_learning_rate: The highest learning rate.
        depth: Layers of the network.
        weight_decay: The decay of the weights of convolutions and ``fc``.
        decay_random: Decay the means of random weights, too.
    """

    batch_size: int = 256
    peak_learning_rate: float = 0.1
    depth: int = field(default=50, kw_only=True)
    weight_decay: float = field(default=5e-4, kw_only=True)
    decay_random: bool = field(default=False, kw_only=True)

    @property
    def benchmark(self) -> str:
        """The network with its depth, and the data set."""
        return f"ResNet-{self.depth}, {self.images}"

    def model(self) -> nn.Module:
        """23,528,522 parameters for depth 50."""
        return channels_last(ResNet(self.depth, classes=10))

    def data(self, device: torch.device) -> Splits:
        """Training images as read, since they are augmented first; the others normalised and enlarged."""
        return _enlarged(device, self.jpeg, self.held_out)

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Images cropped from 40x40, padded with black, mirrored every other time, then normalised and enlarged."""
        images_and_labels = augmented(self.data(device).train, self.batch_size, self.batch_seed(seed), start)
        return ((_twice_as_large(images), labels) for images, labels in images_and_labels)

    def optimizer(self, model: nn.Module, sparsifier: Sparsifier | None = None) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum."""
        groups = decayed(model, sparsifier, self.weight_decay, among=kernels, means=self.decay_random)
        return torch.optim.SGD(groups, lr=self.peak_learning_rate, momentum=0.9, nesterov=True, fused=True)

    def learning_rate(self, progress: float) -> float:
        """The peak * min(20 * progress, 1) * (1 + cos(pi * progress)) / 2."""
        return self.peak_learning_rate * min(20 * progress, 1.0) * (1 + math.cos(math.pi * progress)) / 2


@cache
def _enlarged(device: torch.device, jpeg: bool, held_out: int) -> Splits:
    def prepare(train: Images, others: Images) -> tuple[Images, Images]:
        return train, Images(_twice_as_large(cifar10.normalized(others.images)), others.labels)

    return splits(*read(device, jpeg), held_out, prepare)


def _twice_as_large(images: Tensor) -> Tensor:
    return F.interpolate(images, scale_factor=2, mode="bilinear")
