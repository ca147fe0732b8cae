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
    """
    return LayerZeros(layer["name"], tuple(layer["shape"]), layer["weights"], layer["nonzero"], layer["sparsity"])
