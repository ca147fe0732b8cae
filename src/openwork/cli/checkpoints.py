"""Commands that read a checkpoint: eval, inspect."""

import sys
from pathlib import Path
from typing import Annotated, Any

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
    from openwork.study.tasks.task import final_metrics

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
            plain = live.finalized_copy().to(checked_device(device))
            counts = report(plain, select=live.run.select)
            metrics = final_metrics(live.run.task, plain, checked_device(device))
            rows.append(
                {"threshold": value, **metrics, "sparsity": counts.sparsity, "sparsity_all": counts.sparsity_all}
            )
    if as_json:
        print_json(rows)
        return
    shown = {"threshold", "accuracy", "loss", "sparsity", "sparsity_all"}
    others = [name for name in rows[0] if name not in shown]
    names = ("threshold", "accuracy", "error", "loss", *others, "sparsity", "of all parameters")
    table = Table(*names, title=str(checkpoint), box=SIMPLE)
    for row in rows:
        shown_threshold = "-" if row["threshold"] is None else f"{row['threshold']:g}"
        accuracy = row["accuracy"]
        table.add_row(shown_threshold, f"{accuracy:.2%}", f"{1 - accuracy:.2%}", f"{row['loss']:.4f}",
                      *(f"{row[name]:.2f}" for name in others),
                      f"{row['sparsity']:.2%}", f"{row['sparsity_all']:.2%}")  # fmt: skip
    out_console.print(table)
    if note := getattr(live.run.task, "metrics_note", ""):
        out_console.print(note, highlight=False, soft_wrap=True)


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
        print_json(counts.to_dict())
    else:
        sys.stdout.write((counts.to_markdown() if markdown else f"{checkpoint}\n{counts}") + "\n")
