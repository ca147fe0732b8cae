"""Commands that read a checkpoint: eval, inspect."""

import sys
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE

from openwork.cli.characters import SafeTable
from openwork.cli.common import (
    Checkpoint,
    Device,
    Json,
    Trust,
    checked_device,
    error_console,
    found_run,
    out_console,
    print_json,
)
from openwork.cli.complete import complete_runs
from openwork.cli.weights import with_images, with_weights
from openwork.words import decimal, number, printable

if TYPE_CHECKING:
    from torch import nn

    from openwork.study.results.thresholds import Judged
    from openwork.study.runs.live import Live
    from openwork.study.runs.run import Run
    from openwork.study.tasks.task import Task


def evaluate(
    checkpoint: Checkpoint,
    threshold: Annotated[list[float] | None, typer.Option(help="Another threshold on log alpha; repeatable.")] = None,
    on: Annotated[
        Literal["test", "validation"] | None,
        typer.Option(help="The data to measure on, if not what the run is judged on; choose settings on validation."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="A task.source, whose images replace those of the run.")] = None,
    task: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="For a file of weights alone, a Run with its model.")
    ] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="With --task for translation: the vocabulary file, if not the run's.")
    ] = None,
    recalibrate: Annotated[
        int, typer.Option(min=0, help="Compute batch norms' statistics again, from this many training batches.")
    ] = 0,
    device: Device = "cpu",
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run's checkpoint, finalized, on the test set, or on the validation data where the run is judged on it.

    With --threshold, for variational dropout, the directory of a finished run keeps the figures in thresholds.json, as
    points for report and results. It keeps none with --data or --recalibrate, and none of a checkpoint file.

    With --task the checkpoint is any file of weights that fits the task's model, such as torchvision's ResNet-50.
    """
    from openwork.study.runs.config import TRUSTED
    from openwork.study.runs.live import Live, restore

    checkpoint = found_run(checkpoint)
    if vocabulary and not task:
        raise ValueError("--vocabulary is for a file of weights alone, a run has its own; give --task, or leave it out")

    def restored(*settings: str) -> Live:
        live = restore(checkpoint, settings=settings, trusted=(*TRUSTED, *(trust or ())))
        return replace(live, run=_judged_on(with_images(live.run, data), on))

    found: list[Evaluated] = []
    with error_console.status("evaluating"):
        if task:
            if threshold:
                raise ValueError(
                    "--threshold needs a run of variational dropout, --task a file of weights alone; leave one out"
                )
            run, model = with_weights(task, checkpoint, data=data, vocabulary=vocabulary)
            run = _judged_on(run, on)
            found.append(_evaluated(run, model, None, device, recalibrate))
        else:
            trained = restored()
            run = trained.run
            own = run.technique.threshold if run.technique else None
            if threshold and own is None:
                raise ValueError(f"--threshold is for variational dropout; this run trained {run.name}")
            wanted: list[float | None] = [*dict.fromkeys(threshold)] if threshold else [own]
            for value in wanted:
                live = trained if value == own else restored(f"technique.threshold={value}")
                found.append(_evaluated(live.run, live.finalized_copy(), value, device, recalibrate))
    if as_json:
        print_json("eval", evaluated=[one.to_dict() for one in found])
    else:
        _print_evaluated(found, checkpoint, run.task)
    if threshold:
        _keep(found, checkpoint, same=data is None and not recalibrate)


@dataclass(frozen=True)
class Evaluated:
    """What a checkpoint gave at one threshold.

    Args:
        threshold: The threshold on log alpha, None for a run that has none.
        run: The run with that threshold, as JSON.
        settings: The run's settings in one line.
        metrics: The task's metrics of the finalized model, by name.
        sparsity: The fraction of zeros among the selected weights, 0-1.
        sparsity_all: The fraction of zeros among all parameters, 0-1.
        judged: On which data.
    """

    threshold: float | None
    run: Any
    settings: str
    metrics: dict[str, float]
    sparsity: float
    sparsity_all: float
    judged: "Judged"

    def to_dict(self) -> dict[str, float | str | None]:
        """Plain values, ready for JSON, with the metrics beside the rest."""
        counts = {"sparsity": self.sparsity, "sparsity_all": self.sparsity_all}
        return {"threshold": self.threshold, "judged_on": self.judged.on, **self.metrics, **counts}


def _judged_on(run: "Run", data: Literal["test", "validation"] | None) -> "Run":
    return run if data is None else replace(run, task=run.task.judge_on(data))


def _print_evaluated(found: list[Evaluated], checkpoint: Path, task: "Task") -> None:
    metric, first = task.metric, found[0].metrics
    accuracy = ("accuracy", "error") if "accuracy" in first else ()
    others = [name for name in first if name not in ("accuracy", "loss")]
    loss = ("loss",) if "loss" in first else ()
    names = ("threshold", *accuracy, *others, *loss, "sparsity", "of all parameters")
    where = {"test": "the test set", "validation": "validation data"}[task.judged_on]
    table = SafeTable(*names, title=f"{checkpoint}, on {where}", box=SIMPLE)
    for one in found:
        values = dict(one.metrics)
        cells = ["-" if one.threshold is None else number(one.threshold)]
        if accuracy:
            cells += [f"{values['accuracy']:.2%}", f"{1 - values['accuracy']:.2%}"]
        for name in others:
            judged = name == metric.key and metric.full is None
            cells.append(metric.text(metric.score(values[name]), digits=2) if judged else _shown(name, values[name]))
        cells += [decimal(values["loss"], 4)] if loss else []
        table.add_row(*cells, f"{one.sparsity:.2%}", f"{one.sparsity_all:.2%}")
    out_console.print(table)
    if task.metrics_note:
        out_console.print(task.metrics_note, highlight=False, soft_wrap=True)


def _shown(name: str, value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2%}" if name.startswith("top") else decimal(value, 2)


def _keep(found: list[Evaluated], folder: Path, *, same: bool) -> None:
    """Keeps what thresholds gave in the run's directory, or says why it does not."""
    from openwork.study.results.store import read_result
    from openwork.study.results.thresholds import AtThreshold, keep_thresholds

    result = folder / "result.json"
    if not same:
        text = "not kept in the run's directory, as --data and --recalibrate change what is evaluated"
    elif not folder.is_dir():
        text = "not kept: give the run's directory instead of a file to have them in its report"
    elif not result.exists() or not read_result(result).finished:
        text = "not kept: the run is not finished"
    else:
        own, kept = read_result(result).judged_on, []
        lost = [one for one in found if not all(map(isfinite, one.metrics.values()))]
        at = f"threshold {', '.join(number(one.threshold or 0.0) for one in lost)}"
        for one in found:
            if one in lost:
                continue  # a reader would take no other threshold of the file either
            assert one.threshold is not None
            after = {**one.metrics, "sparsity": one.sparsity}
            other = None if one.judged.on == own else one.judged
            kept.append(AtThreshold(one.threshold, one.run, one.settings, after, one.sparsity, one.sparsity_all, other))
        if kept:
            keep_thresholds(folder, kept)
            text = f"kept in {folder / 'thresholds.json'}: `openwork report` shows them as points"
            text += f", without {at}, where a metric is NaN or infinite" if lost else ""
        else:
            text = f"not kept: at {at} a metric is NaN or infinite"
    error_console.print(text, markup=False, highlight=False, soft_wrap=True)


