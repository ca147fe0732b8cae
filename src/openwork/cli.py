"""The command line: quickstart, run, eval, inspect, report, pictures.

Exit codes: 0 done; 1 an error, said in one sentence on standard error; 2 wrong usage; 3 a run diverged; 130 stopped.
Set OPENWORK_TRACEBACK=1 to see where an error came from.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    import torch

    from openwork.study.experiments.run import Run

try:
    import typer
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
except ImportError as error:
    raise SystemExit(f'the command line needs {error.name}: pip install "openwork[study]"') from error

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
out_console = Console(width=None if sys.stdout.isatty() else 120)
error_console = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Checkpoint = Annotated[Path, typer.Argument(help="A run's directory or a checkpoint file.")]
Trust = Annotated[list[str] | None, typer.Option(help="A package of yours that the checkpoint's run may import.")]


def main() -> None:
    """Runs the command line; every expected error becomes one sentence and exit code 1."""
    sys.path.insert(0, os.getcwd())  # the user's own experiments
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("OPENWORK_TRACEBACK"):
            raise
        error_console.print(f"error: {_sentence(error)}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report.")] = Path("openwork-quickstart"),
    device: Device = "cpu",
) -> None:
    """Compare four techniques on handwritten digits, and write the report page."""
    import torch

    from openwork.study.experiments.quickstart import runs

    torch.set_num_threads(1)  # the matrices are so small that a second thread costs more than it brings
    results = _execute(runs(), out / "runs", device=device, compile=False, evaluations=2)
    page = _write_report(out / "runs", out / "report", command="make quickstart")
    _print_summary(results)
    out_console.print(f"\nReport: {page.resolve()}", highlight=False, soft_wrap=True)


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="What returns a Run or several.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Changes, such as seed=1 task.batch_size=64.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run directories.")] = Path("openwork-runs"),
    device: Device = "cpu",
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile; needs a C++ compiler.")] = False,
    evaluations: Annotated[int, typer.Option(min=1, help="How often to evaluate and save, over the whole run.")] = 20,
    snapshots: Annotated[int, typer.Option(min=0, help="How many copies of the weights to keep, for pictures.")] = 0,
    as_json: Json = False,
) -> None:
    """Train what MODULE:FUNCTION returns; finished runs are not repeated, interrupted ones go on."""
    from openwork.study.experiments.config import find, override
    from openwork.study.experiments.run import Run

    found = find(experiment)
    made = _called(found, experiment) if callable(found) else found
    runs = [made] if isinstance(made, Run) else list(made) if isinstance(made, Iterable) else []
    if not runs or not all(isinstance(one, Run) for one in runs):
        raise ValueError(f"{experiment} must return a Run or a list of them, got {made!r}")
    runs = [override(one, settings or []) for one in runs]
    results = _execute(runs, out, device=device, compile=compile, evaluations=evaluations, snapshots=snapshots)
    if as_json:
        _print_json(results)
    else:
        _print_results(results)
        out_console.print(f"\nRun directories in {out.resolve()}", highlight=False, soft_wrap=True)
    if any(result["status"] == "diverged" for result in results):
        raise typer.Exit(3)


@app.command("eval")
def evaluate(
    checkpoint: Checkpoint,
    threshold: Annotated[list[float] | None, typer.Option(help="Another threshold on log alpha; repeatable.")] = None,
    device: Device = "cpu",
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's checkpoint on its test set, as finalized; re-threshold variational dropout."""
    from openwork.inspect.report import report
    from openwork.study.experiments.config import TRUSTED
    from openwork.study.experiments.run import restore

    rows: list[dict[str, Any]] = []
    trusted = (*TRUSTED, *(trust or ()))
    with error_console.status("evaluating"):
        trained = restore(checkpoint, trusted=trusted)
        own = getattr(trained.run.technique, "threshold", None)
        if threshold and own is None:
            raise ValueError(f"--threshold is for variational dropout; this run trained {trained.run.name}")
        wanted: list[float | None] = [*threshold] if threshold else [own]
        for value in wanted:
            changed = [f"technique.threshold={value}"]
            live = trained if value == own else restore(checkpoint, settings=changed, trusted=trusted)
            plain = live.finalized_copy().to(_device(device))
            counts = report(plain, select=live.run.select)
            metrics = live.run.task.evaluate(plain, _device(device))
            rows.append(
                {"threshold": value, **metrics, "sparsity": counts.sparsity, "sparsity_all": counts.sparsity_all}
            )
    if as_json:
        _print_json(rows)
        return
    table = Table(
        "threshold", "accuracy", "error", "loss", "sparsity", "of all parameters", title=str(checkpoint), box=SIMPLE
    )
    for row in rows:
        shown_threshold = "-" if row["threshold"] is None else f"{row['threshold']:g}"
        accuracy = row["accuracy"]
        table.add_row(shown_threshold, f"{accuracy:.2%}", f"{1 - accuracy:.2%}", f"{row['loss']:.4f}",
                      f"{row['sparsity']:.2%}", f"{row['sparsity_all']:.2%}")  # fmt: skip
    out_console.print(table)


