"""Commands that train: quickstart, run."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE

from openwork.cli.characters import SafeTable
from openwork.cli.common import (
    RUNS,
    Compile,
    Device,
    Evaluations,
    Experiment,
    Json,
    Name,
    Precision,
    RunsOut,
    Settings,
    Snapshots,
    check_run_name,
    checked_device,
    folder_option,
    going_on,
    keep_name,
    out_console,
    print_json,
    runs_of,
    say_unfinished,
    yield_cores,
)
from openwork.cli.progress import Watch, say, steps_done
from openwork.cli.report import written_report
from openwork.cli.sweep import say_failures, swept
from openwork.words import decimal

if TYPE_CHECKING:
    from openwork.study.results.result import Result
    from openwork.study.runs.run import Run
    from openwork.study.sweeps.sweep import Options

Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Repeat to the last bit, also compiled and on a GPU; may be slower.")
]


def quickstart(
    out: Annotated[Path, folder_option("Folder for the runs and the report.")] = Path("openwork-quickstart"),
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Compare four techniques on handwritten digits, write the report page, and say what was found.

    65 small networks, a minute or two on two cores, nothing to download.
    """
    yield_cores()
    from openwork.study.experiments.quickstart import runs
    from openwork.study.report.answer import answer, compared
    from openwork.study.results.statistics import summarize
    from openwork.study.sweeps.fleet import Fleets
    from openwork.study.sweeps.sweep import Options

    checked_device(device)
    watch = Watch()
    with going_on(out), watch:
        engine = Fleets(out / "runs", Options(device, evaluations=2), say=say, progress=watch.tick)
        ended = swept(runs(), out / "runs", engine, True, watch)
        page = written_report(out / "runs", out / "report", command="openwork quickstart")
    results = [outcome.result for outcome in ended.outcomes.values() if outcome.result]
    found = answer(summarize(results), compared(results))
    if as_json:
        states = {id: outcome.state for id, outcome in ended.outcomes.items()}
        folder = str((out / "runs").resolve())
        print_json("quickstart", answer=found, report=str(page.resolve()), runs=states, directory=folder)
    else:
        _print_summary(results)
        out_console.print(f"\n{found}", markup=False, highlight=False, soft_wrap=True)
        out_console.print(f"\nReport: {page.resolve()}", highlight=False, soft_wrap=True)
    say_failures(ended, cure="the same command tries again")
    if ended.count("failed"):
        raise typer.Exit(1)


def run(
    experiment: Experiment,
    settings: Settings = None,
    out: RunsOut = RUNS,
    name: Name = None,
    device: Device = "cpu",
    compile: Compile = False,
    deterministic: Deterministic = False,
    evaluations: Evaluations = 20,
    snapshots: Snapshots = 0,
    precision: Precision = "float32",
    as_json: Json = False,
) -> None:
    """Train the few runs that MODULE:FUNCTION returns and print their results; `sweep` is for many.

    Finished runs are not repeated, interrupted ones go on; the first error stops the command. The processes of torchrun
    train each run together, if the task divides its batches.
    """
    yield_cores()
    from openwork.study.processes import processes, rank
    from openwork.study.results.store import read_content
    from openwork.study.sweeps.sweep import Options

    if deterministic:
        _repeat_exactly()
    runs = runs_of(experiment, settings)
    with processes(checked_device(device)) as own, going_on(out):
        options = Options(str(own), compile, evaluations, snapshots, precision)
        options.check(runs, out)
        if not rank():
            check_run_name(name, runs, out)
            say_unfinished(runs)
            keep_name(name, runs, out)
        results = _execute(runs, out, options)
        if rank():
            return
    if as_json:
        print_json("run", runs=[read_content(out / result.id / "result.json") for result in results])
    else:
        _print_results(results)
        out_console.print(f"\nRun directories in {out.resolve()}", highlight=False, soft_wrap=True)
    if not all(result.finished for result in results):
        raise typer.Exit(3)


def _repeat_exactly() -> None:
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True)


def _execute(runs: Sequence["Run"], out: Path, options: "Options") -> list["Result"]:
    from openwork.study.processes import rank
    from openwork.study.runs.described import refuse_old
    from openwork.study.runs.run import with_prerequisites
    from openwork.study.sweeps.sweep import completed_steps

    refuse_old(out.glob("*"))
    runs = with_prerequisites(runs)
    results: list[Result] = []
    done = 0
    with steps_done(sum(one.steps for one in runs)) as show:
        for number, one in enumerate(runs, 1):
            which, before = f"run {number} of {len(runs)}", done
            if not rank():
                begun = completed_steps(folder := out / one.id)
                if begun and (folder / "checkpoint.pt").exists() and not (folder / "result.json").exists():
                    say(f"run {one.id} goes on from step {begun:,} of {one.steps:,}")
                show(one, which, 0, before)

            def advance(step: int, one: "Run" = one, which: str = which, before: int = before) -> None:
                if not rank():
                    show(one, which, step, before)

            results.append(_executed(one, out, options, advance))
            done += one.steps
    return results


def _executed(run: "Run", out: Path, options: "Options", advance: Callable[[int], None]) -> "Result":
    """The result of the run; where another process trains it, that process's, after waiting for it."""
    from openwork.study.processes import world_size
    from openwork.study.runs.claim import ClaimedError
    from openwork.study.runs.execute import execute

    waiting = False
    while True:
        try:
            return execute(run, out, **asdict(options), progress=advance)
        except ClaimedError as claimed:
            if world_size() > 1:  # the others of this group are in the run already
                raise
            if not waiting:
                say(f"waiting: {str(claimed).partition(';')[0]}; Ctrl-C stops waiting, and the run goes on there")
            waiting = True
            time.sleep(1)


def _print_results(results: list["Result"]) -> None:
    from openwork.study.results.apart import told_apart

    (results,) = told_apart(results)
    scores = " or ".join(sorted({result.metric.name for result in results}, key=str.lower))
    table = SafeTable("technique", "seed", "sparsity", scores, "loss", "ms/step", "seconds", "run", box=SIMPLE)
    for r in results:
        metrics = ["diverged", f"step {r.step}", "-"]
        if r.finished:
            score, loss = r.metric.text(r.score, digits=2, space=""), r.measured("loss")
            metrics = [f"{r.sparsity:.2%}", score, "-" if loss is None else decimal(loss, 4)]
        table.add_row(r.name, str(r.seed), *metrics, f"{r.cost.step_ms:.2f}", f"{r.cost.seconds:.1f}", r.id)
    out_console.print(table)


def _print_summary(results: list["Result"]) -> None:
    from openwork.study.results.statistics import summarize, without_parts

    points = sorted(summarize(without_parts(results)), key=lambda p: (p.name, p.sparsity))
    scores = " or ".join(sorted({point.metric.name for point in points}, key=str.lower))
    table = SafeTable("technique", "seeds", "sparsity", scores, "95 % interval", title="Means over seeds", box=SIMPLE)
    for point in points:
        ends = sorted(point.interval or (point.score, point.score), key=point.metric.value)
        score, low, high = (point.metric.text(end, digits=2, space="") for end in (point.score, *ends))
        table.add_row(point.name, point.counted, f"{point.sparsity:.2%}", score, f"{low} to {high}")
    out_console.print(table)
