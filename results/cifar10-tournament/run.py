"""Executes the runs of PLAN.md in its order, and keeps a line for each in small CSV files.

    python results/cifar10-tournament/run.py ROWS --runs RUNS --device cuda --precision bf16 --seconds 540

ROWS is the folder of the CSV files, ``results/cifar10-tournament/study`` in the repository: what they have is not run
again, also on another machine. RUNS is the folder of the run directories. Part 0 measures how fast the runs are, which
decides ``--epochs`` and is the ``--rate`` of the other parts.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import torch
from driver import (
    COST,
    FINAL,
    MEASURED,
    TRIAL,
    Found,
    Key,
    Piece,
    Rows,
    above_zero,
    at_least_one,
    follow,
    parser,
    say,
    write_choices,
)
from kept import read_lines

from openwork.study.experiments.contest import Option
from openwork.study.experiments.tournament_cifar10 import (
    AIMS,
    EPOCHS,
    PILOTS,
    SEEDS,
    TICKET,
    Cifar10Contest,
    aimed,
    contest,
    pilots,
)
from openwork.study.fleet import lanes
from openwork.study.fleet.training import Training
from openwork.study.runs.live import prepare
from openwork.study.runs.precision import products
from openwork.study.runs.run import Run

PILOT, AIM = ("technique", "factor", "seed"), ("technique", "aim")
TOGETHER = "magnitude, global ranking"  # in one piece with the tickets, which start from such runs
SPEED = {"variational dropout": 0.45, "L0": 0.8}  # parts of the rate
PREPARED = {"SynFlow": 3.0}  # seconds of a run before its first step, where they are many
EARLY = 3  # seeds of part B; the others are those of part C


def factors(rows: Path) -> dict[str, Option]:
    """The factors of the tuning runs, of techniques whose pilots are done."""
    found: dict[str, list[float]] = {}
    for row in read_lines(rows / "factors.csv", (*AIM, "factor"), AIM):
        found.setdefault(row["technique"], []).append(float(row["factor"]))
    return {name: tuple(values) for name, values in found.items()}


def write_factors(rows: Path) -> None:
    """Writes factors.csv: for each technique with pilots the factors that its tuning runs try."""
    held = Rows(rows / "pilots.csv", PILOT, (*MEASURED, *COST)).lines
    found: Found = {}
    for name, tried in PILOTS.items():
        own = {float(factor): row["sparsity"] for (technique, factor, _), row in held.items() if technique == name}
        if len(own) == len(tried):
            sparsities = {factor: float(sparsity) for factor, sparsity in own.items() if sparsity}  # not of a diverged
            found |= {(name, aim): {"factor": f"{one:.6g}"} for aim, one in zip(AIMS, aimed(sparsities), strict=True)}
    Rows(rows / "factors.csv", AIM, ("factor",)).replace(found)


def planned(rows: Path, epochs: int) -> Cifar10Contest:
    """The contest, with the factors that the pilots gave."""
    return contest(epochs, PILOTS | factors(rows))


def pieces(rows: Path, epochs: int = EPOCHS, rate: float = 800.0) -> list[tuple[str, Piece]]:
    """The pieces in the order of the plan, with the letters of their parts.

    Args:
        rows: The folder of the CSV files.
        epochs: How long a network trains.
        rate: The run-steps a second of dense networks.
    """

    def piece(file: str, columns: tuple[str, ...], names: Sequence[str], runs: Callable[[], dict[Key, Run]]) -> Piece:
        def own() -> dict[Key, Run]:
            return {key: run for key, run in runs().items() if key[0] in names}

        slow = SPEED.get(names[0], 0.95)
        return Piece(file, columns, own, slow * rate, overhead=0.4 + PREPARED.get(names[0], 0.0))

    def tuned() -> dict[Key, Run]:
        there = factors(rows)
        every = planned(rows, epochs).trials()
        return {key: run for key, run in every.items() if key[0] not in PILOTS or key[0] in there}

    def played(seeds: Sequence[int]) -> dict[Key, Run]:
        return {key: run for key, run in planned(rows, epochs).finals(rows / "chosen.csv").items() if key[2] in seeds}

    names = [[name] for name in contest(epochs).entrants if name not in (TOGETHER, TICKET)]
    groups = [names[0], [TOGETHER, TICKET], *names[1:]]
    parts = [("B", SEEDS[:EARLY]), ("C", SEEDS[EARLY:])]
    return [
        *(("P", piece("pilots", PILOT, [name], lambda: pilots(epochs))) for name in PILOTS),
        *(("A", piece("tuning", TRIAL, group, tuned)) for group in groups),
        *(
            (part, piece("tournament", FINAL, group, partial(played, seeds)))
            for part, seeds in parts
            for group in groups
        ),
    ]


def measure(device: torch.device, members: int, steps: int = 40) -> None:
    """Prints the run-steps a second of a few kinds of fleets, with one, two, four and eight lanes."""
    trials = contest().trials()
    for name in ("dense", "RigL, Erdős–Rényi", "variational dropout", "L0"):
        run = next(run for key, run in trials.items() if key[0] == name)
        for count in (1, 2, 4, 8) if name == "dense" else (lanes.LANES,):
            lanes.LANES, before = count, lanes.LANES
            with products("bf16"):
                lives = [prepare(replace(run, seed=seed), device) for seed in range(members)]
                training = Training(lives, precision="bf16")
                batches = training.batches()
                for batch in islice(batches, 6):  # eager, and captured
                    training.step(batch)
                training.losses()  # waits for the device
                began = time.perf_counter()
                for batch in islice(batches, steps):
                    training.step(batch)
                losses, _ = training.losses()
            rate = members * steps / (time.perf_counter() - began)
            lanes.LANES = before
            memory = torch.cuda.max_memory_reserved() / 2**30 if device.type == "cuda" else 0.0
            speed = f"{rate:.0f} run-steps/s, {memory:.1f} GiB, loss {losses[0]:.3f}"
            say(f"0 {name}: {members} runs, {count} lanes: {speed}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Executes pieces until all are done or the time is."""
    reader = parser(__doc__, "PABC")
    reader.add_argument("--epochs", type=at_least_one, default=EPOCHS, help="of each network; the same for all rows")
    reader.add_argument("--rate", type=above_zero, default=800.0, help="run-steps a second, as part 0 measured")
    reader.add_argument("--members", type=at_least_one, default=12, help="runs of the fleets that part 0 measures")
    given = reader.parse_args(arguments)
    if "0" in given.parts:
        measure(torch.device(given.device), given.members)

    def before(piece: Piece) -> None:
        if piece.file == "tuning":
            write_factors(given.rows)
        if piece.file == "tournament":
            write_choices(planned(given.rows, given.epochs), given.rows)

    follow(pieces(given.rows, given.epochs, given.rate), given, before=before)


if __name__ == "__main__":
    main()
