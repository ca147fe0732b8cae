import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn
from torch.nn import functional as F

import openwork as ow
from openwork.techniques.variational_dropout import GaussianWeight, kl
from tests.helpers import mean

COEFFICIENT = ow.Constant(1.0)


def sparsified(model: nn.Module, technique: ow.VariationalDropout) -> ow.Sparsifier:
    """The sparsifier, with random log sigma^2 so that every weight has its own variance."""
    sparsifier = ow.sparsify(model, technique)
    for module in model.modules():
        if isinstance(module, GaussianWeight):
            nn.init.uniform_(module.log_sigma2, -4, -1)
    return sparsifier


@pytest.mark.parametrize(
    ("log_alpha", "nats"), [(-8, 4.63590), (-4, 2.63421), (0, 0.43124), (2, 0.06842), (3, 0.02542), (8, 0.000168)]
)
def test_kl_at_the_published_points(log_alpha, nats):
    assert kl(torch.tensor(float(log_alpha))).item() == pytest.approx(nats, abs=1e-5)


def test_kl_agrees_with_numerical_integration():
    # KL = E_{e ~ N(1, alpha)} log|e| - 0.5 log alpha + C, with the C that makes it 0 for alpha to infinity
    def exact(log_alpha):
        alpha = math.exp(log_alpha)

        def integrand(z):
            return math.log(abs(1 + math.sqrt(alpha) * z) + 1e-300) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

        pole = -1 / math.sqrt(alpha)
        parts = sorted({-9.0, 9.0, min(max(pole, -9.0), 9.0)})
        expectation = sum(quad(integrand, a, b, limit=400)[0] for a, b in pairwise(parts))
        limit = -(np.euler_gamma + math.log(2)) / 2  # E log|z| of a standard normal
        return expectation - 0.5 * log_alpha - limit

    grid = torch.arange(-8, 8.01, 0.5)
    errors = [abs(kl(x).item() - exact(x.item())) for x in grid]
    assert max(errors) < 0.0095  # 0.00937 nats at log alpha = -3.5: the error of the published fit itself


def test_kl_stays_finite_without_clipping():
    values = torch.tensor([-200.0, 200.0], requires_grad=True)
    kl(values).sum().backward()
    assert values.grad.isfinite().all()
    assert kl(values)[0].item() == pytest.approx(100, abs=0.7)


def moments(layer, x, reference_op, draws):
    """Sample mean and variance of a layer's training outputs, beside those of the closed form."""
    sparsifier = sparsified(layer, ow.VariationalDropout(COEFFICIENT, clip=50.0))
    reparam = layer.reparam.weight
    with torch.no_grad():
        sigma2 = torch.exp(reparam.log_sigma2)
        squared = x if not x.is_floating_point() else x * x
        expected = reference_op(x, mean(layer), getattr(layer, "bias", None))
        variance = reference_op(squared, sigma2, None)
        outputs = torch.stack([layer(x) for _ in range(draws)])
    assert sparsifier.weights[0].name == "weight"
    return outputs.mean(0), outputs.var(0), expected, variance


@pytest.mark.parametrize(
    "make",
    [
        lambda: (nn.Linear(5, 3), torch.randn(4, 5), F.linear),
        lambda: (nn.Conv1d(2, 3, 3, padding=1), torch.randn(2, 2, 6), lambda x, w, b: F.conv1d(x, w, b, padding=1)),
        lambda: (nn.Conv2d(4, 6, 3, groups=2), torch.randn(2, 4, 5, 5), lambda x, w, b: F.conv2d(x, w, b, groups=2)),
        lambda: (nn.Conv3d(1, 2, 2, stride=2), torch.randn(1, 1, 4, 4, 4), lambda x, w, b: F.conv3d(x, w, b, stride=2)),
        lambda: (nn.Embedding(7, 4), torch.randint(7, (3, 2)), lambda x, w, b: F.embedding(x, w)),
    ],
    ids=["linear", "conv1d", "conv2d", "conv3d", "embedding"],
)  # fmt: skip
def test_outputs_have_the_moments_of_gaussian_weights(make):
    torch.manual_seed(0)
    draws = 4000
    sample_mean, sample_variance, mean, variance = moments(*make(), draws)
    # 6 sigma of the mean of 4000 draws, and of their variance: var * sqrt(2 / 4000)
    assert ((sample_mean - mean).abs() < 6 * (variance / draws).sqrt()).all()
    assert ((sample_variance - variance).abs() < 6 * variance * math.sqrt(2 / draws)).all()


def test_linear_outputs_are_independent_of_each_other():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    sparsified(layer, ow.VariationalDropout(COEFFICIENT))
    x = torch.randn(2, 3)
    with torch.no_grad():
        outputs = torch.stack([layer(x).flatten() for _ in range(4000)])
    correlation = torch.corrcoef(outputs.T) - torch.eye(4)
    assert correlation.abs().max() < 6 / math.sqrt(4000)


@pytest.mark.parametrize("share", [True, False])
def test_noise_is_shared_over_the_positions_of_a_sequence(share):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    sparsified(layer, ow.VariationalDropout(COEFFICIENT, share_noise=share))
    x = torch.ones(4, 5, 3)  # equal inputs: any difference between positions is noise
    y = layer(x)
    assert torch.equal(y[:, :1].expand_as(y), y) == share
    assert not torch.allclose(y[0], y[1])
    embedding = nn.Embedding(3, 2)
    sparsified(embedding, ow.VariationalDropout(COEFFICIENT, share_noise=share))
    tokens = embedding(torch.zeros(1, 4, dtype=torch.long))
    assert len(tokens[0].unique(dim=0)) == 4  # fresh noise for each occurrence


