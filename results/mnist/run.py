"""Executes the runs of PLAN.md in its order, and keeps a line for each in small CSV files.

    python results/mnist/run.py ROWS --runs RUNS --device cuda --seconds 540

ROWS is the folder of the CSV files, ``results/mnist/study`` in the repository: what they have is not run again, also on
another machine. RUNS is the folder of the run directories, which are removed once their lines are written, but for
those that other runs start from. No piece begins that would not end within the seconds; start it again for the rest.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from driver import FINAL, TRIAL, Key, Piece, execute, follow, parser
from driver import write_choices as write

from openwork.study.experiments import mnist, section6, tournament
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import MnistLeNet5Caffe

THRESHOLDS = (2.0, 0.1)  # of variational dropout, beside 3: those of Gale et al., Table 3
LAST = "soft weight sharing"  # the slowest by far


def tuning(name: str) -> dict[Key, Run]:
    """The tuning runs of a technique."""
    return {key: run for key, run in tournament.trials().items() if key[0] == name}


def finals(rows: Path, name: str) -> dict[Key, Run]:
    """The final runs of a technique."""
    return {key: run for key, run in tournament.finals(rows / "chosen.csv").items() if key[0] == name}


def recipes(net: str, *cells: tuple[bool, bool]) -> dict[Key, Run]:
    """The runs of SparseVD's recipe, by network, both settings, seed and threshold."""
    kind, seeds = (MnistLeNet5Caffe, 10) if net == "LeNet-5-Caffe" else (mnist.MnistLeNet300100, 20)
    found = mnist.recipes(kind, seeds)
    return {(net, *key, 3.0): run for key, run in found.items() if not cells or key[:2] in cells}


def pieces(rows: Path) -> list[tuple[str, Piece]]:
    """The pieces in the order of the plan, with the letters of their parts."""
    recipe = ("net", "train_clip", "lasagne", "seed", "threshold")
    names = [name for name in tournament.ENTRANTS if name != LAST]
    learned, compiled = ("variational dropout", "L0", "group L0"), ("variational dropout", "L0", LAST)

    def tuned(name: str, rate: float) -> Piece:
        return Piece("tuning", TRIAL, lambda: tuning(name), rate, compiles=name == LAST)

    def played(name: str, rate: float) -> Piece:
        return Piece("tournament", FINAL, lambda: finals(rows, name), rate, compiles=name in compiled)

    def small(name: str) -> Piece:
        return Piece("lenet5", FINAL, lambda: lenet5(rows, name), 6_000, compiles=name in compiled)

    def vd(net: str, rate: float, *cells: tuple[bool, bool]) -> Piece:
        runs = partial(recipes, net, *cells)
        return Piece("recipes", recipe, runs, rate, thresholds=THRESHOLDS, evaluations=4, compiles=True)

    kinds = ("kind", "level", "mask", "replica")
    cells = [(clip, drawn) for clip in (True, False) for drawn in (True, False)]
    return [
        *(("A", tuned(name, 60_000 if name in learned else 100_000)) for name in names),
        *(("B", played(name, 75_000 if name in learned else 150_000)) for name in names),
        # Runs of equal ``train_clip`` are one fleet.
        *(("C", vd("LeNet-300-100", 75_000, *some)) for some in (cells[:2], cells[2:])),
        ("D", Piece("section6", kinds, section6.networks, 150_000)),
        ("E", vd("LeNet-5-Caffe", 3_450, cells[0])),
        ("F", tuned(LAST, 5_000)),
        ("F", played(LAST, 5_000)),
        *(("G", small(name)) for name in tournament.LENET5_TECHNIQUES),
        *(("H", vd("LeNet-5-Caffe", 3_450, *some)) for some in (cells[1:2], cells[2:])),
    ]


def lenet5(rows: Path, name: str) -> dict[Key, Run]:
    """The runs of LeNet-5-Caffe of a technique."""
    return {key: run for key, run in tournament.finals_of_lenet5(rows / "chosen.csv").items() if key[0] == name}


def write_choices(rows: Path) -> None:
    """Writes chosen.csv, as the driver does for a contest."""
    write(tournament.CONTEST, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Executes pieces until all are done or the time is."""
    given = parser(__doc__, "ABCDEFGH").parse_args(arguments)

    def before(piece: Piece) -> None:
        if piece.file in ("tournament", "lenet5"):
            write_choices(given.rows)

    follow(pieces(given.rows), given, before=before, execute=execute)


if __name__ == "__main__":
    main()
