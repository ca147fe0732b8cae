import math

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.techniques.l0 import open_probability
from tests.helpers import mean, raises

TECHNIQUE = ow.GroupL0(ow.Constant(0.25), dropout=0.5)


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(5, 3), (1, 5)), (nn.Conv2d(2, 4, 3), (4, 1, 1, 1)), (nn.Conv1d(2, 4, 3), (4, 1, 1))]
)
def test_a_gate_for_each_input_unit_or_output_map(layer, shape):
    ow.sparsify(layer, TECHNIQUE)
    assert layer.reparam.weight.log_alpha.shape == shape
    sample = layer.weight / mean(layer)
    first = sample[:1] if sample.dim() == 2 else sample[:, :1, :1]
    torch.testing.assert_close(sample, first.expand_as(sample))


class Conv1D(nn.Module):
    """As in transformers: (in, out) weights, known by the name of the class."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 5))


ow.declare_layout(Experts, "experts out in")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(2, 4, 3), (2, 1, 1, 1)),  # for each input map
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 1, 1, 1)),
        (Conv1D(), (1, 3)),  # for each output
        (Experts(), (4, 1, 1)),  # for each expert
        (nn.Bilinear(3, 5, 2), (2, 1, 1)),  # stored as a kernel is, the outputs first
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_that_are_stored_otherwise_have_their_gates_on_the_same_axes(layer, shape):
    ow.sparsify(layer, TECHNIQUE)
    assert layer.reparam.weight.log_alpha.shape == shape


def test_the_penalty_counts_the_weights_of_open_groups():
    layer = nn.Linear(2, 3, bias=False)
    sparsifier = ow.sparsify(layer, TECHNIQUE)
    with torch.no_grad():
        layer.reparam.weight.log_alpha.copy_(torch.tensor([[0.0, 2.0]]))
    # sigmoid(log alpha - 2/3 log(0.1 / 1.1)): 0.831819 and 0.973369, three weights each
    expected = 3 * (1 / (1 + math.exp(-1.598597)) + 1 / (1 + math.exp(-3.598597)))
    assert sparsifier.penalty().item() == pytest.approx(0.25 * expected, rel=1e-5)
    assert sparsifier.expected_nonzero() == {"weight": pytest.approx(expected, rel=1e-5)}


def test_evaluation_removes_whole_groups():
    conv = nn.Conv2d(2, 3, 3)
    sparsifier = ow.sparsify(conv, TECHNIQUE)
    with torch.no_grad():
        conv.reparam.weight.log_alpha.copy_(torch.tensor([-5.0, 0.0, 5.0]).view(3, 1, 1, 1))
    assert sparsifier.sparsity() == pytest.approx(1 / 3)
    theta = mean(conv).detach().clone()
    plain = sparsifier.finalize()
    assert (plain.weight[0] == 0).all()
    torch.testing.assert_close(plain.weight[1], 0.5 * theta[1])
    assert torch.equal(plain.weight[2], theta[2])


def test_log_alpha_stays_between_the_logs_of_a_hundredth_and_a_hundred():
    layer = nn.Linear(2, 3)
    sparsifier = ow.sparsify(layer, TECHNIQUE)
    with torch.no_grad():
        layer.reparam.weight.log_alpha.copy_(torch.tensor([[-9.0, 9.0]]))
    sparsifier.step()
    assert layer.reparam.weight.log_alpha.tolist() == [[pytest.approx(-4.60517), pytest.approx(4.60517)]]


@pytest.mark.parametrize(
    ("technique", "factor"),
    [
        (ow.GroupL0(ow.Constant(0.0), weight_decay=0.01), 0.01),
        (ow.L0(ow.Constant(0.0), dropout=0.3, weight_decay=0.01), 0.01 / 0.7),  # keeps the length scale
    ],
)
def test_weight_decay_is_that_of_the_expected_norm(technique, factor):
    layer = nn.Linear(4, 3)
    sparsifier = ow.sparsify(layer, technique)
    theta, log_alpha = mean(layer), layer.reparam.weight.log_alpha
    expected = 0.5 * factor * (open_probability(log_alpha) * theta**2).sum()
    torch.testing.assert_close(sparsifier.penalty(), expected)
    sparsifier.penalty().backward()
    torch.testing.assert_close(theta.grad, factor * (open_probability(log_alpha) * theta))


class Scaled(nn.Embedding):
    """An embedding with a forward of its own, as in other libraries."""

    def forward(self, ids):
        return 2 * super().forward(ids)


def tied():
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2), nn.Embedding(3, 2))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2)), "'0.weight'"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.EmbeddingBag(3, 2)), "'1.weight'"),
        (lambda: nn.Sequential(Scaled(3, 2), nn.Embedding(4, 2), nn.Linear(2, 2)), "'0.weight', '1.weight'"),
        (tied, "'2.weight'"),
    ],
    ids=["embedding", "bag", "several", "tied to a Linear"],
)
def test_embeddings_are_refused_before_the_model_changes(make, names):
    model = make()
    kinds, keys = [type(module) for module in model.modules()], list(model.state_dict())
    with raises(ValueError, "GroupL0 cannot close the units of an embedding, ", f"select=excluding({names})"):
        ow.sparsify(model, TECHNIQUE)
    assert ([type(module) for module in model.modules()], list(model.state_dict())) == (kinds, keys)
    cure = names.replace("'", "").split(", ")
    assert len(ow.sparsify(model, TECHNIQUE, select=ow.excluding(*cure)).weights) == 1


def test_biases_are_refused():
    with pytest.raises(ValueError, match="needs matrices or kernels, got shape"):
        ow.sparsify(nn.Linear(2, 2), TECHNIQUE, select=ow.all_parameters)


def test_layers_that_are_no_embeddings_train_whatever_their_kind():
    images, sequence = torch.randn(2, 4, 5, 5), torch.randn(2, 3, 4)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    cases = [
        (nn.ConvTranspose2d(4, 2, 3), lambda model: model(images)),
        (attention, lambda model: model(sequence, sequence, sequence)[0]),
        (nn.GRU(4, 3), lambda model: model(sequence)[0]),
    ]
    for model, run in cases:
        sparsifier = ow.sparsify(model, TECHNIQUE)
        (run(model).square().sum() + sparsifier.penalty()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
