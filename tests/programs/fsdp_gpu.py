"""Compares a training of random weights under FSDP2, on a GPU for each process, with that of one; prints "same"."""

import os
import sys

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

import openwork as ow
from openwork.noise import key, keyed

WIDTH = 1024  # so that averages of gradients are on their way for some time


def train(
    technique: ow.Reparameterization, policy: OffloadPolicy | None, device: torch.device, early: bool
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """The parameters after two steps, and the penalties; ``policy`` None for one process."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(6)]).to(device)
    sparsifier = ow.sparsify(model, technique)
    if policy is not None:
        for layer in list(model)[:4]:
            fully_shard(layer, offload_policy=policy)
        fully_shard(model, offload_policy=policy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    seen = []
    for step in range(2):
        x = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(step)).to(device)
        penalty = sparsifier.penalty() if early else None
        with keyed(torch.tensor(key(0, step), device=device)):
            loss = model(x).square().mean()
        penalty = sparsifier.penalty() if penalty is None else penalty
        seen.append(penalty.detach().to(device))
        (loss + penalty.to(device)).backward()
        optimizer.step()
        optimizer.zero_grad()
    seen.append(torch.tensor(sparsifier.sparsity(), device=device))
    state = model.state_dict()
    whole = {name: t.to(device).full_tensor() if policy is not None else t for name, t in state.items()}
    return seen, {name: tensor.cpu() for name, tensor in whole.items()}


if __name__ == "__main__":
    rank, folder, processes = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    store = f"file://{folder}/store"
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=store, rank=rank, world_size=processes)
    strength = ow.Constant(1e-5)
    for technique in (ow.VariationalDropout(strength, log_sigma2=-8.0), ow.L0(strength), ow.GroupL0(strength)):
        for early in (False, True):
            one = train(technique, None, device, early)
            for policy in (OffloadPolicy(), CPUOffloadPolicy()):
                print(technique, policy, early, file=sys.stderr)
                torch.testing.assert_close(train(technique, policy, device, early), one, rtol=1e-4, atol=1e-6)
    print("same", flush=True)
    dist.barrier()
    os._exit(0)
