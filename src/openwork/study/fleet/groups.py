"""Which runs may be trained as one model: those that differ in numbers alone."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import fields
from typing import Any

from openwork.study.runs.config import canonical
from openwork.study.runs.run import Run


def alike(run: Run) -> Hashable:
    """What runs of one fleet have in common: steps, model, technique, and all settings but numbers that may vary."""
    task, technique = run.task, run.technique
    return (
        run.steps,
        type(task),
        _fixed(task, task.varying),
        type(technique),
        technique and _fixed(technique, technique.varying),
        canonical(run.select),
        run.kept_zeros is not None,
    )


def groups(runs: Iterable[Run], done: Callable[[Run], int]) -> list[list[Run]]:
    """The runs, those that can be trained together in one list, in the order of their first ones.

    Runs with equal tasks are neighbours.

    Args:
        runs: The runs.
        done: The completed steps of a run.
    """
    found: dict[Hashable, list[Run]] = {}
    for run in runs:
        found.setdefault((alike(run), done(run)), []).append(run)
    return [sorted(group, key=_task) for group in found.values()]


def _task(run: Run) -> str:
    return canonical(run.task)


def _fixed(value: Any, varying: Iterable[str]) -> Hashable:
    return tuple(canonical(getattr(value, f.name)) for f in fields(value) if f.name not in {*varying})
