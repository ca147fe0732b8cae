"""Other thresholds of a run: what its checkpoint gives at them, kept in its directory as points of their own."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openwork.study.files import write_text

FORMAT = 2


def read_thresholds(folder: Path) -> list[dict[str, Any]]:
    """What a run's ``thresholds.json`` holds, by threshold; none where there is no such file.

    Each has threshold, run and settings (those of the run with that threshold), after (metrics and sparsity, as in
    result.json) and sparsity (selected, all). Raises ValueError, naming the file and the cure, where it is damaged.
    """
    path = folder / "thresholds.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:  # ValueError: broken JSON and broken UTF-8 alike
        raise ValueError(damaged(folder, str(error))) from error
    if not isinstance(content, dict) or not isinstance(content.get("thresholds"), list):
        raise ValueError(damaged(folder, "no list of thresholds"))
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {content.get('format')!r}, this openwork reads {FORMAT}; use the openwork that wrote it"
        )
    kept: list[dict[str, Any]] = content["thresholds"]
    if not all(map(_is_entry, kept)):
        raise ValueError(damaged(folder, "one has no threshold, settings, after, sparsity or run"))
    return kept


def keep_thresholds(folder: Path, found: Iterable[dict[str, Any]]) -> None:
    """Adds what was found to the run's ``thresholds.json`` in one step; what was there at the same threshold goes.

    Raises as `read_thresholds` does, and WriteError.
    """
    kept = {_key(one["threshold"]): one for one in (*read_thresholds(folder), *found)}
    content = {"format": FORMAT, "thresholds": sorted(kept.values(), key=lambda one: one["threshold"])}
    write_text(folder / "thresholds.json", json.dumps(content, indent=2) + "\n")


def threshold_rows(row: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The row of a finished run at each threshold that is kept and not its own, with the id ``<id>@<threshold>``.

    They cost no training, so that sums of hours stay right, and list no layers. Raises as `read_thresholds` does.
    """
    return [
        {
            **row,
            "id": f"{row['id']}@{_key(one['threshold'])}",
            "settings": one["settings"],
            "run": one["run"],
            "before": None,
            "after": one["after"],
            "sparsity": one["sparsity"],
            "layers": [],
            "cost": {"seconds": 0.0, "step_ms": None, "peak_memory_bytes": None},
        }
        for one in read_thresholds(folder)
        if one["run"] != row["run"]
    ]


def is_trained(row: dict[str, Any]) -> bool:
    """Whether the row is that of a run itself, not of another threshold of one."""
    return "@" not in row["id"]


def damaged(folder: Path, problem: str) -> str:
    """That a run's ``thresholds.json`` cannot be used, with the cure."""
    return (
        f"{folder / 'thresholds.json'} cannot be read ({problem}); delete it, and evaluate the run's thresholds again "
        "with `openwork eval RUN --threshold ...`"
    )


def _key(threshold: float) -> str:
    return f"{threshold:g}"  # as settings say it: what reads the same would be the same point twice


def _is_entry(one: object) -> bool:
    if not isinstance(one, dict) or not one.keys() >= {"settings", "after", "sparsity"}:
        return False
    if not isinstance(one.get("run"), dict):
        return False
    threshold = one.get("threshold")
    return isinstance(threshold, int | float) and not isinstance(threshold, bool)
