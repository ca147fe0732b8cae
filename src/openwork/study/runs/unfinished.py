"""Schedules that a run is too short for: it would end before it has the sparsity that its settings name."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from openwork.core.schedules import Schedule
from openwork.study.runs.run import Run
from openwork.words import count


def unfinished_schedules(runs: Iterable[Run]) -> list[str]:
    """A sentence for each schedule that ends after the steps of its run, once for runs that differ in their seed."""
    found = {}
    for run in runs:
        if run.task.beginning < 1:
            continue  # the whole training has time for its schedules
        for path, schedule in _schedules(run.technique, "technique"):
            if schedule.last is not None and schedule.last > run.steps:
                found[run.name, run.settings, path] = (
                    f"{run.name}: {path} comes to {schedule.final:g} at step {schedule.last:,}, after the run's "
                    f"{count(run.steps, 'step')}; train longer, or let it end earlier"
                )
    return list(found.values())


def _schedules(value: Any, path: str) -> Iterator[tuple[str, Schedule]]:
    """The schedules among the fields of a dataclass, and of those in it, with their paths."""
    if isinstance(value, Schedule):
        yield path, value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _schedules(getattr(value, field.name), f"{path}.{field.name}")
