"""How long the quickstart's trainings take on a CPU, one by one and as fleets.

65 networks, LeNet-300-100 on 8x8 digits, batch 100, 700 steps. For each technique a step of one run alone and a step of
the fleet of all its runs take turns in one process, after a warm-up, before anything is pruned. CPU time is that of the
process, over all its threads: it means something on a busy machine as well.

    python benchmarks/quickstart.py [--rounds 30] [--threads 1]
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import torch
from raw import add_out, keep

from openwork.study.experiments.quickstart import STEPS, runs
from openwork.study.fleet.groups import Waiting
from openwork.study.fleet.training import Training
from openwork.study.runs.live import prepare
from openwork.study.runs.run import Run
from openwork.study.training.loop import train

CPU = torch.device("cpu")
WARM_UP = 5


def alone(run: Run, steps: int) -> Iterator[object]:
    """Trains the run; a step for each item."""
    live = prepare(run, CPU)
    optimizer = run.task.optimizer(live.model, live.sparsifier)
    if live.sparsifier:
        live.sparsifier.attach(optimizer)
    settings: dict[str, Any] = {"steps": steps, "seed": run.seed, "start": 0, "every": 1, "device": CPU}
    return train(run.task, live.model, optimizer, live.objective, **settings)


def together(group: Sequence[Run]) -> Iterator[object]:
    """Trains the runs as a fleet; a step for each item."""
    training = Training([prepare(run, CPU) for run in group])
    return map(training.step, training.batches())


def measure(group: Sequence[Run], rounds: int) -> list[list[tuple[float, float]]]:
    """(CPU, wall) milliseconds of each step alone, and of each step of the fleet."""
    variants = [alone(group[0], rounds + WARM_UP), together(group)]
    times: list[list[tuple[float, float]]] = [[], []]
    for _ in range(rounds + WARM_UP):
        for steps, found in zip(variants, times, strict=True):
            cpu, wall = time.process_time(), time.perf_counter()
            next(steps)
            found.append((1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)))
    return [each[WARM_UP:] for each in times]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    add_out(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sums = [0.0, 0.0]
    print("| technique | runs | one by one, ms of CPU a run-step | as a fleet | times as fast | by the clock |")
    print("| --- | --- | --- | --- | --- | --- |")
    waiting = Waiting(lambda _: 0)
    for run in runs():
        waiting.add(run)
    while waiting:
        group = waiting.group()
        waiting.take([run.id for run in group])
        n, name = len(group), group[0].name
        found = measure(group, arguments.rounds)
        (one, one_wall), (fleet, fleet_wall) = (
            [median(column) for column in zip(*each, strict=True)] for each in found
        )
        sums[0] += STEPS * n * one / 1e3
        sums[1] += STEPS * fleet / 1e3
        print(
            f"| {name} | {n} | {one:.2f} | {fleet / n:.2f} | {n * one / fleet:.1f} | {n * one_wall / fleet_wall:.1f} |"
        )
        series = {
            f"{name}, {kind}": [cpu for cpu, _ in each] for kind, each in zip(("alone", "fleet"), found, strict=True)
        }
        keep(arguments.out, series, unit="ms of CPU a step", device=CPU, reference=f"{name}, alone")
    print(
        f"\nAll {len(runs())} runs, {STEPS} steps: {sums[0]:.0f} s of CPU one by one, {sums[1]:.0f} s as fleets; "
        f"{arguments.threads} thread(s), n = {arguments.rounds} steps of each"
    )


if __name__ == "__main__":
    main()
