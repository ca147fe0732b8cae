"""Layers with random weights beside the formulas that they compute, in operations that autograd knows."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import openwork as ow
from openwork.noise import draws_for, key, keyed, normal

CONSTANT = ow.Constant(1e-3)
CLIP, THRESHOLD = 8.0, 3.0


class Case(NamedTuple):
    """A layer, its input, its operation (x, weight, bias) and the shape of its noise, given that of its output."""

    layer: Callable[[], nn.Module]
    x: Callable[[], Tensor]
    op: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    noise: Callable[[torch.Size], tuple[int, ...]] = tuple
    technique: Mapping[str, object] = MappingProxyType({})


def shared(shape):
    return shape[0], *[1] * (len(shape) - 2), shape[-1]


def last(x):
    return x.to(memory_format=torch.channels_last)


def ids(count):
    return lambda: torch.randint(11, (count, 2))


CASES = {
    "matrix": Case(lambda: nn.Linear(7, 5), lambda: torch.randn(9, 7), F.linear),
    "vector": Case(lambda: nn.Linear(7, 5), lambda: torch.randn(7), F.linear),
    "no rows": Case(lambda: nn.Linear(7, 5), lambda: torch.randn(0, 7), F.linear),
    "view": Case(lambda: nn.Linear(7, 5), lambda: torch.randn(7, 12).t()[::2], F.linear),
    "zeros": Case(lambda: nn.Linear(7, 5), lambda: torch.zeros(3, 7), F.linear),
    "sequence": Case(lambda: nn.Linear(7, 6, bias=False), lambda: torch.randn(3, 5, 7), F.linear, shared),
    "images": Case(lambda: nn.Linear(7, 6), lambda: torch.randn(2, 3, 5, 7).transpose(1, 2), F.linear, shared),
    "sequence, own noise": Case(
        lambda: nn.Linear(7, 6), lambda: torch.randn(3, 5, 7), F.linear, tuple, {"share_noise": False}
    ),
    "train_clip": Case(lambda: nn.Linear(7, 6), lambda: torch.randn(9, 7), F.linear, tuple, {"train_clip": True}),
    "1x1": Case(lambda: nn.Conv2d(4, 9, 1, bias=False), lambda: last(torch.randn(2, 4, 5, 3)), F.conv2d),
    "3x3": Case(
        lambda: last(nn.Conv2d(4, 5, 3, stride=2, padding=1)),
        lambda: last(torch.randn(2, 4, 7, 6)),
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1),
    ),
    "groups": Case(
        lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2),
        lambda: torch.randn(2, 4, 7, 6),
        lambda x, w, b: F.conv2d(x, w, b, groups=2, dilation=2),
    ),
    "circular": Case(
        lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"),
        lambda: torch.randn(2, 2, 6),
        lambda x, w, b: F.conv1d(F.pad(x, (1, 1), mode="circular"), w, b),
    ),
    "same": Case(
        lambda: nn.Conv2d(2, 3, (3, 2), padding="same"),
        lambda: torch.randn(2, 2, 6, 5),
        lambda x, w, b: F.conv2d(F.pad(x, (0, 1, 1, 1)), w, b),
    ),
    "same, odd": Case(
        lambda: nn.Conv1d(2, 3, 3, padding="same", dilation=2),
        lambda: torch.randn(2, 2, 6),
        lambda x, w, b: F.conv1d(x, w, b, padding="same", dilation=2),
    ),
    "one image": Case(lambda: nn.Conv2d(2, 3, 2), lambda: torch.randn(2, 5, 4), F.conv2d),
    "volumes": Case(
        lambda: nn.Conv3d(1, 5, 2, stride=2),
        lambda: torch.randn(2, 1, 4, 4, 5),
        lambda x, w, b: F.conv3d(x, w, b, stride=2),
    ),
    "transposed": Case(
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2),
        lambda: torch.randn(2, 4, 3, 4),
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, output_padding=1, groups=2),
    ),
    "few ids": Case(lambda: nn.Embedding(11, 3), ids(3), lambda x, w, b: F.embedding(x, w)),
    "many ids": Case(lambda: nn.Embedding(11, 3, padding_idx=2), ids(9), lambda x, w, b: F.embedding(x, w, 2)),
    "frequent ids": Case(
        lambda: nn.Embedding(11, 3, scale_grad_by_freq=True),
        ids(9),
        lambda x, w, b: F.embedding(x, w, scale_grad_by_freq=True),
    ),
}


def made(name: str, memory: str = "fast") -> tuple[nn.Module, ow.Sparsifier, Tensor]:
    """The layer in float64, with log alpha clipped on both sides and beyond the threshold, and its input."""
    case = CASES[name]
    torch.manual_seed(0)
    layer, x = case.layer().double(), case.x()
    x = x.double() if x.is_floating_point() else x
    sparsifier = ow.sparsify(layer, ow.VariationalDropout(CONSTANT, memory=memory, **case.technique))
    with torch.no_grad():
        theta, log_sigma2 = layer._parameters["weight"].flatten(), layer.reparam.weight.log_sigma2.flatten()
        log_sigma2.uniform_(-6, -1)
        theta[:4] = torch.tensor([20.0, 1e-5, 0.0, 0.1])
    return layer, sparsifier, x


def formulas(name: str, x: Tensor, theta: Tensor, log_sigma2: Tensor, bias: Tensor | None) -> Tensor:
    """The layer's output in training, in float64; call it within `keyed`."""
    case = CASES[name]
    theta2 = theta * theta + 1e-8
    raw = log_sigma2 - torch.log(theta2)
    sigma2 = torch.exp(raw.clamp(-CLIP, CLIP)) * theta2
    mean = torch.where(raw < THRESHOLD, theta, 0.0) if case.technique.get("train_clip") else theta
    y = case.op(x, mean, bias)
    variance = case.op(x * x if x.is_floating_point() else x, sigma2, None)
    draws_for("weight")
    return y + torch.sqrt(variance + 1e-8) * normal(case.noise(y.shape), y)


def compared(
    name: str, layer: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """(found, expected) of the output and all gradients for the same noise.

    Args:
        name: Of the case.
        layer: The layer, of any dtype and on any device.
        x: Its input there.
        run: Returns the layer's output.
    """
    parameters = [layer._parameters["weight"], layer.reparam.weight.log_sigma2, layer._parameters.get("bias")]
    named = dict(zip(("x", "weight", "log_sigma2", "bias"), [x, *parameters], strict=True))
    found = {n: t.detach().requires_grad_(t.is_floating_point()) if n == "x" else t for n, t in named.items()}
    exact = {n: None if t is None else t.detach().cpu() for n, t in found.items()}
    exact = {n: t.double().requires_grad_() if t is not None and t.is_floating_point() else t for n, t in exact.items()}
    with keyed(torch.tensor(key(0, 1), device=x.device)):
        y = run(found["x"])
    with keyed(torch.tensor(key(0, 1))):
        expected = formulas(name, *exact.values())
    gradient = torch.randn(expected.shape, dtype=torch.float64)
    y.backward(gradient.to(y))
    expected.backward(gradient)
    pairs = {"y": (y.detach(), expected.detach())}
    for n, t in found.items():
        if t is not None and t.is_floating_point():
            pairs[n] = t.grad, exact[n].grad
    return pairs


def assert_close(pairs: dict[str, tuple[Tensor, Tensor]], tolerance: float) -> None:
    """Each by the norm of the error, relative to that of what is expected."""
    for name, (found, expected) in pairs.items():
        error = (found.double().cpu() - expected).norm() / expected.norm().clamp(min=1e-30)
        assert error <= tolerance, (name, float(error))
