"""The folders of runs: what state each is in, and which one an id's beginning or a name means."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from openwork.study.files import read_json, write_text
from openwork.study.locks import is_held, locked
from openwork.study.results.apart import Named, names_apart, renamed, settings_apart
from openwork.study.results.directory import is_run, run_directories
from openwork.study.results.result import Result
from openwork.study.results.store import read_failure, read_result

NAMES = "names.json"
"""The file in a folder of runs that says which runs a name stands for."""

State = Literal["finished", "diverged", "failed", "training", "interrupted"]


@dataclass(frozen=True)
class RunFolder:
    """A run as its directory shows it.

    Args:
        path: The directory; its name is the run's id.
        state: "training" while a process trains it, "interrupted" where none does and it is not done.
        step: The steps that are kept: of the result, or of the last evaluation.
        technique: The technique's name, with the variant.
        described: Its run.json; empty where there is none.
        result: That of a finished or diverged run.
        reason: Why it failed.
        names: What it was named.
    """

    path: Path
    state: State
    step: int
    technique: str
    described: Mapping[str, Any]
    result: Result | None = None
    reason: str = ""
    names: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The name of the directory."""
        return self.path.name

    @property
    def seed(self) -> int | None:
        """The seed, where that is known."""
        return self.result.seed if self.result else self.described.get("seed")

    @property
    def steps(self) -> int | None:
        """The steps that the run was given, where that is known."""
        return self.result.budget if self.result else self.described.get("steps")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; ``value`` is that of the task's metric, of the finished model."""
        r = self.result
        return {
            "id": self.id, "names": list(self.names), "path": str(self.path.resolve()), "state": self.state,
            "technique": self.technique, "seed": self.seed, "step": self.step, "steps": self.steps,
            "task": r.task if r else None, "settings": r.settings if r else None,
            "sparsity": r.sparsity if r else None, "metric": r.metric.key if r else None,
            "value": r.measured(r.metric.key) if r else None, "reason": self.reason or None,
        }  # fmt: skip


def read_folders(directory: Path, *, problems: list[str] | None = None) -> Iterator[RunFolder]:
    """Each run under `directory`, in the order of ids.

    Args:
        directory: A folder of runs.
        problems: As for `openwork.study.results.store.read_results`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: As for `read_folder`, where there are no ``problems``; and if it is the directory of one run.
    """
    paths, names = _runs(directory), read_names(directory)
    for path in paths:
        try:
            yield read_folder(path, names)
        except ValueError as error:
            if problems is None:
                raise
            problems.append(str(error))


