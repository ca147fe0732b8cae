"""Made-up studies for the tests of results and report."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from openwork.study.evaluation.metric import ACCURACY, BLEU
from openwork.study.results.result import Result, identity, parsed


def row(
    name: str = "L0",
    settings: str = "a",
    seed: int = 0,
    sparsity: float = 0.9,
    accuracy: float = 0.97,
    bleu: float | None = None,
    task: str = "digits",
) -> dict[str, Any]:
    """A finished run as its result.json says it; with a BLEU, a run of a translation."""
    metrics = {"accuracy": accuracy, "loss": 0.1, "sparsity": sparsity}
    if bleu is not None:
        metrics |= {"bleu": bleu, "tokenized_bleu": bleu + 0.5}
    layers = [
        {
            "name": "fc.weight",
            "shape": [10, 10],
            "weights": 100,
            "nonzero": round(100 * (1 - sparsity)),
            "sparsity": sparsity,
        }
    ]
    run = described(name, settings, seed, task)
    return {
        "format": 2, "id": identity(run), "status": "finished", "step": 10, "name": name, "seed": seed,
        "settings": settings, "task": task, "run": run,
        "metric": asdict(ACCURACY if bleu is None else BLEU), "threshold": None, "before": metrics, "after": metrics,
        "sparsity": {"selected": sparsity, "all": sparsity / 2}, "layers": layers,
        "cost": {"seconds": 1.5, "step_ms": 0.5, "peak_memory_bytes": None}, "execution": "simulated",
        "environment": {"device": "cpu", "processor": "some CPU", "threads": 2, "torch": "2", "python": "3",
                        "openwork": "0", "commit": None},
    }  # fmt: skip


def described(name: str, settings: str, seed: int, task: str) -> dict[str, Any]:
    """A run as its run.json says it: where anything but the seed differs, so does this."""
    technique = None if name == "dense" else {"type": name, "settings": settings}
    return {"task": {"title": task, "settings": settings}, "technique": technique, "steps": 10, "seed": seed}


def results(rows: Iterable[dict[str, Any]]) -> list[Result]:
    """The rows as they are read."""
    return [parsed(one) for one in rows]


def diverged(name: str = "L0", settings: str = "a", seed: int = 9, **more: Any) -> dict[str, Any]:
    """A run that ended in NaN; the rest as `row` has it."""
    return {
        **row(name, settings, seed, **more),
        "status": "diverged",
        "before": None,
        "after": None,
        "layers": [],
        "sparsity": None,
    }


def study(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes the rows as a study directory, each with the id, and if it finished the steps, of its run."""
    for one in rows:
        step = one["run"].get("steps", one["step"]) if one["status"] == "finished" else one["step"]
        one = {**one, "id": identity(one["run"]), "step": step}
        (folder / one["id"]).mkdir(parents=True)
        (folder / one["id"] / "result.json").write_text(json.dumps(one))
    return folder
