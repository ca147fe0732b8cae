"""Which runs may be trained as one model: those that differ in numbers alone."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import fields
from operator import itemgetter
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


class Waiting:
    """Runs that wait to be trained, of which those that are alike are found without looking at all of them again.

    Args:
        done: The completed steps of a run.
    """

    def __init__(self, done: Callable[[Run], int]) -> None:
        self._done = done
        self._alike: dict[Hashable, dict[str, tuple[str, Run]]] = {}
        self._places: dict[str, Hashable] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, run: Run) -> None:
        """Lets the run wait."""
        place = self._places[run.id] = alike(run)
        self._alike.setdefault(place, {})[run.id] = (canonical(run.task), run)

    def group(self, most: int | None = None) -> list[Run]:
        """Those that can be trained with one of those that came first, and have come to the same step.

        Runs with equal tasks are neighbours. They go on waiting until they are taken.

        Args:
            most: How many to return at most; None for all of them.
        """
        found: dict[int, list[Run]] = {}
        place = next(iter(self._alike))
        for _, run in sorted(self._alike[place].values(), key=itemgetter(0)):
            together = found.setdefault(self._done(run), [])
            together.append(run)
            if len(together) == most:
                return together
        return max(found.values(), key=len)

    def like(self, run: Run) -> list[Run]:
        """Those that are like this one, at whatever step."""
        return [each for _, each in self._alike[self._places[run.id]].values()]

    def take(self, ids: Iterable[str]) -> None:
        """Lets these wait no longer."""
        for id in ids:
            place = self._places.pop(id)
            del self._alike[place][id]
            if not self._alike[place]:
                del self._alike[place]


def _fixed(value: Any, varying: Iterable[str]) -> Hashable:
    return tuple(canonical(getattr(value, f.name)) for f in fields(value) if f.name not in {*varying})
