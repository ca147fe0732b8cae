"""Data-parallel training: two processes with gloo end with the same masks, zeros and weights."""

from tests.processes import run_two

SCRIPT = """
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
import openwork as ow

schedule = ow.Cubic(0.8, begin=1, end=6, every=1)
techniques = [
    ow.GradualMagnitude(schedule),
    ow.GradualMagnitude(schedule, hidden="trained"),
    ow.RandomPruning(schedule),
    ow.VariationalDropout(ow.Constant(1e-2), log_sigma2=-4.0),
    ow.L0(ow.Constant(1e-2), dropout=0.925),
]
for technique in techniques:
    torch.manual_seed(rank)  # DDP broadcasts rank 0's weights; masks must not depend on what each rank drew
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    nn.init.constant_(model[0].weight, 0.1)  # ties everywhere
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
            assert zeros == sum(sparsifier._mechanism.zeros().values()), (technique, step)
    flat = torch.cat([p.detach().flatten() for p in sparsifier.finalize().parameters()])
    both = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(both, flat)
    assert torch.equal(both[0], both[1]), technique
    if rank == 0:
        print(type(technique).__name__, int((flat == 0).sum()), flush=True)
"""


def test_two_processes_end_with_the_same_sparse_weights(tmp_path):
    output, _ = run_two(SCRIPT, tmp_path)
    lines = [line.split() for line in output.splitlines()]
    techniques = ["GradualMagnitude", "GradualMagnitude", "RandomPruning", "VariationalDropout", "L0"]
    assert [name for name, _ in lines] == techniques
    # 128 and 64 weights at 0.8: 103 + 52 zeros
    assert [int(count) for _, count in lines[:3]] == [155, 155, 155]
