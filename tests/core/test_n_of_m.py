"""Exactly n of m in every group: every n:m, whatever the layer, the technique and the ties."""

import pytest
import torch
from torch import nn

import openwork as ow
from tests.core.test_layout import Experts

EVERY = [(n, m) for m in (2, 4, 8) for n in range(1, m)] + [(3, 5), (1, 16), (15, 16), (7, 10), (2, 300)]


class Conv1D(nn.Module):
    """As transformers writes it: inputs first."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.weight


def groups(weight, m, along):
    """(groups, m) of a weight whose inputs lie along a dimension."""
    return weight.detach().movedim(along, -1).reshape(-1, m)


LAYERS = {
    # what it is: (its module with this many inputs, its parameter, the dimension of the inputs)
    "Linear": (lambda i: nn.Linear(i, 3), "weight", 1),
    "Conv1d": (lambda i: nn.Conv1d(i, 3, 2), "weight", 1),
    "Conv2d": (lambda i: nn.Conv2d(i, 3, (2, 3)), "weight", 1),
    "Conv3d": (lambda i: nn.Conv3d(i, 2, 2), "weight", 1),
    "Conv2d of groups": (lambda i: nn.Conv2d(2 * i, 6, 3, groups=2), "weight", 1),
    "ConvTranspose2d": (lambda i: nn.ConvTranspose2d(i, 3, 2), "weight", 0),
    "ConvTranspose2d of groups": (lambda i: nn.ConvTranspose2d(2 * i, 4, 1, groups=2), "weight", 0),
    "Embedding": (lambda i: nn.Embedding(5, i), "weight", 1),
    "LSTM": (lambda i: nn.LSTM(i, 3), "weight_ih_l0", 1),
    "MultiheadAttention": (lambda i: nn.MultiheadAttention(2, 1, kdim=i, vdim=i), "k_proj_weight", 1),
    "Conv1D": (lambda i: Conv1D(3, i), "weight", 0),
}


@pytest.mark.parametrize(("n", "m"), EVERY)
def test_every_group_keeps_exactly_its_n_best(n, m):
    torch.manual_seed(m)
    layer = nn.Linear(2 * m, 3)
    dense = groups(layer.weight.clone(), m, 1)
    ow.prune(layer, ow.GradualMagnitude(ow.OneShot(1 - n / m), pattern=ow.NM(n, m)))
    pruned = groups(layer.weight, m, 1)
    assert (pruned != 0).sum(1).eq(n).all()
    best = dense.abs().topk(n, dim=1).indices
    assert torch.equal(pruned.gather(1, best), dense.gather(1, best))


@pytest.mark.parametrize("equal", [False, True], ids=["random", "equal"])
@pytest.mark.parametrize(("n", "m"), [(4, 8), (6, 8), (1, 4), (2, 4)])
@pytest.mark.parametrize("kind", LAYERS)
def test_groups_lie_along_the_inputs_of_every_layer(kind, n, m, equal):
    make, leaf, along = LAYERS[kind]
    torch.manual_seed(0)
    layer = make(2 * m)
    if equal:
        nn.init.constant_(getattr(layer, leaf), 0.5)
    ow.prune(layer, ow.GradualMagnitude(ow.OneShot(1 - n / m), pattern=ow.NM(n, m)), select=leaf)
    assert (groups(getattr(layer, leaf), m, along) != 0).sum(1).eq(n).all()


@pytest.mark.parametrize(("n", "m"), [(4, 8), (6, 8), (1, 4)])
@pytest.mark.parametrize("transposed", [False, True])
def test_groups_lie_along_the_inputs_of_each_expert(transposed, n, m):
    experts = Experts(transposed)
    ow.prune(experts, ow.GradualMagnitude(ow.OneShot(1 - n / m), pattern=ow.NM(n, m)))
    assert (groups(experts.proj, m, 1 if transposed else 2) != 0).sum(1).eq(n).all()


@pytest.mark.parametrize(("n", "m"), [(4, 8), (6, 8), (1, 4)])
def test_wanda_and_trained_masks_keep_exactly_n_of_every_group(n, m):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 4, 5))
    x = torch.randn(6, 8, 4, 4)
    ow.prune(net, ow.Wanda(ow.OneShot(1 - n / m), pattern=ow.NM(n, m)), calibrate=lambda model: model(x))
    assert all((groups(net[place].weight, m, 1) != 0).sum(1).eq(n).all() for place in (0, 3))

    net = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))
    schedule = ow.Cubic(1 - n / m, end=4, every=1)
    sparsifier = ow.sparsify(net, ow.GradualMagnitude(schedule, pattern=ow.NM(n, m), hidden="trained"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    sparsifier.attach(optimizer)
    for _ in range(6):
        net(torch.randn(9, 16)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    sparsifier.finalize()
    assert all((groups(net[place].weight, m, 1) != 0).sum(1).eq(n).all() for place in (0, 2))


@pytest.mark.parametrize("kind", ["Linear", "Conv2d", "Conv1D", "ConvTranspose2d", "Embedding"])
def test_inputs_that_m_does_not_divide_are_one_sentence(kind):
    make, leaf, _ = LAYERS[kind]
    layer = make(12)
    before = getattr(layer, leaf).detach().clone()
    with pytest.raises(ValueError, match="8 does not divide its 12 inputs") as raised:
        ow.prune(layer, ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.NM(4, 8)), select=leaf)
    assert "\n" not in str(raised.value)
    assert torch.equal(getattr(layer, leaf), before)


def test_nothing_that_a_pattern_cannot_be_is_taken():
    for n, m in ((0, 4), (4, 4), (5, 4), (-1, 2)):
        with pytest.raises(ValueError, match=f"NM needs 1 <= n < m, got n={n}, m={m}"):
            ow.NM(n, m)
