"""What reads the same and is not: techniques and tasks of one name, and settings of one text."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from openwork.study.results.result import Result, canonical
from openwork.study.results.seeds import without_seeds


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

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """What one technique on one task has alone: their names, and the classes that these stand for."""
        return self.task, _class(self, "task"), self.name, _class(self, "technique")


def told_apart(*studies: Iterable[Result]) -> list[list[Result]]:
    """The results of each study, named as `names_apart` does, with settings as `settings_apart` writes them."""
    found = [list(study) for study in studies]
    names = names_apart(*([Named(result.name, result.task, result.run) for result in study] for study in found))
    pairs = (zip(*pair, strict=True) for pair in zip(found, names, strict=True))
    return settings_apart(*([renamed(result, named) for result, named in pair] for pair in pairs))


def renamed(result: Result, named: Named) -> Result:
    """The result under its new names."""
    same = (result.name, result.task) == (named.name, named.task)
    return result if same else replace(result, name=named.name, task=named.task)


def settings_apart(*studies: Iterable[Result]) -> list[list[Result]]:
    """The results of each study; settings that read the same and are not begin with the fields in which they differ.

    Settings have six digits of a number, and what a class's ``__str__`` says of its fields.
    """
    found = [list(study) for study in studies]
    texts: dict[tuple[str, str, str], dict[str, Result]] = {}
    for result in (result for study in found for result in study):
        texts.setdefault((result.task, result.name, result.shared_settings), {})[result.group] = result
    differences = {group: text for groups in texts.values() for group, text in _differences(groups).items() if text}

    def apart(result: Result) -> Result:
        if not (text := differences.get(result.group)):
            return result  # with what it has computed of itself
        return replace(result, settings=f"{text}, {result.settings}" if result.settings else text)

    return [[apart(result) for result in study] for study in found]


def _differences(groups: Mapping[str, Result]) -> dict[str, str]:
    """By group, the fields that differ between the groups, as text; none of one group alone."""
    if len(groups) < 2:
        return {}
    fields = {group: dict(leaves(without_seeds(result.run))) for group, result in groups.items()}
    names = dict.fromkeys(name for each in fields.values() for name in each if name.rpartition(".")[2] != "type")
    apart = [name for name in names if len({each.get(name) for each in fields.values()}) > 1]
    said = {name: name.removeprefix("technique.") for name in apart}  # as settings have them
    return {
        group: ", ".join(f"{said[name]}={each[name]}" for name in apart if name in each)
        for group, each in fields.items()
    }


def leaves(plain: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """The path and the canonical JSON of what is no object in a description."""
    if not isinstance(plain, dict):
        return [(path, canonical(plain))]
    return [leaf for name, value in plain.items() for leaf in leaves(value, f"{path}.{name}" if path else name)]


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
