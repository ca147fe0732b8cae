"""Executes the runs of PLAN.md in its order, and keeps a line for each in rows.csv.

    python results/large/run.py ROWS --runs RUNS --device cuda --precision bf16 --seconds 540

ROWS is the folder of rows.csv, ``results/large/study`` in the repository: what it has is not run again, also on another
machine. RUNS is the folder of the run directories; on one machine an interrupted piece goes on from there.
Runs that differ in numbers alone are trained side by side. Those of the Transformer with dropout cannot be, as
attention draws it from torch: they wait for ``--alone``, which trains all that is left one after the other and
compiled, for several processes on one card, each with its ``--techniques``, as each kind is compiled anew. Processes
with one folder of runs leave pieces to each other. Part 0 makes the corpus, once for all of them.
"""

import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import torch
from driver import AloneError, Piece, at_least_one, follow, parser, refuse, say
from kept import Found, Key, ended, line, paid_before
from large_plan import PARTS, pieces
from large_rows import unbeaten

from openwork.inspect.report import report
from openwork.study.experiments.transformer import THRESHOLDS, small_task
from openwork.study.fleet import lanes
from openwork.study.results.result import Result
from openwork.study.runs.live import restore
from openwork.study.runs.recalibration import recalibrate
from openwork.study.runs.run import Run
from openwork.study.sweeps.fleet import Fleets
from openwork.study.sweeps.sweep import Here, Options, sweep
from openwork.study.tasks.imagenet import ImageNetResNet
from openwork.study.tasks.measure import final_metrics, metrics
from openwork.study.tasks.translation import Translation
from openwork.techniques.l0 import L0
from openwork.techniques.variational_dropout import VariationalDropout
from openwork.words import count

BATCHES = 100
"""Training batches of which new batch-norm statistics are the means."""


def row(result: Result) -> dict[str, Any]:
    """What is kept of a result; what was measured on validation data stands in ``validation`` alone."""
    found = line(result) | {"memory": result.cost.peak_memory_bytes}
    if not result.after or not result.before:
        return found
    found |= {name: f"{result.after[name]:.4f}" for name in ("bleu", "tokenized_bleu") if name in result.after}
    if result.judged_on == "validation":
        return found | {"validation": found["accuracy"], "accuracy": "", "loss": ""}
    if result.watched_on == "validation":
        found["validation"] = f"{result.before['accuracy']:.4f}"
    return found


def recalibrated(run: Run, runs: Path, device: torch.device) -> dict[str, Any]:
    """The accuracy of a finished run with new statistics of batch norms."""
    plain = restore(runs / run.id).finalized_copy().to(device)
    recalibrate(run, plain, device, BATCHES)
    return {"recalibrated": f"{final_metrics(run.task, plain, device)['accuracy']:.4f}"}


def at_thresholds(run: Run, runs: Path, device: torch.device) -> dict[str, dict[str, Any]]:
    """Sparsity and validation accuracy of a finished run at each threshold; BLEU where no other threshold is better."""
    found, plains, points = {}, {}, {}
    for threshold in THRESHOLDS:
        plain = restore(runs / run.id, settings=[f"technique.threshold={threshold}"]).finalized_copy().to(device)
        counts, accuracy = report(plain, select=run.select), metrics(run.task, plain, device)["accuracy"]
        plains[threshold], points[threshold] = plain, (counts.sparsity, accuracy)
        found[threshold] = {
            "id": f"{run.id}@{threshold:g}",
            "status": "finished",
            "step": run.steps,
            "sparsity": f"{counts.sparsity:.6f}",
            "layers": " ".join(f"{layer.sparsity:.5f}" for layer in counts.layers),
            "validation": f"{accuracy:.4f}",
        }
    for threshold in unbeaten(points):
        after = final_metrics(run.task, plains[threshold], device)
        found[threshold] |= {name: f"{after[name]:.4f}" for name in ("accuracy", "loss", "bleu", "tokenized_bleu")}
    return {f"{threshold:g}": each for threshold, each in found.items()}


