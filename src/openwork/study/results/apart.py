"""Techniques and tasks of one name that are several classes: a name of its own for each."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from openwork.study.results.result import Result


def told_apart(results: Iterable[Result]) -> list[Result]:
    """The results, where a class that shares its name with another one of them is named with its module.

    Names of techniques and titles of tasks are what reports compare by. A copy of one of openwork's techniques often
    keeps its name, and a subclass of a task inherits its title: their results would be one technique, or one task. What
    is openwork's own keeps its name, as does all whose class is the only one of that name.
    """
    found = list(results)
    techniques = _shared(found, lambda result: result.name, "technique")
    tasks = _shared(found, lambda result: result.task, "task")
    if not techniques and not tasks:
        return found
    return [replace(result, name=_name(result, techniques), task=_title(result, tasks)) for result in found]


def _shared(results: Iterable[Result], label: Callable[[Result], str], part: str) -> set[str]:
    """The labels of results whose descriptions have several classes in that part."""
    classes: dict[str, set[str]] = {}
    for result in results:
        if kind := _class(result, part):
            classes.setdefault(label(result), set()).add(kind)
    return {name for name, kinds in classes.items() if len(kinds) > 1}


def _class(result: Result, part: str) -> str:
    """The class of the run's task or technique, as `runs.names.name_of` has it; empty where there is none."""
    described: Any = result.run.get(part)
    return str(described.get("type", "")) if isinstance(described, dict) else ""


def _name(result: Result, shared: set[str]) -> str:
    kind = _class(result, "technique")
    if result.name not in shared or ":" not in kind:
        return result.name
    _, comma, variant = result.name.partition(", ")
    return f"{kind.replace(':', '.')}{comma}{variant}"


def _title(result: Result, shared: set[str]) -> str:
    kind = _class(result, "task")
    if result.task not in shared or ":" not in kind:
        return result.task
    return f"{result.task} ({kind.replace(':', '.')})"
