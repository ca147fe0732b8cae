"""The committed rows of a study by what was run: sparsities and scores of one setting, one for each seed."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import Any

from kept import lines_of

from openwork.study.published.overlay import bands
from openwork.study.published.rows import table as published
from openwork.study.results.student import may_be_one_more, prediction_interval, student_interval

Row = Sequence[str]
RESULTS = Path(__file__).parent
_FINAL = ("technique", "level", "seed")
_ONE_SHOT = ("technique", "reconstruct", "level", "seed")
KEYS = {
    "chosen": ("technique", "level"),
    "curves": ("id", "step"),
    "factors": ("technique", "aim"),
    "language": _ONE_SHOT,
    "layers": ("id", "layer"),
    "lenet5": _FINAL,
    "minilm": _ONE_SHOT,
    "other-tests": ("id", "testing"),
    "pilots": ("technique", "factor", "seed"),
    "recalibrated": ("id",),
    "recipes": ("net", "train_clip", "lasagne", "seed", "threshold"),
    "rows": ("id",),
    "section6": ("kind", "level", "mask", "replica"),
    "thresholds": ("id", "threshold"),
    "tournament": _FINAL,
    "training": ("weights",),
    "tuning": ("technique", "level", "setting"),
}
"""By the name of a CSV file, the columns that no two different lines of it have alike."""


@dataclass(frozen=True)
class Seeds:
    """The finished runs of one setting, in the order of their seeds; sparsities and scores in %, or BLEU."""

    ids: tuple[str, ...]
    sparsities: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.ids)

    @property
    def sparsity(self) -> float:
        """The mean."""
        return fmean(self.sparsities)

    @property
    def score(self) -> float:
        """The mean."""
        return fmean(self.scores)

    @property
    def errors(self) -> tuple[float, ...]:
        """100 % less accuracy."""
        return tuple(100 - score for score in self.scores)


def find(study: str, task: str, name: str, **fields: Any) -> Seeds:
    """The runs of a task (the beginning of its title) with a technique's name and these fields.

    A field is one of the technique's or of its schedule's or coefficient's, or ``peak_learning_rate`` of the task; None
    where it has its default. ``threshold`` is another one than that of the training.

    Raises:
        LookupError: Unless exactly one setting fits.
    """
    threshold = fields.pop("threshold", None)
    found = [
        row
        for row in rows(study)
        if row["task"].startswith(task) and row["name"] == name and "@" not in row["id"] and _fits(row, fields)
    ]
    if len({row["settings"] for row in found}) != 1:
        raise LookupError(f"{len(found)} rows of {study} are {name} {fields} on {task}, and not of one setting")
    found.sort(key=lambda row: int(row["seed"]))
    if threshold is not None:
        kept = {(row["id"], float(row["threshold"])): row for row in rows(study, "thresholds")}
        found = [{**kept[row["id"], threshold], "metric": "accuracy"} for row in found]
    return seeds(found)


def seeds(found: list[dict[str, str]]) -> Seeds:
    """These rows as `Seeds`."""
    unit = 1 if found[0]["metric"] == "bleu" else 100
    scores = tuple(unit * float(row.get("after_value") or row["accuracy"]) for row in found)
    sparsities = tuple(100 * float(row["sparsity_selected"]) for row in found)
    return Seeds(tuple(row["id"] for row in found), sparsities, scores)


@cache
def rows(study: str, name: str = "rows") -> list[dict[str, str]]:
    """The lines of a CSV file of a study, each once; a damaged one ends the script with a sentence."""
    return lines_of(RESULTS / study / f"{name}.csv", KEYS[name])


def has_rows(study: str, task: str, name: str) -> bool:
    """Whether there are rows of a technique on a task, the first part of its title."""
    return any((row["task"].partition(",")[0], row["name"]) == (task, name) for row in rows(study))


def layers(study: str, runs: Seeds) -> dict[str, float]:
    """The mean sparsity of each weight in %."""
    found: dict[str, list[float]] = {}
    for row in rows(study, "layers"):
        if row["id"] in runs.ids:
            found.setdefault(row["layer"], []).append(100 * float(row["sparsity"]))
    return {layer: fmean(values) for layer, values in found.items()}


def paper(model: str, by: str, threshold: float) -> tuple[float, float]:
    """Sparsity and error in % of one run of variational dropout in Table 3 of Gale et al. 2019."""
    (line,) = (
        line
        for line in published("mnist")
        if (line["model"], line["by"].split()[0]) == (model, by) and line["threshold"] == str(threshold)
    )
    return 100 * float(line["sparsity"]), 100 - 100 * float(line["accuracy"])


def best(model: str, technique: str, level: float) -> float:
    """The best published score of a pruning technique at one level, from the README of the release."""
    return max(
        float(line["value"])
        for line in published("checkpoints")
        if (line["model"], line["technique"], float(line["listed_sparsity"])) == (model, technique, level)
    )


def published_masks(model: str, level: float) -> dict[str, float]:
    """The best published magnitude pruning of a level, and the means of what keeps masks of it, by kind."""
    kept = {band.name: band.mean for band in bands(model) if band.sparsity == level}
    return {"magnitude": best(model, "magnitude_pruning", level)} | kept


def mean(values: tuple[float, ...], digits: int = 2) -> str:
    """The mean with the half width of its 95 % interval; of one value the value alone."""
    interval = student_interval(values)
    half = f" ± {(interval[1] - interval[0]) / 2:.{digits}f}" if interval else ""
    return f"{fmean(values):.{digits}f}{half}"


def one_more(values: tuple[float, ...], digits: int = 2) -> str:
    """Where one more run would lie with 95 %: ``1.50 to 2.05``."""
    interval = prediction_interval(values)
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else "–"


def place(value: float, values: tuple[float, ...]) -> str:
    """``inside`` or ``outside`` of where one more run would lie."""
    return "inside" if may_be_one_more(value, values) else "outside"


def markdown(heads: Sequence[str], lines: Sequence[Row]) -> str:
    """A table."""
    every = [heads, ["---"] * len(heads), *lines]
    assert {len(line) for line in every} == {len(heads)}
    return "\n".join(re.sub("  +", " ", f"| {' | '.join(line)} |") for line in every)


def _fits(row: dict[str, str], wanted: dict[str, Any]) -> bool:
    run = json.loads(row["run"])
    technique = run["technique"] or {}
    inner = technique.get("schedule") or technique.get("coefficient") or {}
    has = {"peak_learning_rate": run["task"].get("peak_learning_rate"), **inner, **technique}
    has["allocation"] = technique.get("allocation", {}).get("type")
    return all(_same(has.get(name), value) for name, value in wanted.items())


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float | int) and isinstance(b, float | int) and not isinstance(a, bool):
        return isclose(a, b, rel_tol=1e-9)
    return bool(a == b)