def execute(piece: Piece, wanted: dict[Key, Run], runs: Path, options: Options, *, alone: bool = False) -> Found:
    """The lines of the runs that ended, by key, after executing them and what they start from."""
    by_id = {run.id: run for run in wanted.values()}
    compiles = (alone or options.compile) and options.device != "cpu"
    options = replace(options, evaluations=piece.evaluations, compile=compiles)
    in_parts = any(isinstance(run.task, ImageNetResNet) for run in by_id.values())  # which cannot be stacked either
    if not alone and any(draws(run) for run in by_id.values()):
        say(f"{count(len(wanted), 'run')} with dropout {'waits' if len(wanted) == 1 else 'wait'} for --alone")
        return {}
    try:
        engine = Here(runs, options) if alone or in_parts else Fleets(runs, options, say=refuse)
        sweep(list(by_id.values()), runs, engine, retry_failed=True)
    except AloneError as error:
        say(f"{error}; try --alone")
    found: Found = {}
    device = torch.device(options.device)
    for key, run, result in ended(wanted, runs):
        found[key] = row(result)
        if result.finished and isinstance(run.technique, L0) and key[0].startswith("ResNet-50"):
            found[key] |= recalibrated(run, runs, device)
        if result.finished and isinstance(run.technique, VariationalDropout) and key[0] == "Transformer":
            for threshold, each in at_thresholds(run, runs, device).items():
                found[(*key[:-1], threshold)] = paid_before(found[key]) | each
    return found


def remove(wanted: dict[Key, Run], found: Found, runs: Path) -> None:
    """Removes the directories of runs whose lines are written, but for those that others start from."""
    for key, run in wanted.items():
        is_mask = key[0].endswith("masks") and key[1] == "magnitude"
        if key in found and not is_mask and key[0] != "VGG-like":
            shutil.rmtree(runs / run.id, ignore_errors=True)


def draws(run: Run) -> bool:
    """Whether a run draws numbers of torch's, which are others in a fleet: attention's dropout."""
    return isinstance(run.task, Translation) and run.task.attention_dropout > 0


def one_by_one(pieces: Iterable[tuple[str, Piece]], techniques: Collection[str]) -> Iterator[tuple[str, Piece]]:
    """A piece for each of the runs, of these techniques alone if there are any; asked for when its turn has come."""
    for letter, piece in pieces:
        for key, run in piece.runs().items():
            if not techniques or key[1] in techniques:
                yield letter, replace(piece, runs=partial(dict, {key: run}))


def main(arguments: Sequence[str] | None = None) -> None:
    """Executes pieces until all are done or the time is."""
    reader = parser(__doc__, PARTS)
    reader.add_argument("--lanes", type=at_least_one, default=lanes.LANES, help="runs that compute side by side")
    reader.add_argument("--alone", action="store_true", help="one after the other, and compiled on a GPU")
    reader.add_argument("--techniques", nargs="+", metavar="NAME", help="with --alone: the runs of these")
    given = reader.parse_args(arguments)
    if given.techniques and not given.alone:
        reader.error("--techniques needs --alone: other pieces train several techniques at once")
    lanes.LANES = given.lanes
    if "0" in given.parts:
        small_task("none").packed()
    wanted: Iterable[tuple[str, Piece]] = pieces(given.rows)
    if given.techniques:
        known = {key[1] for letter, piece in wanted if letter in given.parts for key in piece.runs()}
        if unknown := [name for name in given.techniques if name not in known]:  # or its runs would be left out unsaid
            reader.error(f"no run has the technique {' or '.join(unknown)}; they have {'; '.join(sorted(known))}")
    if given.alone:
        wanted = one_by_one(wanted, given.techniques or ())
    follow(wanted, given, execute=partial(execute, alone=given.alone), remove=remove)


if __name__ == "__main__":
    main()
