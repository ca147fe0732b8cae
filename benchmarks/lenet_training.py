"""Whether training a LeNet is bound by Python: steps a second of a run beside those of a plain compiled loop.

LeNet-300-100, batch 100, Adam, random images of MNIST's size. Both loops run the same compiled objective (with CUDA
graphs on a GPU) and the same fused optimizer with its sparsifier; the plain one is four lines, a run's also sets the
learning rate and sums losses. They take turns in blocks of 200 steps.

    python benchmarks/lenet_training.py [--device cuda] [--blocks 10]
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from raw import add_out, keep
from torch import Tensor

import openwork as ow
from openwork.core.technique import Technique
from openwork.study.data.images import Images
from openwork.study.data.splits import Splits
from openwork.study.runs.live import compiled, prepare
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import MnistLeNet300100
from openwork.study.training.loop import train

BLOCK = 200
TECHNIQUES: dict[str, Technique | None] = {
    "dense": None,
    "magnitude": ow.GradualMagnitude(ow.Cubic(0.9, begin=10, end=100, every=10)),
    "variational dropout": ow.VariationalDropout(ow.Constant(1 / 60_000)),
    "L0": ow.L0(ow.Constant(1 / 60_000)),
}


@dataclass(frozen=True)
class Random(MnistLeNet300100):
    """Noise in place of MNIST."""

    benchmark = "LeNet-300-100, noise"

    def data(self, device: torch.device) -> Splits:
        """As many images as MNIST has."""
        return _noise(device)


@cache
def _noise(device: torch.device) -> Splits:
    sets = (Images(torch.randn(n, 1, 28, 28), torch.randint(10, (n,))) for n in (60_000, 10_000))
    train_set, test_set = (Images(one.images.to(device), one.labels.to(device)) for one in sets)
    return Splits(train_set, test_set, test_set)


def loops(technique: Technique | None, device: torch.device) -> tuple[Callable[[], None], Callable[[], None]]:
    """A block of steps of the plain loop, and one of a run's."""
    run = Run(Random(), technique, steps=10_000_000)

    def parts() -> tuple[Any, torch.optim.Optimizer, Callable[[Any], tuple[Tensor, Tensor]]]:
        live = prepare(run, device)
        optimizer = run.task.optimizer(live.model, live.sparsifier)
        if live.sparsifier:
            live.sparsifier.attach(optimizer)
        return live, optimizer, compiled(live)

    _, optimizer, objective = parts()
    batches = run.task.batches(0, 0, device)

    def plain() -> None:
        for batch in itertools.islice(batches, BLOCK):
            loss, penalty = objective(batch)
            torch.autograd.backward(loss + penalty)
            optimizer.step()
            optimizer.zero_grad()

    live, own_optimizer, own_objective = parts()
    settings: dict[str, Any] = {"steps": run.steps, "seed": 0, "start": 0, "every": BLOCK, "device": device}
    blocks: Iterator[object] = train(run.task, live.model, own_optimizer, own_objective, **settings)
    return plain, lambda: (next(blocks), None)[1]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--blocks", type=int, default=10)
    add_out(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, 1 thread"
    print(f"torch {torch.__version__}, {where}, n = {options.blocks} blocks of {BLOCK} steps; steps a second (median)")
    print(f"{'':22}{'plain loop':>12}{'a run':>12}{'run / plain time':>18}")
    for name, technique in TECHNIQUES.items():
        torch._dynamo.reset()
        pair = loops(technique, device)
        for _ in range(2):
            _seconds(pair[0], device), _seconds(pair[1], device)
        times = [[_seconds(block, device) for block in pair] for _ in range(options.blocks)]
        loop, columns = f"{name}, plain loop", zip(*times, strict=True)
        series = dict(zip((loop, name), columns, strict=True))
        keep(options.out, series, unit=f"s for {BLOCK} steps", device=device, reference=loop)
        plain, own = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:22}{BLOCK / plain:12.0f}{BLOCK / own:12.0f}{own / plain:18.3f}", flush=True)


def _seconds(block: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    block()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
