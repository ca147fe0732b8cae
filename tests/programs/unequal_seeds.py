"""Each process of DistributedDataParallel makes other weights, and chooses the first masks by them."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import openwork as ow
from tests.programs.group import group

if __name__ == "__main__":
    with group() as (rank, _):
        for technique in (ow.GradualMagnitude(ow.OneShot(0.9)), ow.DynamicSurgery(ow.Constant(1.0, every=2))):
            torch.manual_seed(rank)
            model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
            sparsifier = ow.sparsify(model, technique)
            parallel = DistributedDataParallel(model)
            optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
            sparsifier.attach(optimizer)
            parallel(torch.randn(8, 20)).square().mean().backward()
            try:
                optimizer.step()
                print(sparsifier.steps)
            except ValueError as error:
                print(str(error).split("; ")[-1])
