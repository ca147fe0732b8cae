"""Wide residual networks: Zagoruyko & Komodakis 2016 (arXiv:1605.07146), as Louizos et al. 2018 built them.

Unlike Zagoruyko's, and as in the code of Louizos, Welling & Kingma (arXiv:1712.01312), a block's stride sits on its
second convolution, so that the first one works at the full resolution.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class WideResNet(nn.Module):
    """``stem``, three stages of (``depth`` − 4) / 6 blocks with 16, 32 and 64 · ``width`` channels, norm, ``fc``.

    36,479,194 parameters for depth 28, width 10 and 10 classes. Convolutions have no bias. Weights of convolutions and
    of ``fc`` start as N(0, 2 / inputs of a unit), the bias of ``fc`` as 0.
    The first convolutions of the blocks, which Louizos et al. sparsify, are those called ``stage*.conv1.weight``.

    Args:
        depth: 4 plus a multiple of 6.
        width: Multiplies the channels of the stages.
        classes: The number of logits.

    Raises:
        ValueError: For another depth.
    """

    def __init__(self, depth: int = 28, width: int = 10, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 4 plus a multiple of 6, such as 10 or 28, got {depth}")
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.stage1 = _stage(16, 16 * width, blocks, stride=1)
        self.stage2 = _stage(16 * width, 32 * width, blocks, stride=2)
        self.stage3 = _stage(32 * width, 64 * width, blocks, stride=2)
        self.norm = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W) float; 32 pixels for CIFAR-10."""
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        logits: Tensor = self.fc(F.relu(self.norm(x)).mean((2, 3)))
        return logits


class Block(nn.Module):
    """x + conv2(relu(norm2(conv1(relu(norm1(x)))))).

    Where the channels change the shortcut is a 1×1 convolution of relu(norm1(x)) instead of x.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        active = F.relu(self.norm1(x))
        y: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return y + (self.shortcut(active) if self.shortcut is not None else x)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Block(inputs, outputs, stride), *rest)
