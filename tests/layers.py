"""Every kind of layer, as a small model with one input and one output."""

import torch
from torch import Tensor, nn


class Bare(nn.Module):
    """A bare parameter, used twice in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.matrix) @ self.matrix


class Listed(nn.Module):
    """Bare parameters in a list, one of them read through another module."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList([torch.randn(6, 6), torch.randn(6, 4)])
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        for matrix in (*self.matrices, self.linear.weight[:4]):
            x = torch.tanh(x @ matrix)
        return self.linear(x)


class Attention(nn.Module):
    """Attention with a projection matrix each for queries, keys and values, since their sizes differ."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, kdim=4, vdim=5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.attention(x, x[..., :4], x[..., :5])[0]
        return output


class First(nn.Module):
    """Calls a module with several inputs or outputs as if it had one."""

    def __init__(self, module: nn.Module, inputs: int) -> None:
        super().__init__()
        self.module, self.inputs = module, inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(*[x] * self.inputs)
        return y[0] if isinstance(y, tuple) else y


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(6, 2, dim_feedforward=8, dropout=0.0, batch_first=True)


SEQUENCE, IMAGE, IDS = (3, 4, 6), (2, 4, 5, 5), "ids"
LAYERS = {
    "linear at the root": (lambda: nn.Linear(6, 4), SEQUENCE),
    "bilinear": (lambda: First(nn.Bilinear(6, 6, 3), 2), SEQUENCE),
    "grouped dilated conv": (lambda: nn.Conv2d(4, 8, 2, groups=2, dilation=2), IMAGE),
    "depthwise conv": (lambda: nn.Conv2d(4, 8, 3, groups=4), IMAGE),
    "transposed conv": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 3, stride=2)), IMAGE),
    "transposed conv 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (3, 4, 6)),
    "transposed conv 3d": (lambda: nn.ConvTranspose3d(4, 2, 2, dilation=2), (2, 4, 3, 3, 3)),
    "conv 1d": (lambda: nn.Conv1d(4, 3, 3), (3, 4, 6)),
    "conv 3d": (lambda: nn.Conv3d(4, 3, 2), (2, 4, 3, 3, 3)),
    "embedding": (lambda: nn.Embedding(9, 4), IDS),
    "embedding bag": (lambda: nn.EmbeddingBag(9, 4), IDS),
    "packed attention": (lambda: First(nn.MultiheadAttention(6, 2, batch_first=True), 3), SEQUENCE),
    "separate attention": (lambda: Attention(), SEQUENCE),
    "encoder layer": (encoder, SEQUENCE),
    "lstm": (lambda: First(nn.LSTM(6, 5, num_layers=2, bidirectional=True), 1), SEQUENCE),
    "gru": (lambda: First(nn.GRU(6, 5), 1), SEQUENCE),
    "rnn": (lambda: First(nn.RNN(6, 5), 1), SEQUENCE),
    "lstm with projections": (lambda: First(nn.LSTM(6, 5, proj_size=3, batch_first=True), 1), SEQUENCE),
    "gru without bias": (lambda: First(nn.GRU(6, 5, bias=False, bidirectional=True), 1), (4, 6)),
    "lstm cell": (lambda: First(nn.LSTMCell(6, 5), 1), (3, 6)),
    "gru cell": (lambda: First(nn.GRUCell(6, 5), 1), (3, 6)),
    "rnn cell": (lambda: nn.RNNCell(6, 5, nonlinearity="relu"), (6,)),
    "bare parameter": (Bare, SEQUENCE),
    "one module twice": (lambda: nn.Sequential(*[nn.Linear(6, 6)] * 2), SEQUENCE),
    "parameter list": (Listed, SEQUENCE),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), SEQUENCE),
}


def matrices(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    return parameter.dim() > 1 and (min(parameter.shape) > 1 or parameter.dim() > 2)  # not weight norm's (4, 1) scales


def example(shape: tuple[int, ...] | str) -> Tensor:
    return torch.randint(9, (4, 3)) if shape == IDS else torch.randn(shape)
