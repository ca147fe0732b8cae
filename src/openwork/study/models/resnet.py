"""Residual networks for ImageNet: He et al. 2016 (arXiv:1512.03385), "v1.5" as Gale et al. 2019 (arXiv:1902.09574).

A bottleneck's stride sits on its 3x3 convolution, and the last norm of each block starts at zero, so that every block
starts as its shortcut (Goyal et al. 2017, arXiv:1706.02677). Parameters have torchvision's names.
"""

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""How many blocks each of the four stages has, by depth."""

_TRUNCATED_STD = 0.87962566103423978  # of a standard normal that is cut off at 2


class ResNet(nn.Module):
    """Stem, four stages of basic (depth 18, 34) or bottleneck blocks, average over places, ``fc``.

    25,557,032 parameters for depth 50, width 1 and 1,000 classes; 25,502,912 of them are weights of the 53
    convolutions and of ``fc``.
    Convolutions, which have no bias, start as normal, truncated at two deviations, with variance 1 / (inputs of a
    unit); ``fc`` as N(0, 0.01^2) with bias 0; the scale of each block's last norm as 0.

    Args:
        depth: 18, 34, 50, 101, 152 or 200.
        width: Multiplies the channels, 64 in the stem.
        classes: The number of logits.
        same_pool: Whether the first pooling pads as TensorFlow does, by the least on the right and below, instead of by
            one on all sides. Weights that were trained with the one do not load into the other.

    Raises:
        ValueError: For another depth, and if the stem has no channel.
    """

    def __init__(self, depth: int = 50, width: float = 1.0, classes: int = 1000, *, same_pool: bool = False) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth must be one of {', '.join(map(str, BLOCKS))}, got {depth}")
        base = int(64 * width)
        if base < 1:
            raise ValueError(f"width must give the stem a channel, got {width}; it is 1 in the paper")
        kind = Basic if depth < 50 else Bottleneck
        self.conv1 = _convolution(3, base, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(base)
        self.pool = SamePool() if same_pool else nn.MaxPool2d(3, 2, padding=1)
        first, *blocks = BLOCKS[depth]
        self.layer1 = _stage(kind, base, base, first, stride=1)
        self.layer2, self.layer3, self.layer4 = (
            _stage(kind, kind.expansion * base * 2**number, base * 2 ** (number + 1), count, stride=2)
            for number, count in enumerate(blocks)
        )
        self.fc = nn.Linear(8 * kind.expansion * base, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                std = (module.weight[0].numel()) ** -0.5 / _TRUNCATED_STD
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if isinstance(module, Basic | Bottleneck):
                nn.init.zeros_(module.last_norm.weight)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W) float; 224 pixels for ImageNet."""
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Basic(nn.Module):
    """relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x)))))), both convolutions 3x3, the stride on the first."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, channels, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _convolution(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(inputs, channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the sum."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, H, W) -> (N, channels, H / stride, W / stride)."""
        y: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, and 1x1 to four times the channels, each with its norm; relu after the sum, too."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _convolution(channels, channels, 3, stride=stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _convolution(channels, 4 * channels, 1)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = _shortcut(inputs, 4 * channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm before the sum."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, H, W) -> (N, 4 * channels, H / stride, W / stride)."""
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class SamePool(nn.Module):
    """Maxima of 3x3 windows, every second place, with the padding that TensorFlow calls SAME.

    Its buffer has no use but its name: it keeps weights from a network whose windows lie elsewhere.
    """

    same: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("same", torch.tensor(True))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W), not negative -> (N, C, H / 2, W / 2), rounded up."""
        (top, bottom), (left, right) = (_same(size) for size in x.shape[2:])
        return F.max_pool2d(F.pad(x, (left, right, top, bottom)), 3, 2)


def _same(size: int) -> tuple[int, int]:
    """The padding before and after an axis with which windows of 3 at every second place cover it."""
    total = max((size + 1) // 2 * 2 + 1 - size, 0)
    return total // 2, total - total // 2


def _stage(kind: type[Basic | Bottleneck], inputs: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = [kind(kind.expansion * channels, channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(kind(inputs, channels, stride), *rest)


def _convolution(inputs: int, outputs: int, size: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """A projection where the shape changes: in the first block of a stage."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_convolution(inputs, outputs, 1, stride=stride), nn.BatchNorm2d(outputs))


# On the left `ResNet`'s names (torchvision's), on the right those of Hugging Face's ResNetForImageClassification.
_OUTER = {
    "conv1.": "resnet.embedder.embedder.convolution.",
    "bn1.": "resnet.embedder.embedder.normalization.",
    "fc.": "classifier.1.",
}
_SHORTCUT = {"downsample.0.": "shortcut.convolution.", "downsample.1.": "shortcut.normalization."}


def to_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `ResNet`'s state dict under the names of Hugging Face's ResNetForImageClassification."""
    return {_hugging_face_name(name): tensor for name, tensor in state.items()}


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under torchvision's names, as `ResNet` has them; one that has them already is returned as it is.

    Prefixes of wrappers (``module.`` of DistributedDataParallel, ``_orig_mod.`` of torch.compile) are removed.
    """
    return {_our_name(re.sub(r"^((module|_orig_mod)\.)+", "", name)): tensor for name, tensor in state.items()}


def _hugging_face_name(name: str) -> str:
    def layer(match: re.Match[str]) -> str:
        return f"layer.{int(match[2]) - 1}.{'convolution' if match[1] == 'conv' else 'normalization'}."

    for ours, theirs in _OUTER.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    stage = re.match(r"layer(\d)\.(\d+)\.", name)
    if not stage:
        return name
    inside = name[stage.end() :]
    for ours, theirs in _SHORTCUT.items():
        inside = inside.replace(ours, theirs)
    inside = re.sub(r"^(conv|bn)(\d)\.", layer, inside)
    return f"resnet.encoder.stages.{int(stage[1]) - 1}.layers.{stage[2]}.{inside}"


def _our_name(name: str) -> str:
    def layer(match: re.Match[str]) -> str:
        return f"{'conv' if match[2] == 'convolution' else 'bn'}{int(match[1]) + 1}."

    for ours, theirs in _OUTER.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    stage = re.match(r"resnet\.encoder\.stages\.(\d)\.layers\.(\d+)\.", name)
    if not stage:
        return name
    inside = name[stage.end() :]
    for ours, theirs in _SHORTCUT.items():
        inside = inside.replace(theirs, ours)
    inside = re.sub(r"^layer\.(\d)\.(convolution|normalization)\.", layer, inside)
    return f"layer{int(stage[1]) + 1}.{stage[2]}.{inside}"
