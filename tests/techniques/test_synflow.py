"""SynFlow: its scores are the parts of the flow that go through each weight."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

import openwork as ow
from tests.helpers import raises

SEEN = {}


class Seen(ow.SynFlow):
    """SynFlow that notes its scores by name."""

    def scores(self, view):
        SEEN[view.name] = view.evidence["measured"]
        return super().scores(view)


def scored(model, x, **settings):
    """The parts of the flow through each weight of the dense model, by name."""
    SEEN.clear()
    ow.sparsify(model, Seen(ow.OneShot(0.0), rounds=1, **settings), calibrate=lambda model: model(x))
    return dict(SEEN)


def net(*, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8, bias=bias), nn.ReLU(), nn.Linear(8, 7, bias=bias), nn.ReLU(), nn.Linear(7, 3, bias=bias)
    )


def flow(model, x):
    """R by hand: absolute values of everything, inputs of 1."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.abs())
        return float(model.double().eval()(torch.ones_like(x).double()).sum())


X = torch.randn(1, 6)


def test_synflow_R_flows_through_each_bias_free_layer_as_a_whole():  # noqa: N802
    scores = scored(net(), X)
    for score in scores.values():
        assert score.dtype == torch.float64
        assert float(score.sum()) == pytest.approx(1, abs=1e-12)
    into, out = scores["0.weight"].sum(1), scores["2.weight"].sum(0)  # of each hidden unit
    torch.testing.assert_close(into, out, rtol=1e-12, atol=0)


def test_synflow_R_is_the_sum_of_absolute_paths():  # noqa: N802
    x = torch.ones(1, 2)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        model[1].weight.copy_(torch.tensor([[-1.0, 0.5]]))  # paths 1, 2, 1.5, 2; R = 6.5
    scores = scored(model, x)
    expected = torch.tensor([[1.0, 2.0], [1.5, 2.0]], dtype=torch.float64) / 6.5
    torch.testing.assert_close(scores["0.weight"], expected, rtol=1e-15, atol=0)
    expected = torch.tensor([[3.0, 3.5]], dtype=torch.float64) / 6.5
    torch.testing.assert_close(scores["1.weight"], expected, rtol=1e-15, atol=0)
    assert flow(model, x) == 6.5


