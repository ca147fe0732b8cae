"""The zeros of the layers of a run's finished model, as its result has them."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class LayerZeros(NamedTuple):
    """The zeros of one selected weight of the finished model."""

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzero: int
    sparsity: float


def read_layer(layer: Mapping[str, Any]) -> LayerZeros:
    """A layer from the JSON value of a result.json.

    Raises:
        KeyError: If something is missing.
        TypeError: If it is of another type.
        ValueError: If a count or the sparsity cannot be.
    """
    found = LayerZeros(layer["name"], tuple(layer["shape"]), layer["weights"], layer["nonzero"], layer["sparsity"])
    if not isinstance(found.name, str):
        raise TypeError(f"name must be text, got {found.name!r}")
    for name, value in (
        *(("shape", size) for size in found.shape),
        ("weights", found.weights),
        ("nonzero", found.nonzero),
    ):
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} must be whole and at least 0, got {value!r}")
    if type(found.sparsity) not in (int, float) or not 0 <= found.sparsity <= 1:
        raise ValueError(f"sparsity must be in [0, 1], got {found.sparsity!r}")
    return found