@app.command()
def inspect(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .safetensors or .pt file, a Hugging Face folder, or a run.")
    ],
    trust: Trust = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown with a row for every weight.")] = False,
) -> None:
    """Audit any checkpoint: zeros, their patterns, dead units and bytes, per weight and in total."""
    from openwork.inspect.report import report
    from openwork.study.experiments.config import TRUSTED
    from openwork.study.experiments.run import is_checkpoint, restore

    if as_json and markdown:
        raise typer.BadParameter("choose one of --json and --markdown")
    unfinished = checkpoint / "checkpoint.pt"
    if unfinished.is_file() and not (checkpoint / "model.safetensors").exists():
        checkpoint = unfinished
    with error_console.status("counting"):
        if is_checkpoint(checkpoint):
            live = restore(checkpoint, trusted=(*TRUSTED, *(trust or ())))
            counts = report(live.finalized_copy(), select=live.run.select)
        else:
            counts = report(checkpoint)
    if as_json:
        _print_json(counts.to_dict())
    else:
        sys.stdout.write((counts.to_markdown() if markdown else f"{checkpoint}\n{counts}") + "\n")


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of run directories.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the page and pictures; by default DIR/report.")] = None,
    as_json: Json = False,
) -> None:
    """Write the trade-off page, pictures and tables of a folder of runs."""
    page = _write_report(directory, out or directory / "report", command=None)
    if as_json:
        _print_json({"report": str(page.resolve())})
    else:
        out_console.print(f"Report: {page.resolve()}", highlight=False, soft_wrap=True)


@app.command()
def pictures(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("openwork-pictures"),
    as_json: Json = False,
) -> None:
    """Draw how runs prune: filters and weights on the way, sparsity by layer, expected non-zeros in training."""
    from openwork.study.report.pictures import write_pictures

    with error_console.status("drawing"):
        written, missing = write_pictures(runs, out)
    if as_json:
        _print_json({"pictures": [str((out / name).resolve()) for name in written], "missing": missing})
        return
    for sentence in missing:
        error_console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    out_console.print(f"{', '.join(written) or 'nothing'} in {out.resolve()}", highlight=False, soft_wrap=True)


def _called(function: Callable[..., Any], path: str) -> Any:
    try:
        signature(function).bind()
    except TypeError as error:
        raise ValueError(f"{path} must be callable without arguments: {error}") from None
    return function()


def _execute(
    runs: Sequence["Run"], out: Path, *, device: str, compile: bool, evaluations: int, snapshots: int = 0
) -> list[dict[str, Any]]:
    from openwork.study.experiments.run import execute, with_starts

    _device(device)
    runs = with_starts(runs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    results = []
    done = 0
    with Progress(*columns, console=error_console, transient=True) as bar:
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


def _device(name: str) -> "torch.device":
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; give cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not there: torch {torch.__version__} sees no CUDA GPU; use --device cpu")
    return device


def _write_report(directory: Path, out: Path, *, command: str | None) -> Path:
    from openwork.study.report.page import write_report

    with error_console.status("writing the report"):
        return write_report(directory, out, command=command)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _print_results(results: list[dict[str, Any]]) -> None:
    table = Table("technique", "seed", "sparsity", "accuracy", "loss", "ms/step", "seconds", "run", box=SIMPLE)
    for r in results:
        after, cost = r["after"], r["cost"]
        metrics = ["diverged", f"step {r['step']}", "-"]
        if after:
            metrics = [f"{after['sparsity']:.2%}", f"{after['accuracy']:.2%}", f"{after['loss']:.4f}"]
        table.add_row(r["name"], str(r["seed"]), *metrics, f"{cost['step_ms']:.2f}", f"{cost['seconds']:.1f}", r["id"])
    out_console.print(table)


def _print_summary(results: list[dict[str, Any]]) -> None:
    from openwork.study.results.statistics import summarize

    table = Table("technique", "runs", "sparsity", "accuracy", "95 % interval", title="Means over seeds", box=SIMPLE)
    for point in sorted(summarize(results), key=lambda p: (p.name, p.sparsity)):
        low, high = point.interval or (point.accuracy, point.accuracy)
        interval = f"{low:.2%} to {high:.2%}"
        table.add_row(point.name, str(point.n), f"{point.sparsity:.2%}", f"{point.accuracy:.2%}", interval)
    out_console.print(table)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"cannot use {error.filename}: {error.strerror.lower()}; make it usable or choose another with --out"
    return str(error) or type(error).__name__