@pytest.mark.parametrize("scale", [1.0, 2.0**-20, 2.0**20])
def test_synflow_R_with_biases_is_a_layer_s_weights_and_all_biases_from_there_on(scale):  # noqa: N802
    model = net(bias=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= scale
    SEEN.clear()
    technique = Seen(ow.OneShot(0.0), rounds=1)
    ow.sparsify(model, technique, select=ow.all_parameters, calibrate=lambda model: model(X))
    scores = dict(SEEN)
    biases = [float(scores[f"{layer}.bias"].sum()) for layer in (0, 2, 4)]
    for place, layer in enumerate((0, 2, 4)):
        total = float(scores[f"{layer}.weight"].sum()) + sum(biases[place:])
        assert total == pytest.approx(1, abs=1e-12)
    assert min(biases) > 0


def test_synflow_R_of_batch_norms_and_residual_branches_is_that_of_absolute_values():  # noqa: N802
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(x + self.norm(self.relu(self.conv(x))))

    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.ReLU(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        for module in (model[0].norm, model[2].norm):
            module.weight.normal_()
            module.running_var.uniform_(0.5, 2)
    model[5].bias.data.zero_()
    x = torch.randn(2, 3, 5, 5)
    scores = scored(model, x)
    assert float(scores["5.weight"].sum()) == pytest.approx(1, abs=1e-12)  # the branches join before it
    assert float(scores["2.conv.weight"].sum()) < 1  # the rest goes through the skip connection
    total = flow(model, x)
    model.zero_grad()
    model(torch.ones_like(x).double()).sum().backward()
    for name, weight in model.named_parameters():
        if name in scores:
            torch.testing.assert_close(scores[name], weight.grad * weight.detach() / total, rtol=1e-10, atol=0)


def chain(depth: int, width: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(width, width, bias=False), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)
    return nn.Sequential(*layers)


def log_flow(model: nn.Sequential) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What arrives at each layer and what leaves the network from there, each divided by its sum: no overflow."""
    matrices = [layer.weight.detach().abs().double() for layer in model if isinstance(layer, nn.Linear)]
    into, out = [torch.ones(len(matrices[0]), dtype=torch.float64)], [torch.ones(len(matrices[0]), dtype=torch.float64)]
    for matrix in matrices[:-1]:
        x = matrix @ into[-1]
        into.append(x / x.sum())
    for matrix in matrices[:0:-1]:
        x = matrix.T @ out[-1]
        out.append(x / x.sum())
    return into, out[::-1]


@pytest.mark.parametrize(("depth", "width"), [(60, 512), (300, 64)])
def test_synflow_overflow_a_deep_network_s_scores_are_finite_and_right(depth, width):
    model = chain(depth, width)  # R is about 1e84, and 1e341, which float64 does not hold
    scores = scored(model, torch.ones(1, width))
    into, out = log_flow(model)
    for place in (0, 1, depth // 2, depth - 1):
        score, weight = scores[f"{2 * place}.weight"], model[2 * place].weight.detach().abs().double()
        expected = out[place][:, None] * weight * into[place]
        torch.testing.assert_close(score, expected / expected.sum(), rtol=1e-9, atol=0)


def test_synflow_needs_no_data():
    torch.manual_seed(1)
    model = net()
    masks = []
    for x in (X, 1e6 * torch.randn(1, 6), torch.full((1, 6), math.nan)):
        twin = net()
        twin.load_state_dict(model.state_dict())
        masks.append(ow.sparsify(twin, ow.SynFlow(ow.OneShot(0.8), rounds=5), calibrate=lambda m, x=x: m(x)).masks())
    for name, mask in masks[0].items():
        assert torch.equal(mask, masks[1][name])
        assert torch.equal(mask, masks[2][name])


@pytest.mark.filterwarnings("ignore:.* keeps no weight", "ignore:.* cut off")
def test_synflow_in_many_rounds_empties_no_layer_where_one_round_does():
    torch.manual_seed(0)
    sizes = (40, 100, 10, 100, 5)
    state = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]).state_dict()
    least = {}
    for rounds in (1, 100):
        model = nn.Sequential(*[nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)])
        model.load_state_dict(state)
        technique = ow.SynFlow(ow.OneShot(0.99), rounds=rounds)
        masks = ow.sparsify(model, technique, calibrate=lambda m: m(torch.ones(1, 40))).masks()
        least[rounds] = min(int(mask.sum()) for mask in masks.values())
        assert sum(int(mask.sum()) for mask in masks.values()) == 65  # floor of 1 % of 6,500
    assert least[100] > least[1]
    assert least[100] >= 1


class Attends(nn.Module):
    """A softmax that is no module."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(torch.softmax(self.first(x), -1))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 2)),
            "through 1 (LayerNorm), whose output",
        ),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.GroupNorm(2, 4), nn.Linear(4, 2)), "through 1 (GroupNorm)"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)), "through 1 (Tanh)"),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU6(), nn.Linear(4, 2)), None),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.LogSoftmax(-1)), "through 1 (LogSoftmax)"),
        (Attends, "SynFlow has no meaning through last (Linear)"),
    ],
    ids=["LayerNorm", "GroupNorm", "Tanh", "ReLU6", "LogSoftmax", "softmax"],
)
def test_synflow_refuses_what_does_not_grow_with_its_input(model, words):
    model = model()
    if words is None:  # it is linear where its inputs are below 6
        assert float(scored(model, X)["2.weight"].sum()) < 1  # the rest is that of biases
        return
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with raises(ValueError, words, "take SNIP or GraSP instead"):
        ow.sparsify(model, ow.SynFlow(ow.OneShot(0.5)), calibrate=lambda m: m(X))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model[0].training if isinstance(model, nn.Sequential) else model.first.training


def test_synflow_refuses_inputs_that_are_no_floats_and_outputs_that_are_none():
    embedding = nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 2))
    with raises(ValueError, "SynFlow replaces inputs by 1, and this model gets no floating-point ones; take SNIP"):
        ow.sparsify(embedding, ow.SynFlow(ow.OneShot(0.5)), calibrate=lambda m: m(torch.arange(5)))
    with raises(
        TypeError, "the calibration must return outputs, got a NoneType; pass calibrate=lambda model: model(x)"
    ):
        ow.sparsify(net(), ow.SynFlow(ow.OneShot(0.5)), calibrate=lambda m: None)
    with raises(ValueError, "SynFlow measures outputs before training; pass calibrate=lambda model: model(x)"):
        ow.sparsify(net(), ow.SynFlow(ow.OneShot(0.5)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_synflow_computes_in_float64_whatever_the_model_has(dtype):
    model = net().to(dtype)
    scores = scored(model, X.to(dtype))
    assert all(parameter.dtype == dtype for parameter in model.parameters())
    assert all(score.dtype == torch.float64 for score in scores.values())
    assert float(scores["2.weight"].sum()) == pytest.approx(1, abs=1e-12)
