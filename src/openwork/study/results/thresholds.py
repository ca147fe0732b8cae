"""A run at other thresholds: what its checkpoint gives there, kept in its directory and read as separate points."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

from openwork.study.evaluation.metric import DataName, Metric
from openwork.study.files import read_json, write_text
from openwork.study.locks import locked
from openwork.study.results.result import FORMAT, Cost, Result, check_measured, is_number, read_metric
from openwork.words import number, printable_json

_CURE = "delete it, and evaluate the run's thresholds again with `openwork eval RUN --threshold ...`"


class Judged(NamedTuple):
    """On which data a model was measured, and what results are called there.

    Args:
        on: The data.
        task: The task's title.
        metric: The task's metric.
    """

    on: DataName
    task: str
    metric: Metric


@dataclass(frozen=True)
class AtThreshold:
    """What a run's checkpoint gives at one threshold.

    Args:
        threshold: The threshold.
        run: The description of the run with that threshold, as run.json has it.
        settings: That run's settings as text.
        after: Metrics by name, as in result.json.
        sparsity: Zeros among the selected weights, 0-1.
        sparsity_all: Zeros among all parameters, 0-1.
        judged: Where that was measured, if on other data than the run is judged on.
    """

    threshold: float
    run: Mapping[str, Any]
    settings: str
    after: Mapping[str, float]
    sparsity: float
    sparsity_all: float
    judged: Judged | None = None

    @property
    def key(self) -> str:
        """The threshold, and the data where they are others: what reads the same is one point."""
        return f"{number(self.threshold)}{f',{self.judged.on}' if self.judged else ''}"


def read_thresholds(folder: Path) -> list[AtThreshold]:
    """The entries of a run's ``thresholds.json``, by threshold; none where there is no such file.

    Raises:
        ValueError: If it is damaged; names the file and the cure.
    """
    path = folder / "thresholds.json"
    try:
        content = read_json(path, _CURE)
    except FileNotFoundError:
        return []
    if not isinstance(content, dict) or not isinstance(content.get("thresholds"), list):
        raise _damaged(folder, "no list of thresholds")
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {content.get('format')!r}, this openwork reads {FORMAT}; use the openwork that wrote it"
        )
    return [_entry(one, folder) for one in content["thresholds"]]


def keep_thresholds(folder: Path, found: Iterable[AtThreshold]) -> None:
    """Adds entries to the run's ``thresholds.json`` in one step, in place of those with the same `AtThreshold.key`.

    Raises:
        ValueError: As for `read_thresholds`.
        WriteError: If it cannot be written.
    """
    with locked(folder / ".thresholds.json.lock", wait=True):  # another process may be adding thresholds, too
        kept = {one.key: one for one in (*read_thresholds(folder), *found)}
        entries = [_plain(one) for one in sorted(kept.values(), key=lambda one: (one.threshold, one.key))]
        text = json.dumps({"format": FORMAT, "thresholds": entries}, indent=2)
        write_text(folder / "thresholds.json", text + "\n")


def _plain(one: AtThreshold) -> dict[str, Any]:
    return {
        "threshold": one.threshold,
        "run": one.run,
        "settings": one.settings,
        "after": dict(one.after),
        "sparsity": {"selected": one.sparsity, "all": one.sparsity_all},
        **({"judged": {**one.judged._asdict(), "metric": asdict(one.judged.metric)}} if one.judged else {}),
    }


def threshold_results(result: Result, folder: Path) -> list[Result]:
    """The result of a finished run at each threshold that is kept and not its own, with the id ``<id>@<threshold>``.

    What was measured on other data than the run is judged on has the id ``<id>@<threshold>,<data>``, and may be at the
    run's own threshold. They cost no training, so that sums of hours stay right, and list no layers.

    Raises:
        ValueError: As for `read_thresholds`.
    """
    found = []
    for one in read_thresholds(folder):
        if result.threshold is not None and one.key == number(result.threshold):
            continue
        judged = one.judged or Judged(result.judged_on, result.task, result.metric)
        try:
            check_measured(judged.metric, one.after, {"selected": one.sparsity, "all": one.sparsity_all})
        except ValueError as error:
            raise _damaged(folder, str(error)) from error
        found.append(
            replace(
                result,
                id=f"{result.id}@{one.key}",
                task=judged.task,
                metric=judged.metric,
                judged_on=judged.on,
                settings=one.settings,
                run=one.run,
                threshold=one.threshold,
                before=None,
                after=one.after,
                sparsity=one.sparsity,
                sparsity_all=one.sparsity_all,
                layers=(),
                cost=Cost(seconds=0.0),
                trained=False,
            )
        )
    return found


def _damaged(folder: Path, problem: str) -> ValueError:
    return ValueError(f"{folder / 'thresholds.json'} cannot be read ({problem}); {_CURE}")


def _entry(one: object, folder: Path) -> AtThreshold:
    if not isinstance(one, dict) or not one.keys() >= {"run", "settings", "after", "sparsity"}:
        raise _damaged(folder, "one has no threshold, settings, after, sparsity or run")
    threshold, sparsity = one.get("threshold"), one["sparsity"]
    if not is_number(threshold) or not isinstance(sparsity, dict):
        raise _damaged(folder, "one has no threshold, settings, after, sparsity or run")
    if not isinstance(one["settings"], str):
        raise _damaged(folder, "settings is not text")
    if not isinstance(one["run"], dict):
        raise _damaged(folder, "run is not an object")
    # A sparsity that is no number is found by `check_measured`.
    zeros = sparsity.get("selected", ""), sparsity.get("all", "")
    settings, after, judged = (printable_json(one.get(key)) for key in ("settings", "after", "judged"))
    return AtThreshold(threshold, one["run"], settings, after, *zeros, _judged(judged, folder))


def _judged(judged: object, folder: Path) -> Judged | None:
    if judged is None:
        return None
    if not isinstance(judged, dict) or judged.get("on") not in get_args(DataName):
        raise _damaged(folder, "one is judged on neither 'test' nor 'validation'")
    try:
        return Judged(judged["on"], str(judged["task"]), read_metric(judged["metric"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(folder, f"the metric of one cannot be read, {error!r}") from error
