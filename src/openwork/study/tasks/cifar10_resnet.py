"""ImageNet's ResNet on CIFAR-10. On a GPU layers compute in bfloat16 (autocast), parameters and losses in float32."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.core.sparsifier import Sparsifier
from openwork.study.data import cifar10
from openwork.study.data.images import Images
from openwork.study.data.splits import Splits, splits
from openwork.study.models.resnet import ResNet
from openwork.study.tasks.cifar10 import Cifar10, augmented, read
from openwork.study.tasks.classification import channels_last, decayed, kernels, scaled


@dataclass(frozen=True)
class Cifar10ResNet(Cifar10):
    """ImageNet's ResNet on images enlarged to 64x64, randomly cropped and mirrored; SGD, Nesterov momentum 0.9.

    The learning rate falls along half a cosine, after rising for the first 5 % of the steps: ImageNet's steps, which
    leave the peak after three tenths of the training, come too early in the few epochs that CIFAR-10 gets.

    Args:
        batch_size: Images of a step.
        peak_learning_rate: The highest learning rate.
        depth: Layers of the network.
        width: Factor of its channels.
        weight_decay: The decay of the weights of convolutions and ``fc``.
        decay_random: Decay the means of random weights, too.
        warm_up: The fraction of the steps during which the rate rises, from 0; 0 is none.
        milestones: Fractions of the steps after which the rate falls to a tenth, instead of along half a cosine.
        learned_rate: The factor of the learning rate of what a technique learns beside the weights, such as L0's gates;
            a dense network has nothing of the kind.

    Raises:
        ValueError: If the milestones do not rise within (0, 1), and as `Cifar10` does.
    """

    batch_size: int = 256
    peak_learning_rate: float = 0.1
    depth: int = field(default=50, kw_only=True)
    width: float = field(default=1.0, kw_only=True)
    weight_decay: float = field(default=5e-4, kw_only=True)
    decay_random: bool = field(default=False, kw_only=True)
    warm_up: float = field(default=0.05, kw_only=True)
    milestones: tuple[float, ...] = field(default=(), kw_only=True)
    learned_rate: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(a < b for a, b in pairwise((0.0, *self.milestones, 1.0))):
            raise ValueError(f"milestones must rise within (0, 1), as fractions of the steps, got {self.milestones}")

    @property
    def benchmark(self) -> str:
        """The network with its depth, and with its width where that is not 1; and the data set."""
        width = "" if self.width == 1 else f" x {self.width:g}"
        return f"ResNet-{self.depth}{width}, {self.images}"

    def model(self) -> nn.Module:
        """23,528,522 parameters for depth 50 and width 1."""
        return channels_last(ResNet(self.depth, self.width, classes=10))

    def data(self, device: torch.device) -> Splits:
        """Training images as read, since they are augmented first; the others normalised and enlarged."""
        return _enlarged(device, self.jpeg, self.held_out)

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Images cropped from 40x40, padded with black, mirrored every other time, then normalised and enlarged."""
        images_and_labels = augmented(self.data(device).train, self.batch_size, self.batch_seed(seed), start)
        return ((_twice_as_large(images), labels) for images, labels in images_and_labels)

    def optimizer(self, model: nn.Module, sparsifier: Sparsifier | None = None) -> torch.optim.Optimizer:
        """SGD with Nesterov momentum; ``learned_rate`` is in the groups, for the loop."""
        groups = decayed(model, sparsifier, self.weight_decay, among=kernels, means=self.decay_random)
        if sparsifier and self.learned_rate != 1:
            groups = scaled(groups, model, self.learned_rate)
        return torch.optim.SGD(groups, lr=self.peak_learning_rate, momentum=0.9, nesterov=True, fused=True)

    def learning_rate(self, progress: float) -> float:
        """Peak * min(p / warm_up, 1) * (1 + cos(pi * p)) / 2 with the progress p, or * 0.1 ^ (milestones passed)."""
        warmth = min(progress / self.warm_up, 1.0) if self.warm_up else 1.0
        if self.milestones:
            return float(self.peak_learning_rate * warmth * 0.1 ** sum(progress >= each for each in self.milestones))
        return self.peak_learning_rate * warmth * (1 + math.cos(math.pi * progress)) / 2


@cache
def _enlarged(device: torch.device, jpeg: bool, held_out: int) -> Splits:
    def prepare(train: Images, others: Images) -> tuple[Images, Images]:
        return train, Images(_twice_as_large(cifar10.normalized(others.images)), others.labels)

    return splits(*read(device, jpeg), held_out, prepare)


def _twice_as_large(images: Tensor) -> Tensor:
    return F.interpolate(images, scale_factor=2, mode="bilinear")
