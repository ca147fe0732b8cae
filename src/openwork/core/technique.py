"""Techniques: immutable values that say what is sparsified and when. All state lives in the `Sparsifier`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from openwork.core.mechanism import Mechanism
from openwork.core.schedules import Schedule
from openwork.core.selection import Weight


@dataclass(frozen=True)
class Technique(ABC):
    """A paper's method with its settings: hashable, printable, equal when the settings are equal."""

    varying: ClassVar[tuple[str, ...]] = ()
    """The fields whose values may differ between models that are trained as one (`openwork.core.stacked`)."""

    @property
    def threshold(self) -> float | None:
        """The threshold at which evaluation makes weights zero; None where it cannot be changed after training."""
        return None

    def fitting(self, weights: list[Weight]) -> tuple[list[Weight], dict[str, str]]:
        """The weights that the technique can make sparse, by default all, and why the others stay dense, by name.

        Raises:
            ValueError: If it can make none of them sparse.
        """
        return weights, {}

    @abstractmethod
    def mechanism(self, weights: list[Weight], *, seed: int, keep_zeros: bool) -> Mechanism:
        """A mechanism for these weights, which `Mechanism.start` then makes sparse.

        Args:
            weights: The selected weights, tied ones once.
            seed: The seed of all that is random.
            keep_zeros: Whether the zeros that the weights hold stay zero.

        Raises:
            ValueError: If the technique cannot work with these weights; nothing has changed.
        """


def check_technique(technique: object) -> Technique:
    """``technique`` itself.

    Raises:
        TypeError: If it is no instance of a technique.
    """
    if not isinstance(technique, Technique):
        raise TypeError(f"expected a technique such as GradualMagnitude(...), got {technique!r}; pass an instance")
    return technique


def check_schedule(name: str, value: object, example: str) -> None:
    """Raises TypeError, which names a field and an ``example``, if its ``value`` is no schedule, or none of numbers."""
    if not isinstance(value, Schedule):
        raise TypeError(f"{name} must be a schedule such as {example}({value!r}), got {value!r}")
    if not hasattr(value.final, "__float__"):
        raise TypeError(f"{name} must be a schedule of numbers such as 0.9, and ends at {value.final!r}")
