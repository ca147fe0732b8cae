"""Techniques with random weights, and their training in one process or under FSDP2, for the checks of two."""

import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.testing import assert_close

import openwork as ow
from openwork.noise import key, keyed
from tests.core.fsdp_setup import full, net, sgd, shard

STRENGTH = ow.Constant(1e-2)


@dataclass(frozen=True)
class SoftThreshold(ow.Reparameterization):
    """sign(w) * relu(|w| - sigmoid(s)) with one learned s for each weight tensor, and a penalty that moves it."""

    def distribution(self, weight, generator):
        return SoftWeight(weight)


class SoftWeight(ow.ReparameterizedWeight):
    by_rows = True

    def __init__(self, weight):
        super().__init__()
        self.s = nn.Parameter(torch.full((1,), -2.0).to(weight))

    def sample(self, weight, generator=None):
        return self.effective(weight)

    def effective(self, weight):
        return weight.sign() * torch.relu(weight.abs() - torch.sigmoid(self.s))

    def penalty(self, weight):
        return (weight.abs() * torch.sigmoid(-self.s)).sum()

    def expected_nonzero(self, weight):
        return (self.effective(weight) != 0).sum()


TECHNIQUES = [
    ow.VariationalDropout(STRENGTH, log_sigma2=-3.0),
    ow.L0(STRENGTH, dropout=0.5, weight_decay=0.1),
    ow.GroupL0(STRENGTH, weight_decay=0.1),  # whose gates of a Linear are a row that all rows of the weight share
    SoftThreshold(STRENGTH),
]


def one_by_one(parameters):
    return torch.optim.Adam(parameters, lr=0.02, foreach=False)


def begin(technique, order, optimizer=sgd, sharding=shard, model=net, **options):
    """A model with random weights: in one process (order ""), sharded "before" sparsify, or "after" it."""
    model = model().double()
    if order == "before":
        sharding(model)
    sparsifier = ow.sparsify(model, technique)
    if order == "after":
        sharding(model)
    optimizer = optimizer(model.parameters())
    return model, sparsifier.attach(optimizer, **options), optimizer


def batch(number, size=6):
    return torch.randn(size, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(number))


def noise(step):
    return keyed(torch.tensor(key(0, step)))


def tensors(named):
    return {name: full(tensor.detach()).clone() for name, tensor in named}


def train(model, sparsifier, optimizer, steps, first=0):
    """What there was to see at each step."""
    seen = []
    for step in range(first, first + steps):
        early = sparsifier.penalty() if step % 2 else None  # before the forward its backward comes last
        with noise(step):
            loss = model(batch(step)).square().mean()
        penalty = sparsifier.penalty() if early is None else early
        (loss + penalty).backward()
        gradients = tensors((name, p.grad) for name, p in model.named_parameters())
        optimizer.step()
        optimizer.zero_grad()
        seen.append((loss.detach(), penalty.detach(), gradients, tensors(model.named_parameters())))
    return seen


def assert_same(results, what):
    for result in results[1:]:
        assert_close(result, results[0], msg=lambda text: f"{what}\n{text}")


def counted(sparsifier):
    masks = tensors(sparsifier.masks().items())
    return sparsifier.sparsity(), sparsifier.layer_sparsity(), sparsifier.expected_nonzero(), masks


def finalized(model, sparsifier):
    model.eval()
    with torch.no_grad():
        evaluated = model(batch(0))  # which leaves the root's weights gathered
    counts, skipped = counted(sparsifier), bool(sparsifier.skipped)
    with warnings.catch_warnings(record=True):
        sparsifier.finalize()
    with torch.no_grad():
        assert_close(model(batch(0)), evaluated)
    assert skipped or ow.report(model).sparsity == counts[0]  # m does not divide every layer's inputs
    assert not any("Reparameterized" in type(module).__name__ for module in model.modules())
    return counts, tensors(model.state_dict().items())
