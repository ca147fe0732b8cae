"""The task of all runs of a fleet: it computes for all of them, and so refuses to say what differs between them."""

import copy
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn, cast

from openwork.study.fleet.same import same
from openwork.study.tasks.task import Task


class DiffersError(ValueError):
    """What computes for all runs of a fleet has read a number that differs between them."""


def common(tasks: Sequence[Task]) -> Task:
    """The first one of the tasks, for what is computed for all at once: their losses, metrics and batches.

    Reading from it a field of `Task.varying` that differs between the tasks raises `DiffersError`, as does reading what
    a task has made of such a field. What they have cached is made anew.

    Args:
        tasks: Those of the runs, which differ in `Task.varying` alone.
    """
    first = tasks[0]
    others = [*{id(task): task for task in tasks if task is not first}.values()]
    given = {field.name for field in fields(cast("Any", first))}  # tasks are dataclasses
    made = [name for name in getattr(first, "__dict__", ()) if name not in given]
    cached = {name for name in made if not all(hasattr(other, "__dict__") and name in vars(other) for other in others)}
    differing = {
        name
        for name in {*first.varying, *made} - cached
        if not all(same(getattr(first, name), getattr(other, name)) for other in others)
    }
    if not differing:
        return first
    kind = type(first)
    members: dict[str, Any] = {name: property(_refusing(name, kind)) for name in differing}
    # Equal to none, so that no cache of the task's code answers with what it has made for a run of its own.
    members |= {"__eq__": object.__eq__, "__hash__": object.__hash__, "__slots__": (), "__module__": kind.__module__}
    metaclass: Any = type(kind)  # perhaps a metaclass of the task's
    task = copy.copy(first)
    object.__setattr__(task, "__class__", metaclass(kind.__name__, (kind,), members))
    for name in {*differing, *cached} & getattr(task, "__dict__", {}).keys():
        del vars(task)[name]
    return task


def _refusing(name: str, kind: type[Task]) -> Any:
    def refuse(task: Task) -> NoReturn:
        reader = sys._getframe(1).f_code.co_qualname.partition(".<locals>")[0]
        raise DiffersError(
            f"{reader} reads {name}, which differs between these runs, while one of them computes for all; leave it "
            f"out of `varying` of {kind.__name__}, or read it in model, optimizer and learning_rate alone"
        )

    return refuse
