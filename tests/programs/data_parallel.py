"""Trains with each technique under DistributedDataParallel; both processes must end with the same weights."""

import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import openwork as ow
from openwork.core.technique import Technique
from tests.programs.group import group

SCHEDULE = ow.Cubic(0.8, begin=1, end=6, every=1)
TECHNIQUES: list[Technique] = [
    ow.GradualMagnitude(SCHEDULE),
    ow.GradualMagnitude(SCHEDULE, hidden="trained"),
    ow.RandomPruning(SCHEDULE),
    ow.VariationalDropout(ow.Constant(1e-2), log_sigma2=-4.0),
    ow.L0(ow.Constant(1e-2), dropout=0.925),
]


def train(technique: Technique, rank: int) -> None:
    torch.manual_seed(rank)  # DDP broadcasts rank 0's weights; masks must not depend on what each rank drew
    first = nn.Linear(8, 16)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(16, 4))
    nn.init.constant_(first.weight, 0.1)  # ties everywhere
    sparsifier = ow.sparsify(model, technique)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=1e-2)
    sparsifier.attach(optimizer)
    for step in range(9):
        x = torch.randn(5, 8)  # other data on each rank
        loss = F.cross_entropy(parallel(x), torch.randint(4, (5,))) + sparsifier.penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if isinstance(technique, ow.GradualMagnitude | ow.RandomPruning):
            zeros = sum(int((w.parameter == 0).sum()) for w in sparsifier.weights)
            assert zeros == sum(int((~mask).sum()) for mask in sparsifier.masks().values()), (technique, step)
    flat = torch.cat([p.detach().flatten() for p in sparsifier.finalize().parameters()])
    both = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(both, flat)
    assert torch.equal(both[0], both[1]), technique
    if rank == 0:
        print(type(technique).__name__, int((flat == 0).sum()), flush=True)


if __name__ == "__main__":
    with group() as (rank, _):
        for technique in TECHNIQUES:
            train(technique, rank)
