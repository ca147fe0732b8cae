"""A weight of the study's model, and the variables of a checkpoint from which it comes."""

from collections.abc import Sequence
from dataclasses import dataclass

DENSE = (1, 0)
"""TensorFlow's order of a matrix's axes, (in, out), in ours."""
KERNEL = (3, 2, 0, 1)
"""TensorFlow's order of a convolution's axes, (height, width, in, out), in ours."""


@dataclass(frozen=True)
class Target:
    """A weight of the model.

    Args:
        key: Its name in the model's state.
        names: The variables that it is made of, one after the other; empty if the checkpoint has none.
        axes: Which of TensorFlow's axes comes first, second and so on; empty where the order is the same.
        sparse: Whether the techniques make it sparse.
    """

    key: str
    names: tuple[str, ...]
    axes: tuple[int, ...] = ()
    sparse: bool = False


@dataclass(frozen=True)
class Mapping:
    """How a checkpoint becomes the state of a model.

    Args:
        targets: All its weights.
        notes: What is to be said beside them.
        moved: Key -> the two rows that change places.
    """

    targets: Sequence[Target]
    notes: tuple[str, ...] = ()
    moved: tuple[tuple[str, int, int], ...] = ()


def target(key: str, name: str | None, axes: tuple[int, ...] = (), *, sparse: bool = False) -> Target:
    """A weight that is one variable, or none.

    Args:
        key: Its name in the model's state.
        name: The variable.
        axes: As `Target` has it.
        sparse: As `Target` has it.
    """
    return Target(key, (name,) if name else (), axes, sparse)
