"""Schedules: a value for every step, and the steps at which masks are recomputed.

``step`` is the number of completed optimizer steps. The same schedules drive the sparsity of a mask technique (a
fraction of zeros in [0, 1)) and the coefficient of a penalty (any value >= 0; ``every`` then has no effect).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Schedule(ABC):
    """The base of schedules, functions of the step. An immutable value: equal when its fields are equal.

    Args:
        final: The value that the schedule ends with.
    """

    final: float

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The value after ``step`` optimizer steps."""

    @abstractmethod
    def due(self, step: int) -> bool:
        """Whether masks are recomputed after ``step`` optimizer steps; step 0 is before training."""

    @property
    def last(self) -> int | None:
        """The last step at which masks are recomputed; None where that never ends."""
        return None


def unfinished(schedule: Schedule, steps: int) -> float | None:
    """The value of the last step that was due; None if it is the schedule's last value, or no step is to come.

    Args:
        schedule: The schedule.
        steps: Completed steps.
    """
    if schedule.last is not None and steps >= schedule.last:
        return None
    last = next((step for step in range(steps, -1, -1) if schedule.due(step)), None)
    value = 0.0 if last is None else schedule(last)
    return None if value == schedule.final else value


def _check_steps(**fields: object) -> None:
    """Raises ValueError for a number of steps that is no whole one: its step would never come."""
    for name, value in fields.items():
        if value is not None and not hasattr(value, "__index__"):
            raise ValueError(f"{name} must be a whole number of steps, got {value!r}; round it")


def _check_span(begin: int, end: int) -> None:
    """Raises ValueError unless 0 <= begin < end."""
    if not 0 <= begin < end:
        raise ValueError(
            f"a schedule needs 0 <= begin < end, got begin={begin}, end={end}; both are counted in optimizer steps"
        )


