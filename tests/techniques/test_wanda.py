"""Wanda: magnitudes times the norms of inputs, compared within each output."""

import pytest
import torch
from torch import nn

import openwork as ow

HALF = ow.OneShot(0.5)


def pruned(weight, x, pattern=None, sparsity=0.5):
    """The weight of a Linear after Wanda on these inputs."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    settings = {} if pattern is None else {"pattern": pattern}
    technique = ow.Wanda(ow.OneShot(sparsity), **settings)
    return ow.sparsify(layer, technique, calibrate=lambda model: model(x)).finalize().weight.detach()


def example():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 8, generator=generator), torch.randn(50, 8, generator=generator) * torch.arange(1.0, 9.0)


def test_wanda_by_hand():
    weight = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    x = torch.tensor([[0.0, 3.0, 0.0, 1.0], [1.0, 4.0, 3.0, 1.0]])  # norms 1, 5, 3, sqrt(2)
    assert pruned(weight, x).tolist() == [[0.0, 3.0, 2.0, 0.0], [0.0, 1.0, 1.0, 0.0]]


def test_wanda_rescale_an_input_and_its_weights_against_each_other_changes_nothing():
    weight, x = example()
    scale = 2.0 ** torch.arange(-4, 4)
    plain, rescaled = pruned(weight, x), pruned(weight / scale, x * scale)
    assert torch.equal(rescaled != 0, plain != 0)


def test_wanda_unit_inputs_give_the_magnitudes_of_each_row():
    weight, _ = example()
    magnitude = nn.Linear(8, 6, bias=False)
    with torch.no_grad():
        magnitude.weight.copy_(weight)
    ow.sparsify(magnitude, ow.GradualMagnitude(HALF, pattern=ow.PerOutput())).finalize()
    assert torch.equal(pruned(weight, torch.eye(8)), magnitude.weight)


def test_wanda_gives_each_row_its_count_and_changes_no_value():
    weight, x = example()
    found = pruned(weight, x)
    assert (found != 0).sum(1).tolist() == [4] * 6
    assert torch.equal(found[found != 0], weight[found != 0])
    spread = (pruned(weight, x, sparsity=0.7) != 0).sum(1).tolist()  # 14 of 48: two each, two more for the best
    assert sorted(spread) == [2, 2, 2, 2, 3, 3]


def test_wanda_follows_a_permutation_of_the_inputs():
    weight, x = example()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(pruned(weight[:, order], x[:, order]), pruned(weight, x)[:, order])


@pytest.mark.parametrize("kernel", [None, (1, 3)], ids=["linear", "conv"])
@pytest.mark.parametrize("pattern", [ow.NM(2, 4), ow.NM(1, 4), ow.NM(4, 8)], ids=repr)
def test_wanda_nm_exact_in_every_group_along_the_inputs(kernel, pattern):
    layer, shape = (nn.Conv2d(8, 6, kernel), (2, 8, 4, 5)) if kernel else (nn.Linear(8, 6), (5, 8))
    technique = ow.Wanda(ow.OneShot(1 - pattern.n / pattern.m), pattern=pattern)
    ow.sparsify(layer, technique, calibrate=lambda model: model(torch.randn(shape))).finalize()
    groups = (layer.weight != 0).unflatten(1, (-1, pattern.m)).sum(2)
    assert (groups == pattern.n).all()


def test_wanda_of_a_convolution_is_wanda_of_its_unfolded_matrix():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False)
    x = torch.randn(4, 3, 7, 7)
    rows = nn.functional.unfold(x, 3, stride=2, padding=1).transpose(1, 2).reshape(-1, 27)
    expected = pruned(conv.weight.detach().flatten(1), rows)
    ow.sparsify(conv, ow.Wanda(HALF), calibrate=lambda model: model(x)).finalize()
    assert torch.equal(conv.weight.flatten(1), expected)