def _evaluated(run: "Run", plain: "nn.Module", threshold: float | None, device: str, batches: int) -> Evaluated:
    from openwork.inspect.report import report
    from openwork.study.results.thresholds import Judged
    from openwork.study.runs.config import to_plain
    from openwork.study.runs.recalibration import recalibrate
    from openwork.study.tasks.measure import final_metrics

    plain = plain.to(checked_device(device))
    if batches:
        recalibrate(run, plain, checked_device(device), batches)
    counts = report(plain, select=run.select)
    metrics = final_metrics(run.task, plain, checked_device(device))
    judged = Judged(run.task.judged_on, run.task.title, run.task.metric)
    return Evaluated(threshold, to_plain(run), run.settings, metrics, counts.sparsity, counts.sparsity_all, judged)


def inspect(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A .safetensors or .pt file, a Hugging Face folder, a TensorFlow prefix, or a run.",
            autocompletion=complete_runs,
        ),
    ],
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="Another, to compare: which zeros stay zero in it.")
    ] = None,
    trust: Trust = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown with a row for every weight.")] = False,
) -> None:
    """Audit any checkpoint: zeros, their patterns, dead units and bytes, per weight and in total; or compare two."""
    from openwork.inspect.compare import compare
    from openwork.inspect.report import report

    if as_json and markdown:
        raise ValueError("choose one of --json and --markdown")
    if other and markdown:
        raise ValueError("a comparison has no --markdown; choose --json or the table")
    with error_console.status("counting"):
        live, path = run_in(checkpoint, trust)
        if other:
            found: Any = compare(
                *(
                    one.finalized_copy().state_dict() if one else place
                    for one, place in ((live, path), run_in(other, trust))
                )
            )
        else:
            found = report(live.finalized_copy(), select=live.run.select) if live else report(path)
    paths = [str(checkpoint), str(other)] if other else str(checkpoint)
    if as_json:
        print_json("inspect", path=paths, **found.to_dict())
    elif markdown:
        sys.stdout.write(found.to_markdown() + "\n")
    else:
        head = [f"first: {checkpoint}", f"second: {other}"] if other else [str(path)]
        sys.stdout.write("\n".join([*map(printable, head), str(found)]) + "\n")


def run_in(path: Path, trust: list[str] | None, *, with_model: bool = False) -> "tuple[Live | None, Path]":
    """The run whose checkpoint this is, None for any other file; and the file to read.

    Args:
        path: A run's directory, or any file or folder of weights.
        trust: Packages that the checkpoint's run may import.
        with_model: Whether the directory of a finished run gives the run, too, instead of its plain weights.
    """
    from openwork.study.runs.checkpoint import is_checkpoint
    from openwork.study.runs.config import TRUSTED
    from openwork.study.runs.live import restore

    path = found_run(path)
    checkpoint = path / "checkpoint.pt"
    if checkpoint.is_file() and (with_model or not (path / "model.safetensors").exists()):
        path = checkpoint
    try:
        ours = is_checkpoint(path)
    except ValueError:  # it holds more than plain values, or is damaged: the report says which
        ours = False
    return (restore(path, trusted=(*TRUSTED, *(trust or ()))) if ours else None), path
