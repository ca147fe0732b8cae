"""What is kept of the runs of a study: a line of figures and of cost for each, and for each threshold of it."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from openwork.inspect.report import report
from openwork.study.data import lines
from openwork.study.results.result import Result
from openwork.study.results.store import read_result
from openwork.study.runs.live import restore
from openwork.study.runs.run import Run
from openwork.study.tasks.measure import final_metrics

MEASURED = ("id", "status", "step", "sparsity", "layers", "accuracy", "loss")
COST = ("seconds", "fleet", "precision", "device", "torch", "commit")

Key = tuple[Any, ...]
Found = dict[Key, dict[str, Any]]


def read_lines(path: Path, columns: Sequence[str], key: Sequence[str] = ()) -> list[dict[str, str]]:
    """As `lines_of`; none where there is no file."""
    return lines_of(path, columns, key) if path.exists() else []


def lines_of(path: Path, columns: Sequence[str], key: Sequence[str] = ()) -> list[dict[str, str]]:
    """As `openwork.study.data.lines.read_lines`, of a script, which a damaged file ends with a sentence."""
    try:
        return lines.read_lines(path, columns, key)
    except ValueError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"cannot read {path}: {(error.strerror or str(error)).lower()}; give another folder of rows")


def line(result: Result) -> dict[str, Any]:
    """What is kept of a result."""
    measured = {
        "id": result.id,
        "status": result.status,
        "step": result.step,
        "seconds": result.cost.seconds,
        "fleet": result.environment.fleet,
        "precision": result.environment.precision,
        "device": result.environment.device,
        "torch": result.environment.torch,
        "commit": result.environment.commit,
    }
    if result.after:
        measured |= numbers(result.sparsity or 0.0, [layer.sparsity for layer in result.layers], result.after)
    return measured


def numbers(sparsity: float, layers: Iterable[float], metrics: Any) -> dict[str, str]:
    """The figures of a finished model."""
    return {
        "sparsity": f"{sparsity:.6f}",
        "layers": " ".join(f"{each:.5f}" for each in layers),
        "accuracy": f"{metrics['accuracy']:.4f}",
        "loss": f"{metrics['loss']:.5f}",
    }


def at_threshold(run: Run, runs: Path, threshold: float, device: torch.device) -> dict[str, Any]:
    """The line of a finished run at another threshold."""
    live = restore(runs / run.id, settings=[f"technique.threshold={threshold}"])
    plain = live.finalized_copy().to(device)
    counts = report(plain, select=run.select)
    layers = [layer.sparsity for layer in counts.layers]
    shared = {"id": f"{run.id}@{threshold:g}", "status": "finished", "step": run.steps}
    return shared | numbers(counts.sparsity, layers, final_metrics(run.task, plain, device))


def ended(wanted: dict[Key, Run], runs: Path) -> Iterator[tuple[Key, Run, Result]]:
    """The runs that have a result, with their keys."""
    for key, run in wanted.items():
        path = runs / run.id / "result.json"
        if path.exists():
            yield key, run, read_result(path)


def paid_before(line: dict[str, Any]) -> dict[str, Any]:
    """The columns of cost of another threshold of a line's run, which takes no training of its own."""
    return {name: line.get(name) for name in COST} | {"seconds": 0.0}
