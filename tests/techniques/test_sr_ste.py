"""SR-STE: its step by hand, exact n:m in every forward along the inputs of every kind of layer, and plain export."""

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.techniques.sr_ste import largest
from tests.helpers import raises


def mean_of(layer, leaf="weight"):
    return dict(layer.named_parameters())[leaf]


@pytest.mark.parametrize("strength", [0.0, 2e-4, 0.3])
def test_srste_step_of_plain_gradient_descent(strength):
    torch.manual_seed(0)
    layer = nn.Linear(8, 3, bias=False)
    sparsifier = ow.sparsify(layer, ow.SRSTE(ow.Constant(strength)))
    weight = mean_of(layer).detach().clone()
    kept = (layer.eval().weight != 0).view(3, 8)
    layer.train()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    x = torch.randn(5, 8)
    masked = (weight * kept).requires_grad_()
    (x @ masked.T).square().sum().backward()
    (layer(x).square().sum() + sparsifier.penalty()).backward()
    optimizer.step()
    moved = mean_of(layer).detach()
    torch.testing.assert_close(moved[kept], weight[kept] - 0.1 * masked.grad[kept])
    torch.testing.assert_close(moved[~kept], (1 - 0.1 * strength) * weight[~kept] - 0.1 * masked.grad[~kept])


def test_srste_step_decays_what_is_removed_on_top_of_weight_decay():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    (group,) = ow.sparsify(model, ow.SRSTE()).parameter_groups(1e-4)
    assert group["weight_decay"] == 1e-4


class Conv1D(nn.Module):
    """As transformers has it: inputs first."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.weight


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 8, 5))

    def forward(self, x):
        return torch.einsum("bi,eio->beo", x, self.up)


class Apart(Experts):
    """Whose inputs have two axes."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(2, 5, 4))

    def forward(self, x):
        return torch.einsum("bhi,hoi->bo", x.view(-1, 2, 4), self.up)


ow.declare_layout(Experts, {"up": "experts in out"})
ow.declare_layout(Apart, {"up": "in out in"})
IMAGE, ROW = torch.randn(2, 16, 5, 5), torch.randn(2, 8)
LAYERS = {
    "linear": (lambda: nn.Linear(8, 5), "weight", ROW, lambda w: w),
    "conv": (lambda: nn.Conv2d(16, 6, 3), "weight", IMAGE, lambda w: w.permute(0, 2, 3, 1).reshape(-1, 16)),
    "channels last": (
        lambda: nn.Conv2d(16, 6, 3).to(memory_format=torch.channels_last),
        "weight",
        IMAGE,
        lambda w: w.permute(0, 2, 3, 1).reshape(-1, 16),
    ),
    "groups": (lambda: nn.Conv2d(16, 6, 3, groups=2), "weight", IMAGE, lambda w: w.permute(0, 2, 3, 1).reshape(-1, 8)),
    "transposed": (
        lambda: nn.ConvTranspose2d(16, 6, 3, groups=2),
        "weight",
        IMAGE,
        lambda w: w.view(2, 8, 3, 3, 3).permute(0, 2, 3, 4, 1).reshape(-1, 8),
    ),
    "inputs first": (lambda: Conv1D(8, 5), "weight", ROW, lambda w: w.T),
    "experts": (Experts, "up", ROW, lambda w: w.transpose(1, 2).reshape(-1, 8)),
    "inputs apart": (Apart, "up", ROW, lambda w: w.transpose(0, 1).reshape(5, 8)),
    "embedding": (lambda: nn.Embedding(6, 8), "weight", torch.arange(6), lambda w: w),
}


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 4), (4, 8), (1, 8)])
@pytest.mark.parametrize("kind", LAYERS)
def test_nm_exact_in_every_forward_along_the_inputs(kind, n, m):
    torch.manual_seed(0)
    make, leaf, x, by_inputs = LAYERS[kind]
    layer = make()
    sparsifier = ow.sparsify(layer, ow.SRSTE(pattern=ow.NM(n, m)))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    sparsifier.attach(optimizer)
    for _ in range(3):
        whole = by_inputs(mean_of(layer, leaf).detach()).reshape(-1, m)
        found = by_inputs(getattr(layer, leaf).detach()).reshape(-1, m)
        assert ((found != 0).sum(1) == n).all()
        assert torch.equal(found, torch.where(largest(whole.abs(), n, m, 1), whole, 0))
        assert (found.abs().amax(1) == whole.abs().amax(1)).all()
        (layer(x).square().mean() + sparsifier.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
    plain = sparsifier.finalize()
    assert ((by_inputs(getattr(plain, leaf).detach()).reshape(-1, m) != 0).sum(1) == n).all()
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in make().parameters())


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 4), (4, 8), (5, 8), (1, 16)])
def test_nm_exact_also_where_weights_are_equal(n, m):
    generator = torch.Generator().manual_seed(0)
    for magnitudes in (torch.zeros(3, m), torch.randint(3, (50, 2 * m), generator=generator).float()):
        kept = largest(magnitudes, n, m, 1)
        groups = magnitudes.view(-1, m)
        expected = torch.zeros_like(groups, dtype=torch.bool)
        expected.scatter_(1, groups.argsort(dim=1, descending=True, stable=True)[:, :n], True)
        assert torch.equal(kept.view(-1, m), expected)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (4, 8), (6, 8)])
@pytest.mark.parametrize("kind", LAYERS)
def test_nm_exact_of_masks_is_that_of_every_forward(kind, n, m):
    torch.manual_seed(0)
    make, leaf, _, by_inputs = LAYERS[kind]
    layer = make()
    with torch.no_grad():
        expected = largest(by_inputs(getattr(layer, leaf)).abs(), n, m, 1)
    ow.prune(layer, ow.GradualMagnitude(ow.OneShot(1 - n / m), pattern=ow.NM(n, m)))
    assert torch.equal(by_inputs(getattr(layer, leaf).detach()) != 0, expected)


def test_srste_leaves_out_what_m_does_not_divide_and_says_why():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))
    sparsifier = ow.sparsify(model, ow.SRSTE())
    assert [weight.name for weight in sparsifier.weights] == ["1.weight"]
    assert sparsifier.skipped == {"0.weight": "4 does not divide its 6 inputs"}
    with raises(ValueError, "NM(n=2, m=4) fits none of the selected weights", "4 does not divide its 6 inputs"):
        ow.sparsify(nn.Linear(6, 8), ow.SRSTE())
    with raises(TypeError, "pattern must be an instance of NM such as NM(2, 4), got Rows()"):
        ow.SRSTE(pattern=ow.Rows())
