"""Made-up studies for the tests of results and report."""

import json
from pathlib import Path
from typing import Any


def row(
    name: str = "L0",
    settings: str = "a",
    seed: int = 0,
    sparsity: float = 0.9,
    accuracy: float = 0.97,
    bleu: float | None = None,
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
    return {
        "format": 2, "id": f"{name}-{settings}-{seed}", "status": "finished", "step": 10, "name": name, "seed": seed,
        "settings": settings, "task": "digits", "run": {}, "before": metrics, "after": metrics,
        "sparsity": {"selected": sparsity, "all": sparsity / 2}, "layers": layers,
        "cost": {"seconds": 1.5, "step_ms": 0.5, "peak_memory_bytes": None}, "execution": "simulated",
        "environment": {"device": "cpu", "processor": "some CPU", "threads": 2, "torch": "2", "python": "3",
                        "openwork": "0", "commit": None},
    }  # fmt: skip


def diverged(name: str = "L0", settings: str = "a", seed: int = 9) -> dict[str, Any]:
    """A run that ended in NaN."""
    return {
        **row(name, settings, seed),
        "status": "diverged",
        "before": None,
        "after": None,
        "layers": [],
        "sparsity": None,
    }


def study(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes the rows as a study directory."""
    for one in rows:
        (folder / one["id"]).mkdir(parents=True)
        (folder / one["id"] / "result.json").write_text(json.dumps(one))
    return folder
