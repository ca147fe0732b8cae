"""Batch norms that two processes recalibrate, each with batches of its own, and what one process makes of all."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import openwork as ow
from tests.programs.group import group


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))


class Reached(nn.Module):
    """A norm that only large inputs reach."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) if x.abs().max() > 1 else x


def batches(count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(1 + seed) * torch.randn(5, 2, 6, 6, generator=generator) + seed for _ in range(count)]


def tried(model: nn.Module, own: list[torch.Tensor]) -> str:
    """What recalibrating with these batches raises, and whether the model is then as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        ow.recalibrate_batchnorm(model, own)
    except (RuntimeError, ValueError) as error:
        same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return f"{str(error).partition(';')[0]} | {same}"
    return "nothing"


if __name__ == "__main__":
    with group() as (rank, folder):
        counts = 3, 2
        parallel = DistributedDataParallel(network())
        ow.recalibrate_batchnorm(parallel, batches(counts[rank], rank))
        assert parallel.broadcast_buffers
        reached = DistributedDataParallel(Reached())
        ow.recalibrate_batchnorm(reached, [torch.full((4, 2), 0.5)] if rank else [2 * torch.ones(4, 2)])
        norms = parallel.module[1].state_dict(), reached.module.norm.state_dict()
        torch.save({**norms[0], **{f"reached {k}": v for k, v in norms[1].items()}}, folder / f"{rank}.pt")
        print(tried(DistributedDataParallel(network()), batches(rank, rank)))
        if rank == 0:  # the other one never calls it
            alone, plain = network(), network()
            ow.recalibrate_batchnorm(alone, batches(3, 0))
            print(tried(plain, []))
            torch.save(alone[1].state_dict(), folder / "alone.pt")