def folders_apart(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """The runs, whose techniques, tasks and settings are told apart as in reports (`apart.told_apart`)."""
    results = [run.result for run in runs]
    (names,) = names_apart(
        Named(run.technique, result.task if result else "", result.run if result else run.described)
        for run, result in zip(runs, results, strict=True)
    )
    both = zip(results, names, strict=True)
    (finished,) = settings_apart(renamed(result, named) for result, named in both if result)
    rest = iter(finished)
    return [
        replace(run, technique=named.name, result=run.result and next(rest))
        for run, named in zip(runs, names, strict=True)
    ]


def check_have_runs(directories: Iterable[Path]) -> None:
    """Checks that there is a run in each of the folders, in whatever state.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If one has no run, or is the directory of one.
    """
    for directory in directories:
        if not _runs(directory):
            raise ValueError(f"no run in {directory}; train some with `openwork run` or give another folder")


def _runs(directory: Path) -> list[Path]:
    """The directories of the runs in a folder, by id."""
    refuse_run(directory)
    return [path for path in run_directories(directory) if is_run(path)]


def refuse_run(directory: Path) -> None:
    """Refuses the directory of one run where a folder of runs is meant.

    Raises:
        ValueError: If it is one.
    """
    if is_run(directory):
        raise ValueError(f"{directory} is the directory of one run; give the folder around it")


def read_folder(path: Path, names: Mapping[str, Sequence[str]] | None = None, *, layers: bool = False) -> RunFolder:
    """The run of one directory.

    Args:
        path: The directory.
        names: Those of the folder around it; None reads them.
        layers: Whether the result lists its layers.

    Raises:
        ValueError: If it is no run's, or one of its files is damaged; names it.
    """
    if not is_run(path):
        raise ValueError(f"{path} is no run's directory; give one that `openwork list` shows")
    given = read_names(path.absolute().parent) if names is None else names
    mine = tuple(name for name, ids in given.items() if path.absolute().name in ids)
    described = _described(path / "run.json")
    if (path / "result.json").is_file():
        result = read_result(path / "result.json", layers=layers)
        return RunFolder(path, result.status, result.step, result.name, described, result, names=mine)
    step, technique = _last_step(path / "metrics.jsonl"), described_name(described)
    if is_held(path / "lock"):
        return RunFolder(path, "training", step, technique, described, names=mine)
    if (failure := read_failure(path)) is not None:
        return RunFolder(path, "failed", step, technique, described, reason=str(failure["error"]), names=mine)
    return RunFolder(path, "interrupted", step, technique, described, names=mine)


def _described(path: Path) -> dict[str, Any]:
    """The run.json; empty where there is none."""
    cure = "delete that folder, and the run is trained again"
    found = _json(path, cure=cure)
    kinds = (("technique", dict), ("steps", int), ("seed", int), ("variant", str), ("origin", dict))
    if not isinstance(found, dict) or not all(isinstance(found.get(name), kind | None) for name, kind in kinds):
        raise ValueError(f"{path} is not the description of a run; {cure}")
    return found


def described_name(described: Mapping[str, Any]) -> str:
    """The name of the run of a description, as `Run.name` has it, without importing what it describes."""
    name = _origin_name(described.get("origin"), _class_name(described.get("technique"), "dense"))
    return ", ".join(filter(None, (name, described.get("variant"))))


def _origin_name(origin: Any, technique: str) -> str:
    """As `Origin.name` of each of its kinds has it."""
    kind = _class_name(origin, "Pretrained")
    if kind == "Pretrained":
        return technique
    before = origin["run"].get("origin") if kind == "LotteryTicket" and isinstance(origin.get("run"), dict) else None
    return _origin_name(before, technique) if _class_name(before, "") in ("LotteryTicket", "Rewound") else kind


def _class_name(described: Any, default: str) -> str:
    """The name of a described value's class, without the place of one that is not openwork's."""
    kind = str(described.get("type", default)) if isinstance(described, dict) else default
    return re.split("[:.]", kind)[-1]


def _json(path: Path, *, cure: str) -> Any:
    """The JSON value of a file; an empty object where there is no file."""
    try:
        return read_json(path, cure)
    except FileNotFoundError:
        return {}


def _last_step(path: Path) -> int:
    """The step of the last evaluation, 0 before one; without torch, which the rest of a run's history needs."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return int(json.loads(lines[-1])["step"]) if lines else 0
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0


def read_names(directory: Path) -> dict[str, list[str]]:
    """By name, the ids of the runs that it stands for; none where nothing was named."""
    found = _json(directory / NAMES, cure="delete that file: the runs stay, and only their names are lost")
    if not isinstance(found, dict):
        return {}
    return {name: [str(id) for id in ids] for name, ids in found.items() if isinstance(ids, list)}


def check_name(name: str, ids: Collection[str], directory: Path) -> None:
    """Checks a name for runs, to which it may be given or added.

    Raises:
        ValueError: If it could be an id or a path, or stands for runs of which these are none.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name) or re.fullmatch(r"[0-9a-f]+", name):
        raise ValueError(
            f"a name for runs has letters, digits, '.', '-', '_', and one of them that no id has, got {name!r}"
        )
    taken = read_names(directory).get(name)
    if taken and not set(taken) & set(ids):
        raise ValueError(
            f"{name!r} is the name of other runs in {directory}, {taken[0]} first; give another, or add to it by a "
            "command that has one of its runs, too, as seed=0,1,2 after seed=0,1"
        )


def write_name(name: str, ids: Collection[str], directory: Path) -> int:
    """Writes down in the folder that a name stands for these runs, too; how many others it stood for before.

    Raises:
        ValueError: As for `check_name`: another process may have given the name to others since.
    """
    if {*ids} <= {*(known := read_names(directory).get(name, []))}:  # perhaps where nobody may write
        return len(known) - len({*ids})
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / f".{NAMES}.lock", wait=True):  # another process may be adding a name, too
        check_name(name, ids, directory)
        names = read_names(directory)
        now = list(dict.fromkeys([*names.get(name, []), *ids]))
        write_text(directory / NAMES, json.dumps(names | {name: now}, indent=2) + "\n")
    return len(now) - len({*ids})


def find_runs(text: Path, default: Path) -> list[Path]:
    """The directories of the runs that a path, a name or the beginning of an id means; empty where there is none.

    Args:
        text: A run's directory, or ``FOLDER/NAME`` or ``FOLDER/BEGINNING`` of an id, or these without a folder.
        default: The folder of what comes without one.

    Raises:
        ValueError: If it is the beginning of several ids.
    """
    if is_run(text):
        return [text]
    folder = text.parent if len(text.parts) > 1 else default
    if not folder.is_dir():
        return []
    if ids := read_names(folder).get(text.name):
        return [folder / id for id in ids]
    begun = [path for path in folder.iterdir() if text.name and path.name.startswith(text.name)]
    found = sorted(filter(is_run, begun))
    if len(found) > 1:
        shown = ", ".join(p.name for p in found[:3]) + (", ..." if len(found) > 3 else "")
        raise ValueError(f"{text.name!r} begins {len(found)} ids in {folder}: {shown}; give more of the one you mean")
    return found


def short_ids(ids: Iterable[str], least: int = 6) -> dict[str, str]:
    """By id, its shortest beginning of at least ``least`` characters that no other has."""
    found: dict[str, str] = {}
    every = sorted(ids)
    for before, id, after in zip(["", *every], every, [*every[1:], ""], strict=False):
        same = max(next((n for n, pair in enumerate(zip(id, other, strict=False)) if len({*pair}) > 1), len(other))
                   for other in (before, after))  # fmt: skip
        found[id] = id[: max(least, same + 1)]
    return found
