"""Commands that train: quickstart, run."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from openwork.cli.common import (
    Compile,
    Device,
    Evaluations,
    Experiment,
    Json,
    Settings,
    Snapshots,
    checked_device,
    error_console,
    going_on,
    out_console,
    print_json,
    runs_of,
    say_unfinished,
    yield_cores,
)
from openwork.cli.report import written_report
from openwork.cli.sweep import Watch, say, say_failures, swept

if TYPE_CHECKING:
    from openwork.study.results.result import Result
    from openwork.study.runs.run import Run

Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Repeat to the last bit, also compiled and on a GPU; may be slower.")
]


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report.")] = Path("openwork-quickstart"),
    device: Device = "cpu",
) -> None:
    """Compare four techniques on handwritten digits, and write the report page."""
    yield_cores()
    from openwork.study.experiments.quickstart import runs
    from openwork.study.sweeps.fleet import Fleets
    from openwork.study.sweeps.sweep import Options

    checked_device(device)
    watch = Watch()
    with going_on(out), watch:
        engine = Fleets(out / "runs", Options(device, evaluations=2), say=say, progress=watch.tick)
        ended = swept(runs(), out / "runs", engine, True, watch)
        page = written_report(out / "runs", out / "report", command="make quickstart")
    _print_summary([outcome.result for outcome in ended.outcomes.values() if outcome.result])
    out_console.print(f"\nReport: {page.resolve()}", highlight=False, soft_wrap=True)
    say_failures(ended, cure="the same command tries again")
    if ended.count("failed"):
        raise typer.Exit(1)


def run(
    experiment: Experiment,
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of the run directories.")] = Path("openwork-runs"),
    device: Device = "cpu",
    compile: Compile = False,
    deterministic: Deterministic = False,
    evaluations: Evaluations = 20,
    snapshots: Snapshots = 0,
    as_json: Json = False,
) -> None:
    """Train the few runs that MODULE:FUNCTION returns and print their results; `sweep` is for many.

    Finished runs are not repeated, interrupted ones go on; the first error stops the command. The processes of torchrun
    train each run together, if the task divides its batches.
    """
    yield_cores()
    from openwork.study.processes import processes, rank
    from openwork.study.results.store import read_content

    if deterministic:
        _repeat_exactly()
    runs = runs_of(experiment, settings)
    with processes(checked_device(device)) as own, going_on(out):
        if not rank():
            say_unfinished(runs)
        results = _execute(runs, out, device=str(own), compile=compile, evaluations=evaluations, snapshots=snapshots)
        if rank():
            return
    if as_json:
        print_json([read_content(out / result.id / "result.json") for result in results])
    else:
        _print_results(results)
        out_console.print(f"\nRun directories in {out.resolve()}", highlight=False, soft_wrap=True)
    if not all(result.finished for result in results):
        raise typer.Exit(3)


def _repeat_exactly() -> None:
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True)


def _execute(
    runs: Sequence["Run"], out: Path, *, device: str, compile: bool, evaluations: int, snapshots: int = 0
) -> list["Result"]:
    from openwork.study.processes import rank
    from openwork.study.runs.described import refuse_old
    from openwork.study.runs.execute import execute
    from openwork.study.runs.run import with_prerequisites

    checked_device(device)
    refuse_old(out.glob("*"))
    runs = with_prerequisites(runs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    results = []
    done = 0
    with Progress(*columns, console=error_console, transient=True, disable=rank() > 0) as bar:
        job = bar.add_task("", total=sum(one.steps for one in runs))
        for number, one in enumerate(runs, 1):
            bar.update(job, description=f"{one.name}, seed {one.seed} (run {number} of {len(runs)})  steps")

            def advance(step: int, before: int = done) -> None:
                if step % 20 == 0:  # drawing is cheap, but not as cheap as a small network's step
                    bar.update(job, completed=before + step)

            results.append(
                execute(
                    one,
                    out,
                    device=device,
                    compile=compile,
                    evaluations=evaluations,
                    snapshots=snapshots,
                    progress=advance,
                )
            )
            done += one.steps
            bar.update(job, completed=done)
    return results


def _print_results(results: list["Result"]) -> None:
    scores = " or ".join(sorted({result.metric.name for result in results}, key=str.lower))
    table = Table("technique", "seed", "sparsity", scores, "loss", "ms/step", "seconds", "run", box=SIMPLE)
    for r in results:
        metrics = ["diverged", f"step {r.step}", "-"]
        if r.finished:
            score, loss = r.metric.text(r.score, digits=2, space=""), r.measured("loss")
            metrics = [f"{r.sparsity:.2%}", score, "-" if loss is None else f"{loss:.4f}"]
        table.add_row(r.name, str(r.seed), *metrics, f"{r.cost.step_ms:.2f}", f"{r.cost.seconds:.1f}", r.id)
    out_console.print(table)


def _print_summary(results: list["Result"]) -> None:
    from openwork.study.results.statistics import summarize

    points = sorted(summarize(results), key=lambda p: (p.name, p.sparsity))
    scores = " or ".join(sorted({point.metric.name for point in points}, key=str.lower))
    table = Table("technique", "runs", "sparsity", scores, "95 % interval", title="Means over seeds", box=SIMPLE)
    for point in points:
        ends = sorted(point.interval or (point.score, point.score), key=point.metric.value)
        score, low, high = (point.metric.text(end, digits=2, space="") for end in (point.score, *ends))
        table.add_row(point.name, str(point.n), f"{point.sparsity:.2%}", score, f"{low} to {high}")
    out_console.print(table)
