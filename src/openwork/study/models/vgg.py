"""The VGG-like network of Molchanov, Ashukha & Vetrov 2017 (arXiv:1701.05369, section 5.4; their code) for CIFAR-10.

It goes back to Zagoruyko 2015, "92.45% on CIFAR-10 in Torch".
"""

import torch.nn.functional as F
from torch import Tensor, nn

from openwork.study.models.dropout import dropout

_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_EPS, _STD = 1e-3, 0.01


class VggLike(nn.Module):
    """Thirteen 3×3 convolutions of int(``width`` · 64…512) channels in five max-pooled blocks, then two Linear layers.

    Batch normalisation (ε = 1e-3) and ReLU follow every convolution and ``fc1``. 14,991,946 parameters for width 1 and
    10 classes. Weights start as N(0, 0.01²), biases as 0.

    Args:
        width: Multiplies the channels.
        classes: The number of logits.
        dropout: In training, after each convolution but a block's last, with probability 0.3 in the first block and 0.4
            in the others, and 0.5 before the last layer; it adds no parameters.

    Raises:
        ValueError: If a layer has no channel.
    """

    def __init__(self, width: float = 1.0, classes: int = 10, *, dropout: bool = False) -> None:
        super().__init__()
        if int(64 * width) < 1:
            raise ValueError(f"width must give the first layer a channel, got {width}; it is 0.25 to 2 in the paper")
        self.dropout = dropout
        self.blocks = nn.ModuleList()
        inputs = 3
        for sizes in _BLOCKS:
            block = nn.ModuleList()
            for size in sizes:
                outputs = int(size * width)
                convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
                block.append(nn.ModuleDict({"conv": convolution, "norm": nn.BatchNorm2d(outputs, eps=_EPS)}))
                inputs = outputs
            self.blocks.append(block)
        self.fc1 = nn.Linear(inputs, inputs)
        self.norm = nn.BatchNorm1d(inputs, eps=_EPS)
        self.fc2 = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=_STD)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, 32, 32) float."""
        for number, block in enumerate(self.blocks):
            assert isinstance(block, nn.ModuleList)
            for place, layer in enumerate(block):
                assert isinstance(layer, nn.ModuleDict)
                x = F.relu(layer["norm"](layer["conv"](x)))
                if self.dropout and place + 1 < len(block):
                    x = dropout(x, 0.4 if number else 0.3, self.training)
            x = F.max_pool2d(x, 2)
        x = F.relu(self.norm(self.fc1(x.flatten(1))))
        if self.dropout:
            x = dropout(x, 0.5, self.training)
        logits: Tensor = self.fc2(x)
        return logits
