"""Techniques and tasks of one name that are several classes: a name of its own for each."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from openwork.study.results.result import Result


class Named(NamedTuple):
    """What a run is called, and what that stands for.

    Args:
        name: The technique's name, with the variant.
        task: The task's title; empty where it is not known.
        run: The description, as in run.json.
    """

    name: str
    task: str
    run: Mapping[str, Any]


def told_apart(*studies: Iterable[Result]) -> list[list[Result]]:
    """The results of each study, named as `names_apart` does."""
    found = [list(study) for study in studies]
    names = names_apart(*([Named(result.name, result.task, result.run) for result in study] for study in found))
    return [[replace(result, name=named.name, task=named.task) for result, named in zip(*pair, strict=True)]
            for pair in zip(found, names, strict=True)]  # fmt: skip


def names_apart(*studies: Iterable[Named]) -> list[list[Named]]:
    """The names of each study, where a class that shares its name with another of a study has its module's, too.

    Names of techniques and titles of tasks are what reports compare by. A copy of one of openwork's techniques often
    keeps its name, and a subclass of a task inherits its title: their results would be one technique, or one task. What
    is openwork's own keeps its name, as does what no study has two classes of: of two studies that are compared, each
    may have a class of its own, such as a technique before and after a change.
    """
    found = [list(study) for study in studies]
    techniques = {name for study in found for name in _shared(study, _technique, "technique")}
    titles = {title for study in found for title in _shared(study, lambda named: named.task, "task")}
    return [[_renamed(named, techniques, titles) for named in study] for study in found]


def _shared(study: Iterable[Named], label: Callable[[Named], str], part: str) -> set[str]:
    """The labels of what has several classes in that part of its description."""
    classes: dict[str, set[str]] = {}
    for named in study:
        if kind := _class(named, part):
            classes.setdefault(label(named), set()).add(kind)
    return {name for name, kinds in classes.items() if len(kinds) > 1}


def _technique(named: Named) -> str:
    """The name without the variant: those of one class are variants of one technique."""
    return named.name.partition(", ")[0]


def _class(named: Named, part: str) -> str:
    """The class of the run's task or technique, as `runs.names.name_of` has it; empty where there is none."""
    described: Any = named.run.get(part)
    return str(described.get("type", "")) if isinstance(described, dict) else ""


def _renamed(named: Named, techniques: set[str], titles: set[str]) -> Named:
    name, kind = _technique(named), _class(named, "technique")
    if name in techniques and ":" in kind:
        named = named._replace(name=kind.replace(":", ".") + named.name.removeprefix(name))
    kind = _class(named, "task")
    if named.task in titles and ":" in kind:
        named = named._replace(task=f"{named.task} ({kind.replace(':', '.')})")
    return named
