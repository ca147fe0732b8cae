"""What a sweep costs beside its training: scheduling runs of five seconds on Ray, and collecting 10,000 results.

A run sleeps for its five seconds, so that runs do not wait for one another's processors; it has four weights, and
writes all that a run writes. The ideal is that each processor has a run at any time. A result has the 54 layers of
ResNet-50.
Run: python benchmarks/sweep.py [--seconds 5] [--runs 8] [--repeats 3] [--results 10000]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from raw import add_out, keep
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.core.sparsifier import Sparsifier
from openwork.study.evaluation.metric import ACCURACY
from openwork.study.results.store import collect, flat, write_csv, write_parquet
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.sweeps.cluster import Ray
from openwork.study.sweeps.sweep import Options, sweep
from openwork.study.tasks.task import Task

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Sleeping(Task):
    """Four weights, and one step of so many seconds."""

    seconds: float
    title: str = "sleeping"

    metric = ACCURACY

    def model(self) -> nn.Module:
        """Two inputs, two outputs."""
        return nn.Linear(2, 2, bias=False)

    def optimizer(self, model: nn.Module, sparsifier: Sparsifier | None = None) -> torch.optim.Optimizer:
        """SGD."""
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def learning_rate(self, progress: float) -> float:
        """Constant."""
        return 0.1

    def batches(self, seed: int, start: int, device: torch.device) -> Iterator[Batch]:
        """Always the same."""
        while True:
            yield torch.ones(1, 2), torch.zeros(1, dtype=torch.long)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """After a sleep."""
        time.sleep(self.seconds)
        return F.cross_entropy(model(batch[0]), batch[1])

    def example(self, device: torch.device) -> Tensor:
        """Ones."""
        return torch.ones(1, 2)

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Nothing worth waiting for."""
        return {"accuracy": 1.0, "loss": 0.0}


def scheduling(folder: Path, *, seconds: float, runs: int, repeats: int, out: Path | None) -> None:
    """Prints the overhead of sweeps on a local Ray: each processor does ``runs`` runs, one after the other."""
    began = time.perf_counter()
    with Ray("local", folder, Options(evaluations=1)) as engine:
        parallel = engine.slots() // 2
        started = time.perf_counter() - began
        warm_up = [Run(Sleeping(1.0), None, steps=1, seed=seed) for seed in range(2 * parallel)]
        first = timed(lambda: sweep(warm_up, folder, engine)) - 2.0
        overheads = []
        for repeat in range(repeats):
            seeds = range(runs * parallel * repeat, runs * parallel * (repeat + 1))
            five = [Run(Sleeping(seconds), None, steps=1, seed=seed) for seed in seeds]
            overheads.append(100 * (timed(partial(sweep, five, folder, engine)) / (runs * seconds) - 1))
    keep(out, {"scheduling and recording": overheads}, unit="% overhead", device=torch.device("cpu"))
    print(f"{parallel} processors, {runs} runs of {seconds:g} s on each, n = {repeats}")
    print(f"  overhead, %: median {statistics.median(overheads):.2f}, {min(overheads):.2f} to {max(overheads):.2f}")
    print(f"  once: {started:.1f} s to start Ray, {first:.1f} s until its workers have imported torch")


def collecting(folder: Path, *, results: int, repeats: int, out: Path | None) -> None:
    """Prints how long it takes to read so many results and to write them as CSV and Parquet."""
    run = Run(Sleeping(0.0), None, steps=1)
    execute(run, folder / "one")
    row = json.loads((folder / "one" / run.id / "result.json").read_text())
    layer = {"name": "layer4.2.conv3.weight", "shape": [2048, 512, 1, 1], "weights": 1_048_576, "nonzero": 104_858}
    row["layers"] = 54 * [{**row["layers"][0], **layer}]
    for number in range(results):
        (folder / "many" / f"{number:016x}").mkdir(parents=True)
        text = json.dumps({**row, "id": f"{number:016x}", "seed": number}, indent=2)
        (folder / "many" / f"{number:016x}" / "result.json").write_text(text)

    def all_of_it() -> None:
        found, _ = collect([folder / "many"])
        write_csv(map(flat, found), folder / "rows.csv")
        write_parquet(map(flat, found), folder / "rows.parquet")

    seconds = [timed(all_of_it) for _ in range(repeats)]
    keep(out, {"reading and writing": seconds}, unit=f"s for {results} results", device=torch.device("cpu"))
    print(f"{results:,} results of {len(text):,} bytes, n = {repeats}")
    print(f"  read and written as CSV and Parquet, s: median {statistics.median(seconds):.2f}, "
          f"{min(seconds):.2f} to {max(seconds):.2f}")  # fmt: skip


def timed(function: Callable[[], object]) -> float:
    """Its seconds."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=int, default=10_000)
    add_out(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        collecting(Path(name), results=arguments.results, repeats=arguments.repeats, out=arguments.out)
        five = {"seconds": arguments.seconds, "runs": arguments.runs, "repeats": arguments.repeats}
        scheduling(Path(name) / "ray", **five, out=arguments.out)


if __name__ == "__main__":
    # Workers import this file by its name, which `__main__` is not.
    sys.path.insert(0, str(Path(__file__).parent))
    from sweep import main as imported

    imported()
