"""The rows of the matrix that are layers: the same claim for each."""

from functools import partial

from .cases import LAYERS, Case
from .libraries import Library
from .training import Row, Training

CLAIM = (
    "after every optimizer step from the target on, each weight of the layer has its zeros; the finished model "
    "computes what the trained one did, and the dense model loads its state_dict and computes the same"
)


def becomes_sparse(library: type[Library], case: Case) -> None:
    """Raises what is wrong with `CLAIM`."""
    Training(library, case).run().finish()


def _check(name: str, library: type[Library]) -> None:
    becomes_sparse(library, LAYERS[name])


ROWS = [Row(name, "layer", CLAIM, partial(_check, name)) for name in LAYERS]
