"""Techniques: immutable values that say what is sparsified and when. All state lives in the `Sparsifier`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from openwork.core.mechanism import Mechanism
from openwork.core.schedules import Schedule
from openwork.core.selection import Weight


@dataclass(frozen=True)
class Technique(ABC):
    """A paper's method with its settings: hashable, printable, equal when the settings are equal."""

    @property
    def threshold(self) -> float | None:
        """At what evaluation makes weights zero, where it can be set again after training; None where it cannot."""
        return None

    def fitting(self, weights: list[Weight]) -> tuple[list[Weight], dict[str, str]]:
        """The weights that the technique can make sparse, and why the others stay dense, by name; by default all."""
        return weights, {}

    @abstractmethod
    def mechanism(self, weights: list[Weight], *, seed: int, keep_zeros: bool) -> Mechanism:
        """A mechanism for these weights, which `Mechanism.start` then makes sparse.

        Args:
            weights: The selected weights, tied ones once.
            seed: Of everything random.
            keep_zeros: Whether the zeros that the weights hold stay zero.

        Raises:
            ValueError: If the technique cannot work with these weights; nothing has been changed.

        """


def check_technique(technique: object) -> Technique:
    """``technique``, if it is one. Raises TypeError otherwise, for a class too."""
    if not isinstance(technique, Technique):
        raise TypeError(f"expected a technique such as GradualMagnitude(...), got {technique!r}; is it an instance?")
    return technique


def check_schedule(name: str, value: object, example: str) -> None:
    """Raises TypeError, with an example, where the field ``name`` is no schedule."""
    if not isinstance(value, Schedule):
        raise TypeError(f"{name} must be a schedule such as {example}({value!r}), got {value!r}")
