"""What tests of techniques share that prune once, with data."""

import torch
from torch import nn

import openwork as ow

HALF = ow.OneShot(0.5)


def solved(weight, x, technique, **settings):
    """The weight of a Linear after the technique on these inputs."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return ow.sparsify(layer, technique, calibrate=lambda model: model(x), **settings).finalize().weight.detach()


def example(out=24, inputs=48, rows=200, dtype=torch.float64):
    """A weight, and inputs that depend on each other and differ in size."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out, inputs, generator=generator, dtype=dtype)
    x = torch.randn(rows, inputs, generator=generator, dtype=dtype)
    x = x @ (torch.eye(inputs, dtype=dtype) + 0.3 * torch.randn(inputs, inputs, generator=generator, dtype=dtype))
    return weight, x * torch.linspace(0.5, 2, inputs, dtype=dtype)


def error(found, weight, x):
    """The squared distance of the layer's outputs from the dense one's."""
    return float(((found - weight) @ x.T).square().sum())


def unit(inputs, scale=1.0, dtype=torch.float64):
    """Inputs whose X Xᵀ is scale² times the identity."""
    return scale * torch.eye(inputs, dtype=dtype)


EVERY_PATTERN = {
    "unstructured": ow.Unstructured(),
    "per output": ow.PerOutput(),
    "2:4": ow.NM(2, 4),
    "4:8": ow.NM(4, 8),
    "blocks": ow.Block(2, 4),
    "rows": ow.Rows(),
    "columns": ow.Columns(),
}


class Conv1D(nn.Module):
    """As in transformers: (in, out) weights, known by the name of the class."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.weight


def assert_pattern(pattern, matrix):
    """Half of the matrix (out, in, kernel...) is zero, as the pattern says."""
    kept = matrix != 0
    assert int(kept.sum()) == kept.numel() // 2
    if isinstance(pattern, ow.NM):
        assert (kept.unflatten(1, (-1, pattern.m)).sum(2) == pattern.n).all()
    if isinstance(pattern, ow.PerOutput):
        assert (kept.flatten(1).sum(1) == kept[0].numel() // 2).all()
    if isinstance(pattern, ow.Block):
        blocks = kept.flatten(1).unflatten(1, (-1, 4)).unflatten(0, (-1, 2)).sum((1, 3))
        assert set(blocks.unique().tolist()) == {0, 8}
    if isinstance(pattern, ow.Rows):
        assert set(kept.flatten(1).sum(1).tolist()) == {0, kept[0].numel()}
    if isinstance(pattern, ow.Columns):
        assert set(kept.transpose(0, 1).flatten(1).sum(1).tolist()) == {0, kept[:, 0].numel()}
