"""What a run leaves in its directory: rows of its evaluations, checkpoints and, at its end, the result."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.selection import Select
from openwork.inspect.flops import Flops, count_flops
from openwork.inspect.report import Report, reports
from openwork.study.files import write_atomically, write_text
from openwork.study.processes import barrier
from openwork.study.results.result import FORMAT, Result, parsed
from openwork.study.runs.checkpoint import owned, training_state, write_weights
from openwork.study.runs.config import to_plain
from openwork.study.runs.density import Density
from openwork.study.runs.environment import environment
from openwork.study.runs.expected_flops import expected_flops
from openwork.study.runs.live import Live
from openwork.study.runs.precision import Precision


def dense_flops(live: Live) -> Flops | None:
    """The FLOPs of the run's model when dense; None where nothing makes it sparse."""
    # Of the plain model: random weights are computed again in each forward pass, and no parameter owns their product.
    return count_flops(live.finalized_copy(), live.run.task.example(live.device)) if live.sparsifier else None


def evaluated(
    density: Density | None, dense: Flops | None, measured: dict[str, float], *, step: int, seconds: float
) -> dict[str, Any]:
    """A row of metrics.jsonl.

    Args:
        density: How sparse the run is; None where it is dense.
        dense: The FLOPs of its model when dense; None where that is all that it is.
        measured: Losses and metrics.
        step: The completed steps.
        seconds: How long they took.
    """
    row: dict[str, Any] = {"step": step, **measured, "sparsity": density.sparsity if density else 0.0}
    if density and dense and dense.dense:
        row["expected_flops"] = expected_flops(dense, density)
    return {**row, **(density.row() if density else {}), "seconds": round(seconds, 3)}


def finite(row: Mapping[str, Any]) -> bool:
    """Whether no number of the row is NaN or infinite: an accuracy is finite even where the loss is not."""
    return all(math.isfinite(value) for value in row.values() if isinstance(value, float))


def save(live: Live, optimizer: dict[str, Any], folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the rows of metrics.jsonl, and a checkpoint with all that resuming needs.

    Args:
        live: The run.
        optimizer: The state of its optimizer.
        folder: Its directory.
        rows: Its evaluations so far.
    """
    # One file, so that no crash can leave two halves that disagree.
    state = owned({**live.state(), **training_state(optimizer, live.device, rows)})
    write_atomically(folder / "checkpoint.pt", lambda path: torch.save(state, path))
    write_rows(folder, rows)


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the folder's metrics.jsonl."""
    write_text(folder / "metrics.jsonl", _lines(rows))


def repair_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the folder's metrics.jsonl where it differs, as when a process died between a checkpoint and its rows."""
    try:
        same = (folder / "metrics.jsonl").read_bytes() == _lines(rows).encode()
    except FileNotFoundError:
        same = not rows
    if not same:
        write_rows(folder, rows)


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


@dataclass(frozen=True)
class Machine:
    """Where a run was trained, and what it took there.

    Args:
        environment: What `environment` says.
        peak_memory: The bytes on a GPU; None elsewhere.
    """

    environment: dict[str, Any]
    peak_memory: int | None


def machine(device: torch.device, precision: Precision, fleet: int | None = None) -> Machine:
    """The machine that a run has been trained on until now.

    Args:
        device: The device.
        precision: Of products on a GPU.
        fleet: How many runs were trained as one model with this one, which has its share of the memory; None where it
            was trained alone.
    """
    peak = torch.cuda.max_memory_allocated(device) // (fleet or 1) if device.type == "cuda" else None
    return Machine(environment(device, precision) | ({} if fleet is None else {"fleet": fleet}), peak)


@dataclass(frozen=True)
class Final:
    """A run at its end.

    Args:
        plain: Its finalized model.
        counts: What that holds.
        sparsity: The fraction of zeros among the selected weights before the model was finalized.
        before: Metrics before the model was finalized.
        after: Those of ``plain``.
    """

    plain: nn.Module
    counts: Report
    sparsity: float
    before: dict[str, float]
    after: dict[str, float]


def finals(
    models: Sequence[nn.Module],
    select: Select,
    stacked: Mapping[str, Tensor],
    measured: Iterable[tuple[float, dict[str, float], dict[str, float]]],
) -> list[Final]:
    """Several runs at their end, whose finalized models differ in the values of their tensors alone.

    Args:
        models: The finalized models.
        select: Picks the weights that were made sparse.
        stacked: The models' parameters by name, (N, *shape).
        measured: The sparsity and the metrics before, and the metrics after, of each.
    """
    counts = reports(models, select, stacked)
    return [Final(model, held, *each) for model, held, each in zip(models, counts, measured, strict=True)]


def record(
    live: Live,
    folder: Path,
    machine: Machine,
    *,
    step: int,
    seconds: float,
    final: Final | None = None,
    rows: list[dict[str, Any]],
    saved: bool = True,
) -> Result:
    """Writes the result and returns it.

    Args:
        live: The run.
        folder: Its directory.
        machine: Where it was trained.
        step: The completed steps.
        seconds: How long they took.
        final: Where training has come to its end; the run has diverged nevertheless if its metrics are not finite.
        rows: Its evaluations. The last checkpoint has them beside the weights: it says that nothing is left to train.
        saved: Whether there is a checkpoint of this step, which stays until the result is written. One of an earlier
            step does not, as nobody adds what a finished run lacks.
    """
    run = live.run
    result: dict[str, Any] = {
        "format": FORMAT,
        "id": run.id,
        "status": "diverged",
        "step": step,
        "name": run.name,
        "seed": run.seed,
        "settings": run.settings,
        "task": run.task.title,
        "run": to_plain(run),
        "metric": asdict(run.task.metric),
        "judged_on": run.task.judged_on,
        "watched_on": run.task.watched_on,
        "threshold": run.technique.threshold if run.technique else None,
        "before": None,
        "after": None,
        "sparsity": None,
        "layers": [],
        "cost": {
            "seconds": round(seconds, 3),
            "step_ms": round(1000 * seconds / step, 4),
            "peak_memory_bytes": machine.peak_memory,
        },
        "execution": "simulated",  # zeros are stored and multiplied like any other number
        "environment": machine.environment,
    }
    finished = final is not None and finite(final.before) and finite(final.after)
    if final is not None and finished:
        result |= {
            "status": "finished",
            "before": {**final.before, "sparsity": final.sparsity},
            "after": {**final.after, "sparsity": final.counts.sparsity},
            **final.counts.to_dict(),
        }
        write_weights(final.plain, folder / "model.safetensors")
        if not saved:
            _keep_state(live, folder, rows)
    write_text(folder / "result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    if finished and saved:
        _keep_state(live, folder, rows)
    (folder / "failed.json").unlink(missing_ok=True)
    barrier()  # no process goes on before the first one has written
    return parsed(result)


def _keep_state(live: Live, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a checkpoint without what only training needs."""
    state = owned({**live.state(), "metrics": rows})
    write_atomically(folder / "checkpoint.pt", lambda path: torch.save(state, path))
