"""Residual networks for images of 32 pixels: He, Zhang, Ren & Sun 2016 (arXiv:1512.03385), section 4.2."""

import torch.nn.functional as F
from torch import Tensor, nn


class SmallResNet(nn.Module):
    """``stem``, three stages of (``depth`` − 2) / 6 blocks with 16, 32 and 64 channels, average over places, ``fc``.

    269,722 parameters for depth 20, of which 268,336 are weights of the 19 convolutions and of ``fc``. Convolutions
    have no bias and start as N(0, 2 / inputs of a unit).

    Args:
        depth: 2 plus a multiple of 6.
        channels: Of the first stage.
        classes: The number of logits.

    Raises:
        ValueError: For another depth.
    """

    def __init__(self, depth: int = 20, channels: int = 16, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 2 plus a multiple of 6, such as 20 or 56, got {depth}")
        self.stem, self.norm = _convolution(3, channels), nn.BatchNorm2d(channels)
        self.stage1 = _stage(channels, channels, blocks)
        self.stage2 = _stage(channels, 2 * channels, blocks)
        self.stage3 = _stage(2 * channels, 4 * channels, blocks)
        self.fc = nn.Linear(4 * channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W) float; 32 pixels for CIFAR-10."""
        x = self.stage3(self.stage2(self.stage1(F.relu(self.norm(self.stem(x))))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    """relu(shortcut(x) + norm2(conv2(relu(norm1(conv1(x)))))).

    The shortcut has no parameters (option A): where channels double it takes every other place, and new channels are 0.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride, self.new = (1, 0) if inputs == outputs else (2, outputs - inputs)
        self.conv1, self.norm1 = _convolution(inputs, outputs, self.stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _convolution(outputs, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.new:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return F.relu(x + y)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs), *(Block(outputs, outputs) for _ in range(blocks - 1)))
