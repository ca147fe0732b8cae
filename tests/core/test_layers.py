"""Masks reach any parameter of any module."""

import copy

import pytest
import torch
from torch import Tensor, nn

import openwork as ow


class Bare(nn.Module):
    """A bare parameter, used twice in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.matrix) @ self.matrix


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
    "conv 1d": (lambda: nn.Conv1d(4, 3, 3), (3, 4, 6)),
    "conv 3d": (lambda: nn.Conv3d(4, 3, 2), (2, 4, 3, 3, 3)),
    "embedding": (lambda: nn.Embedding(9, 4), IDS),
    "embedding bag": (lambda: nn.EmbeddingBag(9, 4), IDS),
    "packed attention": (lambda: First(nn.MultiheadAttention(6, 2, batch_first=True), 3), SEQUENCE),
    "separate attention": (lambda: First(nn.MultiheadAttention(6, 2, kdim=6, vdim=6, batch_first=True), 3), SEQUENCE),
    "encoder layer": (encoder, SEQUENCE),
    "lstm": (lambda: First(nn.LSTM(6, 5, num_layers=2, bidirectional=True), 1), SEQUENCE),
    "gru": (lambda: First(nn.GRU(6, 5), 1), SEQUENCE),
    "rnn": (lambda: First(nn.RNN(6, 5), 1), SEQUENCE),
    "lstm cell": (lambda: First(nn.LSTMCell(6, 5), 1), (3, 6)),
    "bare parameter": (Bare, SEQUENCE),
    "one module twice": (lambda: nn.Sequential(*[nn.Linear(6, 6)] * 2), SEQUENCE),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), SEQUENCE),
}


def matrices(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    return min(parameter.shape) > 1 or parameter.dim() > 2  # not weight norm's (4, 1) scales


def example(shape: tuple[int, ...] | str) -> Tensor:
    return torch.randint(9, (4, 3)) if shape == IDS else torch.randn(shape)


@pytest.mark.parametrize("hidden", ["frozen", "trained"])
@pytest.mark.parametrize("name", LAYERS)
def test_masks_work_on_every_layer(name, hidden):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model = make()
    dense = copy.deepcopy(model)
    schedule = ow.Cubic(0.75, begin=1, end=4, every=1)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(schedule, hidden=hidden), select=matrices)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sparsifier.attach(optimizer)
    for _ in range(6):
        model(example(shape)).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        for weight in sparsifier.weights:
            zeros = int((weight.parameter == 0).sum())
            assert zeros == sparsifier._mechanism.zeros()[weight.name], weight.name
    for weight in sparsifier.weights:
        n = weight.parameter.numel()
        assert int((weight.parameter == 0).sum()) == n - int(0.25 * n), weight.name
    x = example(shape)
    model.eval(), dense.eval()
    with torch.no_grad():
        expected = model(x)  # the encoder layer's evaluation fast path, among others
        plain = sparsifier.finalize()
        dense.load_state_dict(plain.state_dict())
        torch.testing.assert_close(plain(x), expected)
        torch.testing.assert_close(dense(x), expected)
