"""The small models that every library is tried on, with the weights that it must make sparse in them."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class NotApplicableError(Exception):
    """The cell has no meaning here; the text is the reason."""


@dataclass(frozen=True)
class Case:
    """A model that can be made again and again.

    make: the dense model; inputs: a random batch; weights: the parameters that must become sparse, every name of a
    tied one; by_name: whether they must be named to openwork, because its default selection leaves them out.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    weights: tuple[str, ...]
    by_name: bool = False


class Net(nn.Module):
    """(N, 16) -> (N, 8): two Linear layers in a user's model, the model of every habit."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(16, 32)
        self.fc2 = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 16) -> (N, 8)."""
        y: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return y


class Around(nn.Module):
    """A layer inside a model; called with its input repeated, it returns the first output."""

    def __init__(self, layer: nn.Module, arguments: int = 1) -> None:
        super().__init__()
        self.layer, self.arguments = layer, arguments

    def forward(self, x: Tensor) -> Tensor:
        """One layer's input -> its first output."""
        y = self.layer(*[x] * self.arguments)
        while isinstance(y, tuple):
            y = y[0]
        assert isinstance(y, Tensor)
        return y


class Twice(nn.Module):
    """One Linear used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 8) -> (N, 8)."""
        y: Tensor = self.layer(torch.tanh(self.layer(x)))
        return y


class Tied(nn.Module):
    """Ids (N, L) -> (N, L, 40) through one matrix used as embedding and as softmax weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 8)
        self.output = nn.Linear(8, 40, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (N, L) -> (N, L, 40)."""
        y: Tensor = self.output(torch.tanh(self.embedding(ids)))
        return y


class Separate(nn.Module):
    """Attention whose keys have another width than its queries, so that the projections are separate parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, L, 8) -> (N, L, 8)."""
        y: Tensor = self.layer(x, x[..., :4], x[..., 4:])[0]
        return y


class Bare(nn.Module):
    """A user's parameter, outside any layer of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(8, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., 8) -> (..., 8)."""
        return torch.tanh(x @ self.matrix) @ self.matrix


def hugging_face_conv1d() -> nn.Module:
    """GPT-2's Conv1D: a Linear with a transposed weight, a class that torch does not know."""
    try:
        module = importlib.import_module("transformers.pytorch_utils")
    except ImportError as error:
        raise NotApplicableError("transformers is not installed") from error
    layer: nn.Module = module.Conv1D(8, 8)
    with torch.no_grad():
        layer.get_parameter("weight").mul_(10)  # its 0.02 is made for wider layers
    return Around(layer)


def experts() -> nn.Module:
    """Mixtral's block of experts, whose weights are tensors of three dimensions in a class that torch does not know."""
    try:
        module: Any = importlib.import_module("transformers.models.mixtral.modeling_mixtral")
    except ImportError as error:
        raise NotApplicableError("transformers is not installed") from error
    config = module.MixtralConfig(hidden_size=16, intermediate_size=8, num_local_experts=4, num_experts_per_tok=2)
    block: nn.Module = module.MixtralSparseMoeBlock(config)
    for parameter in block.parameters():  # the layers leave this to the whole model
        nn.init.normal_(parameter, std=0.3)
    return Around(block)


def _normal(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(shape),)


def _ids() -> tuple[Tensor, ...]:
    return (torch.randint(40, (6, 5)),)


def _layer(make: Callable[[], nn.Module], *shape: int, weights: str = "weight", arguments: int = 1) -> Case:
    names = tuple(f"layer.{name}" for name in weights.split())
    return Case(lambda: Around(make(), arguments), _normal(*shape) if shape else _ids, names)


def _encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0, batch_first=True)


GATES = "weight_ih_l0 weight_hh_l0 weight_ih_l1 weight_hh_l1"
NET = Case(Net, _normal(16, 16), ("fc1.weight", "fc2.weight"))
LAYERS = {
    "Linear": _layer(lambda: nn.Linear(8, 6), 3, 4, 8),
    "Bilinear": _layer(lambda: nn.Bilinear(8, 8, 4), 5, 8, arguments=2),
    "Conv1d": _layer(lambda: nn.Conv1d(4, 6, 3), 3, 4, 8),
    "Conv2d": _layer(lambda: nn.Conv2d(4, 6, 3), 2, 4, 6, 6),
    "Conv3d": _layer(lambda: nn.Conv3d(4, 6, 2), 2, 4, 3, 3, 3),
    "Conv2d, grouped": _layer(lambda: nn.Conv2d(4, 8, 3, groups=2), 2, 4, 6, 6),
    "Conv2d, dilated": _layer(lambda: nn.Conv2d(4, 6, 3, dilation=2), 2, 4, 8, 8),
    "Conv2d, depthwise": _layer(lambda: nn.Conv2d(4, 8, 3, groups=4), 2, 4, 6, 6),
    "ConvTranspose1d": _layer(lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), 2, 4, 6),
    "ConvTranspose2d": _layer(lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), 2, 4, 4, 4),
    "ConvTranspose3d": _layer(lambda: nn.ConvTranspose3d(4, 6, 2), 2, 4, 3, 3, 3),
    "Embedding": _layer(lambda: nn.Embedding(40, 8)),
    "EmbeddingBag": _layer(lambda: nn.EmbeddingBag(40, 8)),
    "tied weights": Case(Tied, _ids, ("embedding.weight", "output.weight")),
    "one module used twice": Case(Twice, _normal(5, 8), ("layer.weight",)),
    "MultiheadAttention, packed": _layer(
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        3,
        4,
        8,
        weights="in_proj_weight out_proj.weight",
        arguments=3,
    ),
    "MultiheadAttention, separate": Case(
        Separate,
        _normal(3, 4, 8),
        tuple(f"layer.{name}" for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")),
    ),
    "TransformerEncoderLayer": _layer(
        _encoder, 3, 4, 8, weights="self_attn.in_proj_weight self_attn.out_proj.weight linear1.weight linear2.weight"
    ),
    "LSTM": _layer(lambda: nn.LSTM(8, 6, num_layers=2), 4, 3, 8, weights=GATES),
    "GRU": _layer(lambda: nn.GRU(8, 6, num_layers=2), 4, 3, 8, weights=GATES),
    "RNN": _layer(lambda: nn.RNN(8, 6, num_layers=2), 4, 3, 8, weights=GATES),
    "LSTMCell": _layer(lambda: nn.LSTMCell(8, 6), 5, 8, weights="weight_ih weight_hh"),
    "GRUCell": _layer(lambda: nn.GRUCell(8, 6), 5, 8, weights="weight_ih weight_hh"),
    "RNNCell": _layer(lambda: nn.RNNCell(8, 6), 5, 8, weights="weight_ih weight_hh"),
    "a parameter of one's own": Case(Bare, _normal(5, 8), ("matrix",), by_name=True),
    "Hugging Face Conv1D": Case(hugging_face_conv1d, _normal(5, 8), ("layer.weight",)),
    "mixture of experts": Case(experts, _normal(3, 8, 16), ("layer.experts.gate_up_proj", "layer.experts.down_proj")),
    "Sequential as the model": Case(
        lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), _normal(5, 8), ("0.weight", "2.weight")
    ),
    "weight-normed Linear": Case(
        lambda: Around(nn.utils.parametrizations.weight_norm(nn.Linear(32, 8))),
        _normal(5, 32),
        ("layer.parametrizations.weight.original1",),
        by_name=True,
    ),
}
