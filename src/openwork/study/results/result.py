"""The result of a run as a value; its JSON is read and checked here alone."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple, TypeGuard, get_args

from openwork.study.evaluation.metric import DataName, Metric
from openwork.study.results.seeds import KEEPING, kept_seeds, settings_without_seeds, without_seeds
from openwork.study.results.zeros import LayerZeros, read_layer
from openwork.words import number, printable_json

FORMAT = 2
"""Of run directories and rows. 1 named openwork's values by their modules, so that ids were others."""

_TEXT = ("id", "status", "name", "settings", "task", "execution")
_KEYS = (
    *("format", *_TEXT, "step", "seed", "run", "metric", "threshold"),
    *("before", "after", "sparsity", "layers", "cost", "environment"),
)


@dataclass(frozen=True)
class Cost:
    """What training cost, without evaluation; None where it was not measured."""

    seconds: float | None = None
    step_ms: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Environment:
    """What a run was trained on; None where that is unknown."""

    device: str | None = None
    processor: str | None = None
    threads: int | None = None
    processes: int | None = None
    torch: str | None = None
    python: str | None = None
    openwork: str | None = None
    commit: str | None = None
    precision: str | None = None
    """Of products on a GPU (`openwork.study.runs.precision`); None on a CPU."""
    fleet: int | None = None
    """How many runs were trained as one model; None of a run that was trained alone."""


class KeptZeros(NamedTuple):
    """The zeros of another run that a run keeps.

    Args:
        technique: The canonical JSON of the technique that found them.
        budget: The steps of the other run.
        kind: "LotteryTicket" where the run starts from the other's initial weights, too, "Rewound" where it starts from
            those after some steps, "Retrained" from its final ones, and "Scratch" from new ones.
        augmented: Whether its initial weights were scaled for the density.
        shuffled: Whether the zeros are at other places.
        pruned: The fraction of the other run's weights that are zero besides.
    """

    technique: str
    budget: int
    kind: str
    augmented: bool
    shuffled: bool
    pruned: float


