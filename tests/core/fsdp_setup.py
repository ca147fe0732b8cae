"""A small model, and its training in one process and under FSDP2, for `fsdp_checks.py`.

Uneven shards (5 rows), and an empty one (1 row). Both processes see the same batches, so that the averaged gradients
are those of one process: (g + g) / 2 = g.
"""

import re

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import openwork as ow

RAMP = ow.Cubic(0.8, begin=2, end=8, every=2)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.02, weight_decay=1e-2)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-2)


def net(ties=False, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 1))
    if ties:
        for layer in model[::2]:
            nn.init.constant_(layer.weight, 0.3)
    return model


def shard(model, **options):
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh, **options)  # the others are the root's own, whose forward leaves them gathered
    return fully_shard(model, mesh=mesh, **options)


def start(model, technique, optimizer, sharded, **options):
    sparsifier = ow.sparsify(model, technique, **options)
    if sharded:
        shard(model)
    optimizer = optimizer(model.parameters())
    return sparsifier.attach(optimizer), optimizer


def train(model, sparsifier, optimizer, steps, first=0):
    for number in range(first, first + steps):
        batch = torch.randn(6, 8, generator=torch.Generator().manual_seed(number))
        model(batch).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        model(batch)  # an evaluation leaves the root's weights gathered


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assert_equal(one, two, what):
    assert one.keys() == two.keys(), what
    for name in one:
        a, b = full(one[name]), full(two[name])
        assert torch.equal(a, b), f"{what}: {name}, {int((a != b).sum())} of {a.numel()} differ"


def refused(words):
    return pytest.raises(ValueError, match=re.escape(words))
