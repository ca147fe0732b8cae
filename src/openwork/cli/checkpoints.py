"""Commands that read a checkpoint: eval, inspect."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from openwork.cli.common import (
    Checkpoint,
    Device,
    Json,
    Trust,
    checked_device,
    error_console,
    out_console,
    print_json,
)

if TYPE_CHECKING:
    from torch import nn

    from openwork.study.experiments.run import Run


def evaluate(
    checkpoint: Checkpoint,
    threshold: Annotated[list[float] | None, typer.Option(help="Another threshold on log alpha; repeatable.")] = None,
    data: Annotated[str | None, typer.Option(help="Other images than the run's: its task.source.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="For a file of weights alone: a Run with its model.")
    ] = None,
    recalibrate: Annotated[
        int, typer.Option(min=0, help="Training batches to take the statistics of batch norms from anew.")
    ] = 0,
    device: Device = "cpu",
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's checkpoint on its test set, as finalized; re-threshold variational dropout.

    What --threshold finds of a finished run's directory is kept there, in thresholds.json, as points for report and
    results; not with --data or --recalibrate, nor of a checkpoint file.

    With --task the checkpoint is any file of weights that fits the task's model, such as torchvision's ResNet-50.
    """
    from openwork.study.experiments.config import TRUSTED
    from openwork.study.experiments.live import Live, restore

    def restored(*settings: str) -> Live:
        live = restore(checkpoint, settings=settings, trusted=(*TRUSTED, *(trust or ())))
        return replace(live, run=_with_images(live.run, data))

    rows: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []  # what can be kept
    with error_console.status("evaluating"):
        if task:
            if threshold:
                raise ValueError("--threshold is for a run of variational dropout, and --task for weights alone")
            run, model = _with_weights(task, data, checkpoint)
            rows.append(_evaluated(run, model, None, device, recalibrate))
        else:
            trained = restored()
            run = trained.run
            own = run.technique.threshold if run.technique else None
            if threshold and own is None:
                raise ValueError(f"--threshold is for variational dropout; this run trained {run.name}")
            wanted: list[float | None] = [*threshold] if threshold else [own]
            for value in wanted:
                live = trained if value == own else restored(f"technique.threshold={value}")
                rows.append(_evaluated(live.run, live.finalized_copy(), value, device, recalibrate))
                if threshold:
                    found.append(_point(live.run, rows[-1]))
    if as_json:
        print_json(rows)
    else:
        _print_evaluated(rows, checkpoint, run.task.metrics_note)
    if found:
        _keep(found, checkpoint, same=data is None and not recalibrate)


def _print_evaluated(rows: list[dict[str, Any]], checkpoint: Path, note: str) -> None:
    others = [name for name in rows[0] if name not in ("threshold", "accuracy", "loss", "sparsity", "sparsity_all")]
    names = ("threshold", "accuracy", "error", *others, "loss", "sparsity", "of all parameters")
    table = Table(*names, title=str(checkpoint), box=SIMPLE)
    for row in rows:
        shown_threshold = "-" if row["threshold"] is None else f"{row['threshold']:g}"
        accuracy = row["accuracy"]
        table.add_row(shown_threshold, f"{accuracy:.2%}", f"{1 - accuracy:.2%}",
                      *(_shown(name, row[name]) for name in others),
                      f"{row['loss']:.4f}", f"{row['sparsity']:.2%}", f"{row['sparsity_all']:.2%}")  # fmt: skip
    out_console.print(table)
    if note:
        out_console.print(note, highlight=False, soft_wrap=True)


def _shown(name: str, value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2%}" if name.startswith("top") else f"{value:.2f}"


def _point(run: "Run", row: dict[str, Any]) -> dict[str, Any]:
    """A row of `_evaluated` as thresholds.json keeps it."""
    counts = ("threshold", "sparsity_all")
    after = {name: value for name, value in row.items() if name not in counts}
    sparsity = {"selected": row["sparsity"], "all": row["sparsity_all"]}
    return {"threshold": row["threshold"], "settings": run.settings, "after": after, "sparsity": sparsity}


def _keep(found: list[dict[str, Any]], folder: Path, *, same: bool) -> None:
    """Keeps what thresholds gave in the run's directory, or says why it does not."""
    from openwork.study.results.store import read_result
    from openwork.study.results.thresholds import keep_thresholds

    result = folder / "result.json"
    if not same:
        text = "not kept in the run's directory: --data and --recalibrate make another evaluation of it"
    elif not folder.is_dir():
        text = "not kept: give the run's directory instead of a file to have them in its report"
    elif not result.exists() or read_result(result)["status"] != "finished":
        text = "not kept: the run is not finished"
    else:
        keep_thresholds(folder, found)
        text = f"kept in {folder / 'thresholds.json'}: `openwork report` shows them as points"
    error_console.print(text, markup=False, highlight=False, soft_wrap=True)


def _evaluated(run: "Run", plain: "nn.Module", threshold: float | None, device: str, batches: int) -> dict[str, Any]:
    from openwork.inspect.report import report
    from openwork.study.experiments.recalibration import recalibrate
    from openwork.study.tasks.task import final_metrics

    plain = plain.to(checked_device(device))
    if batches:
        recalibrate(run, plain, checked_device(device), batches)
    counts = report(plain, select=run.select)
    metrics = final_metrics(run.task, plain, checked_device(device))
    return {"threshold": threshold, **metrics, "sparsity": counts.sparsity, "sparsity_all": counts.sparsity_all}


def _with_images(run: "Run", source: str | None) -> "Run":
    """The run with other images, where a source is given. Raises ValueError as `Task.with_images` does."""
    return run if source is None else replace(run, task=run.task.with_images(source))


def _with_weights(experiment: str, data: str | None, path: Path) -> tuple["Run", "nn.Module"]:
    """The run that ``experiment`` names, and its task's model with the weights of a file."""
    from openwork.inspect.checkpoint import read_checkpoint
    from openwork.study.experiments.config import find
    from openwork.study.experiments.run import Run

    made = find(experiment)
    made = made() if callable(made) else made
    if not isinstance(made, Run):
        raise ValueError(f"{experiment} must return one Run, got {made!r}")
    run = _with_images(made, data)
    state = read_checkpoint(path).tensors
    model = run.task.model()
    try:
        model.load_state_dict(run.task.weights_from(state))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit the model of {run.task.title}: {reason[:300]}") from error
    return run, model


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
    from openwork.study.experiments.checkpoint import is_checkpoint
    from openwork.study.experiments.config import TRUSTED
    from openwork.study.experiments.live import restore

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
        print_json(counts.to_dict())
    else:
        sys.stdout.write((counts.to_markdown() if markdown else f"{checkpoint}\n{counts}") + "\n")
