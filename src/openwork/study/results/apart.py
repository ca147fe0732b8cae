"""Techniques and tasks of one name that are several classes: a name of its own for each."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from openwork.study.results.result import Result


def told_apart(*studies: Iterable[Result]) -> list[list[Result]]:
    """The results of each study, where a class that shares its name with another of a study has its module's, too.

    Names of techniques and titles of tasks are what reports compare by. A copy of one of openwork's techniques often
    keeps its name, and a subclass of a task inherits its title: their results would be one technique, or one task. What
    is openwork's own keeps its name, as does what no study has two classes of: of two studies that are compared, each
    may have a class of its own, such as a technique before and after a change.
    """
    found = [list(study) for study in studies]
    techniques = {name for study in found for name in _shared(study, _technique, "technique")}
    titles = {title for study in found for title in _shared(study, lambda result: result.task, "task")}
    return [[_named(result, techniques, titles) for result in study] for study in found]


def _shared(results: Iterable[Result], label: Callable[[Result], str], part: str) -> set[str]:
    """The labels of results whose descriptions have several classes in that part."""
    classes: dict[str, set[str]] = {}
    for result in results:
        if kind := _class(result, part):
            classes.setdefault(label(result), set()).add(kind)
    return {name for name, kinds in classes.items() if len(kinds) > 1}


def _technique(result: Result) -> str:
    """The name without the variant: those of one class are variants of one technique."""
    return result.name.partition(", ")[0]


def _class(result: Result, part: str) -> str:
    """The class of the run's task or technique, as `runs.names.name_of` has it; empty where there is none."""
    described: Any = result.run.get(part)
    return str(described.get("type", "")) if isinstance(described, dict) else ""


def _named(result: Result, techniques: set[str], titles: set[str]) -> Result:
    name, kind = _technique(result), _class(result, "technique")
    if name in techniques and ":" in kind:
        result = replace(result, name=kind.replace(":", ".") + result.name.removeprefix(name))
    kind = _class(result, "task")
    if result.task in titles and ":" in kind:
        result = replace(result, task=f"{result.task} ({kind.replace(':', '.')})")
    return result
