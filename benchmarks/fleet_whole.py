"""How long a fleet of LeNet-300-100 on MNIST takes as a whole, from runs to results on the disk.

As `openwork sweep --fleet` does, it makes every network, trains it with magnitude pruning to 90 %, evaluates it once,
at the end, and writes its result, rows, checkpoint and weights to a temporary folder, some MB for each. By default it
has the size of the paper's study.

    python benchmarks/fleet_whole.py [--members 4000] [--steps 12000] [--precision bf16]
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import get_args

import torch
from raw import add_out, keep

import openwork as ow
from openwork.study.runs.precision import Precision
from openwork.study.runs.run import Run
from openwork.study.sweeps.fleet import Fleets
from openwork.study.sweeps.sweep import Options, sweep
from openwork.study.tasks.lenet import MnistLeNet300100


def runs(members: int, steps: int) -> list[Run]:
    """Runs that differ in their seeds."""
    schedule = ow.Cubic(0.9, begin=steps // 4, end=steps // 2, every=max(steps // 100, 1))
    return [Run(MnistLeNet300100(), ow.GradualMagnitude(schedule), steps, seed=seed) for seed in range(members)]


def refuse(reason: str) -> None:
    """One by one they would take days."""
    raise SystemExit(f"the runs cannot be stacked: {reason}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--precision", default="bf16", choices=get_args(Precision))
    parser.add_argument("--device", default="cuda")
    add_out(parser)
    options = parser.parse_args()
    of = Options(device=options.device, evaluations=1, precision=options.precision)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        state = sweep(runs(options.members, options.steps), Path(folder), Fleets(Path(folder), of, say=refuse))
        seconds = time.perf_counter() - began
    left = [outcome for outcome in state.outcomes.values() if outcome.state != "finished"]
    if left:
        raise SystemExit(f"{len(left)} of {options.members} runs did not finish: {left[0].reason or left[0].state}")
    label = f"whole, {options.members:,} x {options.steps:,} steps, {options.precision}"
    keep(options.out, {label: [seconds]}, unit="s", device=torch.device(options.device))
    print(f"{label}: {seconds:,.1f} s, {options.members * options.steps / seconds:,.0f} run-steps a second", flush=True)


if __name__ == "__main__":
    main()
