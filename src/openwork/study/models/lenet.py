"""The two LeNets of the pruning literature, LeNet-300-100 and LeNet-5-Caffe.

LeCun, Bottou, Bengio & Haffner 1998, "Gradient-Based Learning Applied to Document Recognition"; layer sizes as in
Han et al. 2015 (arXiv:1506.02626, section 4.1) and Molchanov, Ashukha & Vetrov 2017 (arXiv:1701.05369, section 6).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet300100(nn.Module):
    """``inputs``-300-100-``classes`` with ReLU: 266,610 parameters for MNIST's 784 pixels and 10 classes.

    Initialised as PyTorch initialises ``nn.Linear``.
    """

    def __init__(self, inputs: int = 784, classes: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, ...) float with ``inputs`` values each, flattened here."""
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class LeNet5Caffe(nn.Module):
    """Two 5×5 convolutions (20 and 50 channels, no padding, each max-pooled by 2), then 800-500-``classes``.

    431,080 parameters for 10 classes. Initialised as PyTorch initialises ``nn.Conv2d`` and ``nn.Linear``.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 1, 28, 28) float."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


@torch.no_grad()
def draw_as_lasagne(model: nn.Module) -> nn.Module:
    """Draws the weights as the code of SparseVD does, which is in Lasagne, and returns the model.

    Matrices are N(0, 0.01^2), kernels Glorot uniform, biases 0. Molchanov et al. 2017; their code passes another
    argument, which Lasagne's layers there ignore.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        elif isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model
