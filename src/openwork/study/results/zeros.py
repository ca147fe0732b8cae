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
        ValueError: If something is missing, of another type, or cannot be; names the layer.
    """
    if not isinstance(layer, Mapping):
        raise ValueError(f"one must be an object, got {layer!r}")
    if missing := [key for key in LayerZeros._fields if key not in layer]:
        raise ValueError(f"{layer.get('name', 'one')} has no {', '.join(missing)}")
    try:
        return _read(layer)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{layer['name']}: {error}") from error


def _read(layer: Mapping[str, Any]) -> LayerZeros:
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
    if found.nonzero > found.weights:
        raise ValueError(f"nonzero must be at most its {found.weights} weights, got {found.nonzero}")
    if type(found.sparsity) not in (int, float) or not 0 <= found.sparsity <= 1:
        raise ValueError(f"sparsity must be in [0, 1], got {found.sparsity!r}")
    return found
