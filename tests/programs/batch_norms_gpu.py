"""Recalibrates a SyncBatchNorm with parts of batches, a GPU for each process; prints "same" if as with whole ones."""

import os
import sys

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import openwork as ow
from tests.programs.batch_norms import network


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [number + (1 + number) * torch.randn(6, 2, 6, 6, generator=generator) for number in range(3)]


if __name__ == "__main__":
    rank, folder, processes = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    whole = network().to(device)
    ow.recalibrate_batchnorm(whole, batches())
    parallel = DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(network().to(device)), [rank])
    used = ow.recalibrate_batchnorm(parallel, [batch.chunk(processes)[rank] for batch in batches()])
    assert used == 3
    assert isinstance(parallel.module[1], nn.SyncBatchNorm)
    torch.testing.assert_close(parallel.module[1].state_dict(), whole[1].state_dict())
    print("same", flush=True)
    dist.barrier()
    os._exit(0)
