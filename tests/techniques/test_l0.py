import math

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.kernels.gates import stretched
from openwork.techniques.l0 import hard_concrete, open_probability
from tests.helpers import mean

COEFFICIENT = ow.Constant(1.0)


@pytest.mark.parametrize("log_alpha", [-3.0, -1.0, 0.0, 2.197])
def test_gates_close_with_the_probability_of_the_formula(log_alpha):
    torch.manual_seed(0)
    n = 200_000
    z = hard_concrete(torch.full((n,), log_alpha))
    p = open_probability(torch.tensor(log_alpha)).item()
    assert p == pytest.approx(1 / (1 + math.exp(-(log_alpha + 1.5986))), abs=1e-4)
    tolerance = 6 * math.sqrt(p * (1 - p) / n)  # 6 sigma of a mean of n draws
    assert (z != 0).double().mean().item() == pytest.approx(p, abs=tolerance)
    # by symmetry of the logistic noise P(z = 1 | log alpha) = P(z = 0 | -log alpha)
    closed = 1 - open_probability(torch.tensor(-log_alpha)).item()
    assert (z == 1).double().mean().item() == pytest.approx(closed, abs=6 * math.sqrt(closed * (1 - closed) / n) + 1e-9)


def test_the_distribution_between_the_ends():
    # Q(s) = sigmoid(beta * (log s' - log(1 - s')) - log alpha), s' = (s - gamma) / (zeta - gamma)
    torch.manual_seed(0)
    z = hard_concrete(torch.full((200_000,), 0.3))
    for point in (0.2, 0.5, 0.9):
        inner = (point + 0.1) / 1.2
        expected = 1 / (1 + math.exp(-(2 / 3 * math.log(inner / (1 - inner)) - 0.3)))
        assert (z <= point).double().mean().item() == pytest.approx(expected, abs=6 * 0.5 / math.sqrt(200_000))


def test_deterministic_gates_are_zero_and_one_beyond_2_398():
    edge = math.log(11)
    gates = stretched(torch.sigmoid(torch.tensor([-edge - 1e-3, -edge + 1e-3, 0.0, edge + 1e-3])))
    assert gates[0] == 0
    assert gates[1] > 0
    assert gates[2].item() == pytest.approx(0.5)
    assert gates[3] == 1


def test_evaluation_multiplies_by_the_deterministic_gate():
    layer = nn.Linear(3, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    sparsifier = ow.sparsify(layer, ow.L0(COEFFICIENT))
    with torch.no_grad():
        layer.reparam.weight.log_alpha.copy_(torch.tensor([[-5.0, 0.0, 5.0]]))
    assert layer.eval()(torch.eye(3)).flatten().tolist() == pytest.approx([0.0, 1.0, 2.0])
    assert sparsifier.sparsity() == pytest.approx(1 / 3)
    expected = sum(1 / (1 + math.exp(-(a + 1.5986))) for a in (-5, 0, 5))
    assert sparsifier.penalty().item() == pytest.approx(expected, abs=1e-4)


def test_initial_gates_are_open_with_the_probability_of_the_dropout_rate():
    layer = nn.Linear(100, 100)
    ow.sparsify(layer, ow.L0(COEFFICIENT, dropout=0.3))
    log_alpha = layer.reparam.weight.log_alpha
    assert log_alpha.mean().item() == pytest.approx(math.log(0.7 / 0.3), abs=6 * 0.01 / 100)
    assert log_alpha.std().item() == pytest.approx(0.01, abs=6 * 0.01 / math.sqrt(20_000))
    with pytest.raises(ValueError, match=r"dropout must be in \(0, 1\), got 1.0"):
        ow.L0(COEFFICIENT, dropout=1.0)


def test_one_draw_of_gates_serves_the_whole_batch():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    ow.sparsify(layer, ow.L0(COEFFICIENT, dropout=0.5))
    y = layer(torch.ones(6, 4))
    assert torch.equal(y, y[:1].expand_as(y))
    assert not torch.equal(y, layer(torch.ones(6, 4)))


def test_every_occurrence_of_a_token_draws_its_own_gates():
    torch.manual_seed(0)
    embedding = nn.Embedding(3, 8)
    ow.sparsify(embedding, ow.L0(COEFFICIENT, dropout=0.5))
    rows = embedding(torch.zeros(1, 5, dtype=torch.long))[0]
    assert len(rows.unique(dim=0)) == 5


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    ow.sparsify(layer, ow.L0(COEFFICIENT, dropout=0.5))
    x = torch.randn(4, 3, dtype=torch.float64)

    def loss(theta, log_alpha):
        torch.manual_seed(1)  # the same uniform numbers at every call
        parameters = {"weight": theta, "reparam.weight.log_alpha": log_alpha}
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    theta, log_alpha = (p.detach().clone().requires_grad_() for p in (mean(layer), layer.reparam.weight.log_alpha))
    assert torch.autograd.gradcheck(loss, (theta, log_alpha))