def test_log_alpha_is_clipped_in_training_only():
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1e-3]]))
    sparsifier = ow.sparsify(layer, ow.VariationalDropout(COEFFICIENT, threshold=9.0, log_sigma2=0.0))
    reparam = layer.reparam.weight
    log_alpha = reparam.log_alpha(mean(layer))[0]
    assert log_alpha.tolist() == pytest.approx([0.0, -math.log(1e-6 + 1e-8)], abs=1e-5)  # 13.8
    assert reparam.clipped_log_alpha(mean(layer))[0, 1] == 8.0
    assert reparam.sigma2(mean(layer))[0, 1].item() == pytest.approx(math.exp(8) * (1e-6 + 1e-8), rel=1e-5)
    assert sparsifier.sparsity() == 0.5  # 13.8 >= 9, though training clips at 8
    reparam.clipped_log_alpha(mean(layer))[0, 1].backward()
    assert reparam.log_sigma2.grad.abs().sum() == 0  # no gradient outside the clip


def test_the_threshold_is_strict():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(mean(layer))
    sparsifier = ow.sparsify(layer, ow.VariationalDropout(COEFFICIENT, threshold=3.0, log_sigma2=3.0 + 1e-5))
    assert sparsifier.sparsity() == 1.0
    nn.init.constant_(layer.reparam.weight.log_sigma2, 3.0 - 1e-5)
    assert sparsifier.sparsity() == 0.0


def test_initial_log_sigma2_and_penalty():
    layer = nn.Linear(3, 2)
    nn.init.constant_(layer.weight, 0.5)
    sparsifier = ow.sparsify(layer, ow.VariationalDropout(ow.Constant(0.25)))
    assert layer.reparam.weight.log_sigma2.unique().tolist() == [-10.0]
    log_alpha = torch.tensor(-10 - math.log(0.25 + 1e-8)).clamp(-8, 8)
    assert sparsifier.penalty().item() == pytest.approx(0.25 * 6 * kl(log_alpha).item(), rel=1e-5)


def test_the_coefficient_follows_its_schedule():
    model = nn.Linear(3, 2)
    sparsifier = ow.sparsify(model, ow.VariationalDropout(ow.Linear(1.0, begin=1, end=3)))
    penalties = []
    for _ in range(4):
        penalties.append(sparsifier.penalty().item())
        sparsifier.step()
    assert penalties[0] == penalties[1] == 0
    assert penalties[3] == pytest.approx(2 * penalties[2], rel=1e-6)


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    sparsifier = sparsified(layer, ow.VariationalDropout(COEFFICIENT))
    x = torch.randn(4, 3, dtype=torch.float64)

    def loss(theta, log_sigma2):
        torch.manual_seed(1)  # the same noise at every call
        parameters = {"weight": theta, "reparam.weight.log_sigma2": log_sigma2}
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    theta, log_sigma2 = (p.detach().clone().requires_grad_() for p in (mean(layer), layer.reparam.weight.log_sigma2))
    assert torch.autograd.gradcheck(loss, (theta, log_sigma2))
    assert sparsifier.penalty().dtype == torch.float64


def test_half_precision_variances_do_not_give_nan():
    layer = nn.Linear(4, 2)
    sparsified(layer, ow.VariationalDropout(COEFFICIENT))
    with torch.autocast("cpu", torch.float16):
        y = layer(torch.zeros(3, 4))  # a variance of 0, where the gradient of sqrt is infinite without epsilon
    y.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_train_clip_leaves_removed_weights_their_noise_only():
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
    ow.sparsify(layer, ow.VariationalDropout(COEFFICIENT, threshold=3.0, train_clip=True))
    with torch.no_grad():
        layer.reparam.weight.log_sigma2.copy_(torch.tensor([[4.0, -40.0]]))  # log alpha 4 and, clipped, -8
    x = torch.tensor([[1.0, 1.0]]).expand(40_000, 2)
    y = layer(x)
    std = math.sqrt(math.exp(4) + 4 * math.exp(-8))
    assert y.mean().item() == pytest.approx(2.0, abs=6 * std / 200)  # 6 sigma of the mean of 40,000
    assert y.std().item() == pytest.approx(std, rel=6 / math.sqrt(80_000))
    y.sum().backward()
    assert mean(layer).grad[0, 1].item() == pytest.approx(40_000, rel=0.05)


@pytest.mark.parametrize(("coefficient", "removed"), [(0.001, True), (0.03, False)])
def test_a_coefficient_that_is_too_large_throws_weights_to_where_the_kl_has_no_gradient(coefficient, removed):
    # Its gradient for theta is of the order 1 / theta, and none where log alpha is clipped.
    torch.manual_seed(0)
    layer = nn.Linear(30, 20, bias=False)
    sparsifier = ow.sparsify(layer, ow.VariationalDropout(ow.Constant(coefficient)))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    sparsifier.attach(optimizer)
    for _ in range(500):
        optimizer.zero_grad()
        sparsifier.penalty().backward()
        optimizer.step()
    log_alpha = layer.reparam.weight.log_alpha(mean(layer).detach())
    assert (sparsifier.sparsity() > 0.9) == removed
    assert ((log_alpha < -8).float().mean().item() > 0.9) == (not removed)
