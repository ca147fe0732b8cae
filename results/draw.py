"""Draws the picture of accuracy or BLEU against sparsity of a folder of results again, from its committed rows.

Run: python results/draw.py results/cifar10-resnet50 results/translation
"""

import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kept import lines_of

from openwork.study.evaluation.metric import ACCURACY, BLEU
from openwork.study.report.page import write_report
from openwork.study.results.thresholds import AtThreshold, Judged, keep_thresholds

METRICS = {metric.key: metric for metric in (ACCURACY, BLEU)}
COST = ("seconds", "step_ms", "peak_memory_bytes")


def numbers(row: dict[str, str], prefix: str) -> dict[str, float]:
    """The values of the columns that begin so."""
    named = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix) and value}
    return {key: float(value) for key, value in named.items() if key != "value"}


def content(row: dict[str, str]) -> dict[str, Any]:
    """The result.json of a row, without layers."""
    return {
        **{key: row[key] for key in ("id", "status", "name", "settings", "task", "execution")},
        **{key: int(row[key]) for key in ("format", "seed", "step")},
        "run": json.loads(row["run"]),
        "metric": asdict(METRICS[row["metric"]].on(row["judged_on"])),
        "judged_on": row["judged_on"],
        "watched_on": row["watched_on"],
        "threshold": None,
        "before": numbers(row, "before_"),
        "after": numbers(row, "after_"),
        "sparsity": numbers(row, "sparsity_"),
        "layers": [],
        "cost": {key: float(row[key]) for key in COST if row[key]},
        "environment": {"device": row["device"], "processor": row["processor"]},
    }


def at_threshold(row: dict[str, str], threshold: str) -> AtThreshold:
    """What the thresholds.json of its run says of a row at another threshold."""
    sparsity = numbers(row, "sparsity_")
    run, after = json.loads(row["run"]), numbers(row, "after_")
    number, on, data = threshold.partition(",")
    judged = Judged(data, row["task"], METRICS[row["metric"]].on(data)) if on else None
    return AtThreshold(float(number), run, row["settings"], after, sparsity["selected"], sparsity["all"], judged)


def main() -> None:
    """Draws the picture of each folder that is named."""
    for study in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as name:
            runs, out = Path(name, "runs"), Path(name, "out")
            for row in lines_of(study / "rows.csv", ("id",)):
                id, at, threshold = row["id"].partition("@")
                (runs / id).mkdir(parents=True, exist_ok=True)
                if at:
                    keep_thresholds(runs / id, [at_threshold(row, threshold)])
                else:
                    (runs / id / "result.json").write_text(json.dumps(content(row)), encoding="utf-8")
            write_report(runs, out)
            (picture,) = out.glob("*trade-off*.png")
            shutil.copy(picture, study / "trade-off.png")


if __name__ == "__main__":
    main()
