"""How long a fleet of LeNet-300-100 on MNIST takes as a whole, from runs to results on the disk.

As `openwork sweep --fleet` does, it makes every network, trains it with magnitude pruning to 90 %, evaluates it once,
at the end, and writes its result, rows, checkpoint and weights to a temporary folder, some MB for each. By default it
has the size of the paper's study. "prepared" is what comes before the first step has been taken, "finished" what comes
after the last one.

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
    members, steps, device = options.members, options.steps, torch.device(options.device)
    label = f"{members:,} x {steps:,} steps, {options.precision}"
    moments = [time.perf_counter()]

    def say(part: str, seconds: float) -> None:
        """At once, since a whole takes minutes."""
        keep(options.out, {f"{label}: {part}": [seconds]}, unit="s", device=device)
        print(f"{label}: {part} {seconds:,.1f} s", flush=True)

    def progress(done: int) -> None:
        if done in (members, members * steps):
            if device.type == "cuda":
                torch.cuda.synchronize()
            moments.append(time.perf_counter())
            say("prepared" if done == members else "trained", moments[-1] - moments[-2])

    with tempfile.TemporaryDirectory() as folder:
        state = sweep(runs(members, steps), Path(folder), Fleets(Path(folder), of, say=refuse, progress=progress))
        moments.append(time.perf_counter())
    left = [outcome for outcome in state.outcomes.values() if outcome.state != "finished"]
    if left:
        raise SystemExit(f"{len(left)} of {members} runs did not finish: {left[0].reason or left[0].state}")
    if len(moments) == 4:  # one fleet held all runs
        say("finished", moments[-1] - moments[-2])
    say("whole", moments[-1] - moments[0])


if __name__ == "__main__":
    main()