@dataclass(frozen=True)
class _Ramp(Schedule):
    """value(t) = final + (initial - final) * (1 - p)^exponent,  p = clip((t - begin) / (end - begin), 0, 1)."""

    end: int = field(kw_only=True)
    begin: int = field(default=0, kw_only=True)
    every: int = field(default=100, kw_only=True)
    initial: float = field(default=0.0, kw_only=True)

    exponent: ClassVar[int]

    def __post_init__(self) -> None:
        _check_steps(begin=self.begin, end=self.end, every=self.every)
        _check_span(self.begin, self.end)
        if self.every < 1:
            raise ValueError(f"every must be at least 1 step, got {self.every}")

    def __call__(self, step: int) -> float:
        progress = min(max((step - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return float(self.final + (self.initial - self.final) * (1.0 - progress) ** self.exponent)

    @property
    def last(self) -> int:
        """``end``."""
        return self.end

    def due(self, step: int) -> bool:
        """True at max(begin, every), then each ``every`` steps until ``end``, and at ``end`` itself."""
        first = max(self.begin, self.every)
        on_grid = step >= first and (step - first) % self.every == 0
        return self.begin <= step <= self.end and (on_grid or step == self.end)


@dataclass(frozen=True)
class Cubic(_Ramp):
    """The gradual schedule of Zhu & Gupta 2017 (arXiv 1710.01878, eq. 1): steep first, flat at the end.

    value(t) = final + (initial - final) * (1 - p)^3,  p = clip((t - begin) / (end - begin), 0, 1)

    >>> Cubic(0.9, begin=0, end=100)(50)
    0.7875

    Args:
        final: The value at ``end`` and later.
        end: The optimizer step at which the value is final, and the last at which masks are recomputed.
        begin: The optimizer step up to which the value is initial.
        every: The number of optimizer steps between mask updates.
        initial: The value at first.

    Raises:
        ValueError: Unless 0 <= begin < end and every >= 1.
    """

    exponent: ClassVar[int] = 3


@dataclass(frozen=True)
class AveragedCubic(Cubic):
    """`Cubic` followed by a moving average, as Gale et al. 2019 (their code) raised the coefficient of a penalty.

    average(t) = (1 - decay) * value(t) + decay * average(t - 1), beginning with ``initial`` before step 0: about nine
    steps behind for decay 0.9. It is computed from the schedule alone, so that a resumed run needs no memory of it.

    Args:
        decay: How much of the average of the step before stays, in [0, 1).

    Raises:
        ValueError: Unless 0 <= begin < end, every >= 1 and 0 <= decay < 1.
    """

    decay: float = field(default=0.9, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {self.decay}")

    def __call__(self, step: int) -> float:
        """The average at the step."""
        weights = _decaying(self.decay)
        progress = (step - np.arange(len(weights)) - self.begin) / (self.end - self.begin)
        values = self.final + (self.initial - self.final) * (1.0 - progress.clip(0.0, 1.0)) ** self.exponent
        return float(weights @ values)


@cache
def _decaying(decay: float) -> npt.NDArray[np.float64]:
    """(1 - decay) * decay^k, k = 0, 1 ... until what is left of their sum, which is 1, is below 1e-17."""
    count = 1 + math.ceil(math.log(1e-17) / math.log(decay)) if decay else 1
    weights: npt.NDArray[np.float64] = (1 - decay) * np.power(float(decay), np.arange(count))
    return weights


@dataclass(frozen=True)
class Linear(_Ramp):
    """A straight line from ``initial`` at ``begin`` to ``final`` at ``end``; constant outside.

    >>> Linear(0.9, begin=0, end=100)(50)
    0.45

    Args:
        final: The value at ``end`` and later.
        end: The optimizer step at which the value is final, and the last at which masks are recomputed.
        begin: The optimizer step up to which the value is initial.
        every: The number of optimizer steps between mask updates.
        initial: The value at first.

    Raises:
        ValueError: Unless 0 <= begin < end and every >= 1.
    """

    exponent: ClassVar[int] = 1


@dataclass(frozen=True)
class Constant(Schedule):
    """``final`` at every step. Masks are computed before training, and each ``every`` steps until ``stop`` where given.

    Args:
        every: The number of optimizer steps between mask updates; None for no update in training.
        stop: The last optimizer step at which masks may be recomputed; None for no end.

    Raises:
        ValueError: If ``every`` is below 1, or ``stop`` comes before the first of these steps or without ``every``.
    """

    every: int | None = field(default=None, kw_only=True)
    stop: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_steps(every=self.every, stop=self.stop)
        if self.every is not None and self.every < 1:
            raise ValueError(f"every must be at least 1 step, got {self.every}")
        if self.stop is not None and (self.every is None or self.stop < self.every):
            raise ValueError(
                f"stop={self.stop} ends updates that every={self.every} does not begin; give every <= stop"
            )

    def __call__(self, step: int) -> float:
        """``final``."""
        return self.final

    @property
    def last(self) -> int | None:
        """The last multiple of ``every`` up to ``stop``; 0 without ``every``."""
        if self.every is None:
            return 0
        return None if self.stop is None else self.stop - self.stop % self.every

    def due(self, step: int) -> bool:
        """True before training, and each ``every`` steps until ``stop`` where given."""
        goes_on = self.stop is None or step <= self.stop
        return step == 0 or (self.every is not None and step % self.every == 0 and goes_on)


@dataclass(frozen=True)
class OneShot(Schedule):
    """0 until step ``at``, then ``final``: masks are computed once.

    Args:
        at: The optimizer step at which masks are computed; 0 prunes inside `sparsify`.

    Raises:
        ValueError: If ``at`` is negative.
    """

    at: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        _check_steps(at=self.at)
        if self.at < 0:
            raise ValueError(f"at must be a step >= 0, got {self.at}")

    def __call__(self, step: int) -> float:
        """0 before ``at``, ``final`` from then on."""
        return self.final if step >= self.at else 0.0

    @property
    def last(self) -> int:
        """``at``."""
        return self.at

    def due(self, step: int) -> bool:
        """True at ``at`` only."""
        return step == self.at


@dataclass(frozen=True)
class Phases(Schedule):
    """``final`` and 0 by turns, and ``final`` from ``end`` on: sparse and dense phases of training.

    The first sparse phase begins at ``begin``; sparse and dense phases follow each other for as long as a whole dense
    phase comes before ``end``. AC/DC (Peste et al. 2021, arXiv 2106.12379) prunes at the epochs 10, 20 ... 70 and 85 of
    100, and releases the weights at 15, 25 ... 75:

    >>> [epoch for epoch in range(100) if Phases(0.9, begin=10, end=85, sparse=5, dense=5).due(epoch)]
    [10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 85]

    Args:
        final: The value of the sparse phases.
        end: The optimizer step at which the last sparse phase begins, which does not end.
        begin: The optimizer step at which the first one begins.
        sparse: The steps of a sparse phase.
        dense: The steps of a dense phase; the last one may be longer.

    Raises:
        ValueError: Unless 0 <= begin < end, and sparse and dense are at least 1.
    """

    end: int = field(kw_only=True)
    begin: int = field(kw_only=True)
    sparse: int = field(kw_only=True)
    dense: int = field(kw_only=True)

    def __post_init__(self) -> None:
        _check_steps(begin=self.begin, end=self.end, sparse=self.sparse, dense=self.dense)
        _check_span(self.begin, self.end)
        if self.sparse < 1 or self.dense < 1:
            raise ValueError(f"phases must last at least 1 step, got sparse={self.sparse}, dense={self.dense}")

    def __call__(self, step: int) -> float:
        """``final`` in sparse phases, otherwise 0."""
        turn, done = divmod(step - self.begin, self.sparse + self.dense)
        in_turn = 0 <= turn < self._turns and done < self.sparse
        return self.final if in_turn or step >= self.end else 0.0

    @property
    def last(self) -> int:
        """``end``."""
        return self.end

    def due(self, step: int) -> bool:
        """True where a phase begins, but for the first dense one."""
        turn, done = divmod(step - self.begin, self.sparse + self.dense)
        return step == self.end or (0 <= turn < self._turns and done in (0, self.sparse))

    @property
    def _turns(self) -> int:
        """How many sparse phases have a dense one after them."""
        return (self.end - self.begin) // (self.sparse + self.dense)
