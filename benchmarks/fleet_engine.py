"""How many steps a second a fleet makes of LeNet-300-100 on MNIST: whole steps of the engine, with all that it does.

That is batches, learning rates and schedules, and waiting for the device after each step. The runs are those of the
small study's tournament. "masks" are 90 % zeros from the first step on.

    python benchmarks/fleet_engine.py "masks" [--members 4000] [--precision tf32] [--steps 30]
    python benchmarks/fleet_engine.py "variational dropout" --compile
"""

import argparse
import statistics
import time
from dataclasses import replace
from itertools import islice
from typing import get_args

import torch
from raw import add_out, keep

import openwork as ow
from openwork.study.experiments import tournament
from openwork.study.fleet.training import Training
from openwork.study.runs.live import prepare
from openwork.study.runs.precision import Precision, products
from openwork.study.runs.run import Run

MASKS = "masks"
WARMUP = 12


def run_of(name: str) -> Run:
    """A tuning run of the entrant, or one with masks."""
    entrant = "dense" if name == MASKS else name
    run = next(run for key, run in tournament.trials().items() if key[0] == entrant)
    return replace(run, technique=ow.GradualMagnitude(ow.OneShot(0.9))) if name == MASKS else run


def measure(run: Run, options: argparse.Namespace) -> list[float]:
    """Run-steps a second of each step."""
    device, found = torch.device(options.device), []
    with products(options.precision):
        lives = [prepare(replace(run, seed=seed), device) for seed in range(options.members)]
        training = Training(lives, precision=options.precision, compile=options.compile)
        batches = training.batches()
        for batch in islice(batches, WARMUP):  # eager, captured, and masked
            training.step(batch)
        training.losses()  # waits for the device
        for batch in islice(batches, options.steps):
            began = time.perf_counter()
            training.step(batch)
            training.losses()
            found.append(options.members / (time.perf_counter() - began))
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=[MASKS, *tournament.ENTRANTS], metavar="NAME")
    parser.add_argument("--members", type=int, default=4000)
    parser.add_argument("--precision", default="tf32", choices=get_args(Precision))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="as the study does variational dropout and L0")
    parser.add_argument("--device", default="cuda")
    add_out(parser)
    options = parser.parse_args()
    for name in options.names:
        found = measure(run_of(name), options)
        label = f"engine, {options.members:,}, {name}, {options.precision}{', compiled' * options.compile}"
        keep(options.out, {label: found}, unit="run-steps a second", device=torch.device(options.device))
        print(f"{label}: {statistics.median(found):,.0f} run-steps a second, n = {len(found)}", flush=True)


if __name__ == "__main__":
    main()