@dataclass(frozen=True)
class Result:
    """The outcome of a run, or of its checkpoint at another threshold.

    Args:
        id: The run's id; with ``@`` and the threshold where that is another.
        task: The task's title.
        name: The technique's name.
        settings: Its settings as text.
        seed: The run's seed.
        status: ``finished`` or ``diverged``.
        step: Completed optimizer steps.
        run: The description, as in run.json.
        metric: The one that the run is judged by.
        threshold: At which zeros were made, if that can be set after training.
        before: Metrics by name before the model was made plain, on the data of ``watched_on``; None for a run that
            diverged and at another threshold.
        after: The same of the plain model, on the data of ``judged_on``; None for a run that diverged.
        sparsity: Zeros among the selected weights of the plain model, 0-1.
        sparsity_all: Zeros among all parameters, 0-1.
        layers: The zeros of each layer; none where nobody asked for them.
        cost: What training cost.
        execution: ``simulated`` or ``executed``: what the zeros were in the arithmetic.
        environment: What the run was trained on.
        trained: False at another threshold.
        judged_on: The data of the score: ``test``, or ``validation`` for what settings are chosen by.
        watched_on: The data that was measured during training, and before the model was made plain.
    """

    id: str
    task: str
    name: str
    settings: str
    seed: int
    status: Literal["finished", "diverged"]
    step: int
    run: Mapping[str, Any]
    metric: Metric
    threshold: float | None
    before: Mapping[str, float] | None
    after: Mapping[str, float] | None
    sparsity: float | None
    sparsity_all: float | None
    layers: tuple[LayerZeros, ...]
    cost: Cost
    execution: str
    environment: Environment
    trained: bool = True
    judged_on: DataName = "test"
    watched_on: DataName = "test"

    @property
    def finished(self) -> bool:
        """Whether it did not diverge."""
        return self.status == "finished"

    @property
    def score(self) -> float:
        """The score of the finished plain model by the task's metric; NaN of a run that diverged."""
        return self.metric.score(self.after[self.metric.key]) if self.after else float("nan")

    def measured(self, name: str) -> float | None:
        """A metric of the finished plain model; None where it was not measured."""
        return self.after.get(name) if self.after else None

    @property
    def budget(self) -> int:
        """The optimizer steps that the run was given."""
        return int(self.run.get("steps", self.step))

    @property
    def dense(self) -> bool:
        """Whether nothing made the model sparse."""
        return self.run.get("technique") is None and self.kept_zeros is None

    @property
    def kept_zeros(self) -> KeptZeros | None:
        """The zeros of another run that this one keeps from its first step on; None where there are none."""
        origin = self.run.get("origin") or {}
        if (kind := origin.get("type")) not in KEEPING:
            return None
        zeros = origin["run"]
        augmented, shuffled, pruned = (origin.get(name, 0) for name in ("augmented", "shuffled", "pruned"))
        technique = canonical(zeros["technique"])
        return KeptZeros(technique, zeros["steps"], kind, bool(augmented), bool(shuffled), pruned)

    @cached_property
    def group(self) -> str:
        """The canonical description without seeds, and the threshold: equal for results that differ in seeds alone.

        Those of the runs whose zeros it keeps are left out, too: `replicate` says which results have these in common.
        """
        run = without_seeds(self.run)
        if self.threshold is not None and isinstance(technique := run.get("technique"), dict):
            run["technique"] = {key: value for key, value in technique.items() if key != "threshold"}
        return f"{canonical(run)}@{number(self.threshold)}" if self.threshold is not None else canonical(run)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Its own seed, and those of the runs whose zeros it goes back to, the first of these last."""
        return self.seed, *kept_seeds(self.run)

    @property
    def replicate(self) -> int:
        """The seed that it counts and is paired by: that of the first run whose zeros it goes back to, else its own."""
        return self.seeds[-1]

    @property
    def shared_settings(self) -> str:
        """The settings without the seeds of the runs whose zeros it keeps, as the results of a group have them."""
        return settings_without_seeds(self.settings, self.run)


def parsed(content: object, *, layers: bool = True) -> Result:
    """The result that the JSON value of a result.json describes; without ``layers`` it lists none.

    Raises:
        ValueError: Where it is none; says what is wrong.
    """
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {type(content).__name__}")
    if missing := [key for key in _KEYS if key not in content]:
        raise ValueError(f"no {', '.join(missing)}")
    # What draws charts dies of an escape. The id is the hash of the run, which is therefore as it was written.
    try:
        content = {key: part if key == "run" else printable_json(part) for key, part in content.items()}
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if wrong := [key for key in _TEXT if not isinstance(content[key], str)]:
        raise ValueError(f"{wrong[0]} is not text")
    for key in ("seed", "step"):
        if not isinstance(content[key], int):
            raise ValueError(f"{key} is not an integer")
    for key in ("before", "after"):
        if not isinstance(content[key], dict | None):
            raise ValueError(f"{key} is not an object")
    if wrong := [key for key, value in (content["before"] or {}).items() if not is_number(value)]:
        raise ValueError(f"before.{wrong[0]} is not a finite number")
    if content["threshold"] is not None and not is_number(content["threshold"]):
        raise ValueError("threshold is not a finite number")
    if content["status"] not in ("finished", "diverged"):
        raise ValueError(f"status is {content['status']!r}, neither 'finished' nor 'diverged'")
    on = {key: content.get(key, "test") for key in ("judged_on", "watched_on")}  # what is older has no such keys
    if wrong := [key for key, data in on.items() if data not in get_args(DataName)]:
        raise ValueError(f"{wrong[0]} is {on[wrong[0]]!r}, neither 'test' nor 'validation'")
    parts = {key: content[key] or {} for key in ("run", "metric", "sparsity", "cost", "environment")}
    if wrong := [key for key, part in parts.items() if not isinstance(part, dict)]:
        raise ValueError(f"{wrong[0]} is not an object")
    try:
        metric = read_metric(parts["metric"])
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"metric cannot be read ({error})") from error
    try:
        found = tuple(map(read_layer, content["layers"])) if layers else ()
    except (TypeError, ValueError) as error:
        raise ValueError(f"layers cannot be read ({error})") from error
    sparsity = parts["sparsity"]
    if content["status"] == "finished":
        check_measured(metric, content["after"], sparsity)
        if parts["cost"].get("seconds") is None:
            raise ValueError("cost.seconds is not a finite number")
    for key, value in _known(Cost, parts["cost"]).items():
        if value is not None and not is_number(value):
            raise ValueError(f"cost.{key} is not a finite number")
    return Result(
        **{key: content[key] for key in (*_TEXT, "seed", "step", "threshold", "before", "after")},
        run=parts["run"],
        metric=metric,
        sparsity=sparsity.get("selected"),
        sparsity_all=sparsity.get("all"),
        layers=found,
        cost=Cost(**_known(Cost, parts["cost"])),
        environment=Environment(**_known(Environment, parts["environment"])),
        **on,
    )


def check_measured(metric: Metric, after: object, sparsity: Mapping[str, Any]) -> None:
    """Checks the metrics and sparsities of a finished model.

    Args:
        metric: The one that must be there.
        after: Metrics by name.
        sparsity: Fractions of zeros with the keys ``selected`` and ``all``.

    Raises:
        ValueError: If one of them is missing or wrong; names the field.
    """
    if not isinstance(after, dict):
        raise ValueError("after is not an object")
    if problem := metric.misfit(after.get(metric.key)):
        raise ValueError(f"after.{metric.key} {problem}")
    for key, value in after.items():
        if not is_number(value):
            raise ValueError(f"after.{key} is not a finite number")
    for key in ("selected", "all"):
        value = sparsity.get(key)
        if not is_number(value):
            raise ValueError(f"sparsity.{key} is not a finite number")
        if not 0 <= value <= 1:
            raise ValueError(f"sparsity.{key} must be in [0, 1], got {value}")


def canonical(plain: Any) -> str:
    """The one JSON text of equal descriptions; a run's id is the hash of its text."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def identity(plain: Any) -> str:
    """The id of the run with that description: 16 hexadecimal digits."""
    return hashlib.sha256(canonical(plain).encode()).hexdigest()[:16]


def read_metric(words: Mapping[str, Any]) -> Metric:
    """The metric that these JSON values describe.

    Raises:
        TypeError, ValueError, AttributeError: If they describe none.
    """
    return _metric(json.dumps(words))


@cache
def _metric(text: str) -> Metric:
    words: dict[str, Any] = json.loads(text)
    if "good" in words:
        words["good"] = tuple(words["good"])
    return Metric(**words)


def _known(kind: type[Cost] | type[Environment], part: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: part[field.name] for field in fields(kind) if field.name in part}


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a number that a result may have: Python also reads NaN, infinity and longer integers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
