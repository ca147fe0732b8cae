"""Random networks with random dead units: chains of what convolutional networks and Transformers are made of."""

import random

import torch
import torch.nn.functional as F
from torch import nn

from tests.inference.shrink.dead import lively

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Sigmoid, nn.SiLU, nn.LeakyReLU, nn.Hardswish, nn.ReLU6, nn.ELU, nn.Softplus)


class Apply(nn.Module):
    """A function of parts, as a module."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x, *self.parts)


def squeezed(x, down, up):
    return x * torch.sigmoid(up(F.relu(down(x.mean((2, 3))))))[:, :, None, None]


def halves(x):
    value, gate = x.chunk(2, 1)
    return value * torch.tanh(gate)


def stage(kind, channels, rng):
    """A module, and the channels that it makes of ``channels``."""
    more, bias = rng.randint(2, 9), rng.random() < 0.6
    if kind == "3x3":
        mode = rng.choice(["zeros", "zeros", "reflect"])
        return nn.Conv2d(channels, more, 3, padding=rng.choice([0, 1]), bias=bias, padding_mode=mode), more
    if kind == "1x1":
        return nn.Sequential(nn.Conv2d(channels, more, 1, bias=bias), nn.BatchNorm2d(more)), more
    if kind == "transposed":
        return nn.ConvTranspose2d(channels, more, 2), more
    if kind == "depthwise":
        return nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels, bias=bias), 2 * channels
    if kind == "grouped":
        groups = rng.choice([n for n in range(1, channels + 1) if channels % n == 0])
        return nn.Conv2d(channels, 2 * groups, 1, groups=groups), 2 * groups
    if kind == "residual":
        inner = nn.Sequential(nn.Conv2d(channels, more, 3, padding=1), nn.BatchNorm2d(more), nn.ReLU())
        last = nn.Sequential(inner, nn.Conv2d(more, channels, 1, bias=False), nn.BatchNorm2d(channels))
        return Apply(lambda x, inner: F.relu(x + inner(x)), last), channels
    if kind == "concatenated":
        parts = nn.Conv2d(channels, more, 1), nn.Conv2d(channels, 2, 3, padding=1)
        return Apply(lambda x, *parts: torch.cat([part(x) for part in parts], 1), *parts), more + 2
    if kind == "gated":
        parts = nn.Conv2d(channels, more, 1), nn.Conv2d(channels, more, 1)
        return Apply(lambda x, gate, value: torch.sigmoid(gate(x)) * value(x), *parts), more
    if kind == "squeezed":
        return Apply(squeezed, nn.Linear(channels, 3), nn.Linear(3, channels)), channels
    if kind == "halves" and channels % 2 == 0:
        return rng.choice([Apply(halves), nn.GLU(1)]), channels // 2
    if kind == "scaled":
        scale, shift = rng.choice([0.5, -1.0]), rng.choice([0.0, 1.0])
        return Apply(lambda x: x * scale + shift), channels
    if kind == "padded":
        value = rng.choice([0.0, 1.0])
        return Apply(lambda x: F.pad(x, (1, 0, 0, 1), value=value)), channels
    if kind == "pooled":
        return rng.choice([nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, False, False)]), channels
    if kind == "norm":
        return nn.BatchNorm2d(channels), channels
    if kind == "prelu":
        return nn.PReLU(rng.choice([1, channels])), channels
    return rng.choice(ACTIVATIONS)(), channels


KINDS = ("3x3", "3x3", "1x1", "transposed", "depthwise", "grouped", "residual", "concatenated", "gated", "squeezed")
KINDS += ("halves", "scaled", "padded", "pooled", "norm", "prelu", "activation", "activation")


def convolutional(rng):
    """Two to seven stages of 3-channel images, then two linear layers."""
    stages, channels = [], 3
    for _ in range(rng.randint(2, 7)):
        module, channels = stage(rng.choice(KINDS), channels, rng)
        stages.append(module)
    flat = rng.random() < 0.5
    stages += [nn.AdaptiveAvgPool2d(2 if flat else 1), nn.Flatten()]
    hidden = rng.randint(2, 7)
    stages += [
        nn.Linear(channels * (4 if flat else 1), hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, 4),
    ]
    return nn.Sequential(*stages)


class Attention(nn.Module):
    """Attention from separate layers, in one of the ways in which people write it."""

    def __init__(self, width, rng):
        super().__init__()
        self.num_heads, self.features, self.way = rng.choice([1, 2, 4]), rng.randint(1, 3), rng.randint(0, 3)
        inner, bias = self.num_heads * self.features, rng.random() < 0.5
        self.query, self.key, self.value = (nn.Linear(width, inner, bias=bias) for _ in range(3))
        self.output = nn.Linear(inner, width)
        with torch.no_grad():
            head = slice(self.features * rng.randrange(self.num_heads), None)
            if rng.random() < 0.5:
                self.output.weight[:, head] = 0
            else:
                self.value.weight[head] = 0
                if bias and rng.random() < 0.5:
                    self.value.bias[head] = 0

    def forward(self, x):
        n, length, _ = x.shape
        parts = (part(x).view(n, length, self.num_heads, -1) for part in (self.query, self.key, self.value))
        q, k, v = (part.transpose(1, 2) for part in parts)
        if self.way < 2:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.way == 1)
        elif self.way == 2:
            y = torch.matmul(torch.softmax(q @ k.transpose(-1, -2) / 2, -1), v)
        else:
            q, k, v = (part.reshape(n * self.num_heads, length, -1) for part in (q, k, v))
            y = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), v).view(n, self.num_heads, length, -1)
        return self.output(y.transpose(1, 2).reshape(n, length, -1))


def sequential(rng):
    """One to four parts of a Transformer, with and without norms, between two linear layers."""
    width = rng.choice([4, 6])
    parts = [nn.Linear(5, width)]
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice(["attention", "hidden", "gated", "norm", "experts"])
        if kind == "norm":
            parts.append(rng.choice([nn.LayerNorm, nn.RMSNorm])(width) if rng.random() < 0.3 else nn.Identity())
        elif kind == "attention":
            parts.append(Apply(lambda x, inner: x + inner(x), Attention(width, rng)))
        elif kind == "hidden":
            inner = nn.Sequential(nn.Linear(width, 7), rng.choice(ACTIVATIONS)(), nn.Linear(7, width))
            parts.append(Apply(lambda x, inner: x + inner(x), inner))
        elif kind == "gated":
            layers = nn.Linear(width, 7), nn.Linear(width, 7), nn.Linear(7, width)
            parts.append(Apply(lambda x, gate, up, down: x + down(F.silu(gate(x)) * up(x)), *layers))
        else:
            layers = nn.Linear(width, 2), nn.Linear(width, width), nn.Linear(width, width)
            parts.append(Apply(experts, *layers))
    return nn.Sequential(*parts, nn.Linear(width, 3))


def experts(x, router, first, second):
    weights = router(x).softmax(-1)
    return x + weights[..., :1] * first(x) + weights[..., 1:] * second(x)


def random_net(make, seed):
    """A float64 network whose weights have zero rows, zero columns, both or neither."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net, share = make(rng).double(), rng.choice([0.2, 0.5, 0.8])
    with torch.no_grad():
        for parameter in net.parameters():
            for dim in range(min(parameter.dim(), 2)):
                if rng.random() < (0.7 if parameter.dim() > 1 else 0.3):
                    gone = torch.rand(parameter.shape[dim], generator=generator) < share
                    parameter.index_fill_(dim, gone.nonzero().flatten(), 0)
    return lively(net, generator)
