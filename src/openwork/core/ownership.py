"""Which sparsifier holds a weight: a mark by module and name, since wrappers replace parameters.

The mark is kept beside the modules, so that neither copies nor files of the model carry it.
"""

import weakref
from collections.abc import Iterable
from itertools import pairwise

from torch import Tensor, nn

from openwork.core.selection import Site, Weight
from openwork.core.sharded import local

ADDRESSED = ("cpu", "cuda")
"""Devices on which the numbers of a tensor follow its address."""
_HELD: weakref.WeakKeyDictionary[nn.Module, dict[str, tuple[weakref.ref[object], str]]] = weakref.WeakKeyDictionary()

RANDOM = "_openwork_random"
"""The attribute of a module with random weights that holds these by the parameter's name; copies carry it."""


def hold(weights: Iterable[Weight], owner: object, technique: str) -> None:
    """Marks the weights as held by ``owner``, for as long as that exists.

    Args:
        weights: The weights.
        owner: The sparsifier.
        technique: Its technique, for the error that the next one gets.
    """
    for site in _sites(weights):
        _HELD.setdefault(site.module, {})[site.leaf] = weakref.ref(owner), technique


def release(weights: Iterable[Weight]) -> None:
    """Removes the marks of the weights."""
    for site in _sites(weights):
        _HELD.get(site.module, {}).pop(site.leaf, None)


def holder(module: nn.Module, leaf: str) -> str | None:
    """The technique whose sparsifier holds the module's parameter; None where none does, or it no longer exists."""
    owner, technique = _HELD.get(module, {}).get(leaf, (None, ""))
    return technique if owner is not None and owner() is not None else None


def refuse_held(weights: Iterable[Weight]) -> None:
    """Raises ValueError for a weight that another sparsifier holds."""
    for site in _sites(weights):
        if technique := holder(site.module, site.leaf):
            raise ValueError(
                f"{site.name} is being sparsified by {technique} already; call finalize() on that sparsifier first, "
                "or select other weights"
            )
        if site.leaf in site.module.__dict__.get(RANDOM, {}):
            raise ValueError(
                f"{site.name} is being sparsified as a random variable already; call finalize() on that sparsifier "
                "first, copy a model with finalized_copy(), or select other weights"
            )


def refuse_overlapping(weights: Iterable[Weight]) -> None:
    """Raises ValueError for two parameters in the same memory: each would be masked, and trained, for both.

    What is certain is refused: that two begin at the same place, or one where another without gaps lies. Columns of
    one tensor may be two parameters.
    """
    found = [(local(weight.parameter), weight.name) for weight in weights]
    # A process may hold no row of a sharded weight, at no place, and other devices have other kinds of addresses.
    places = sorted(
        (*_extent(tensor), name) for tensor, name in found if tensor.numel() and tensor.device.type in ADDRESSED
    )
    for (_, end, other), (begin, _, name) in pairwise(places):
        if begin < end:
            raise ValueError(
                f"{other} and {name} are two parameters in the same memory, which an optimizer would move twice; "
                "make them one parameter, as model.b.weight = model.a.weight does, or give one a clone()"
            )


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor's memory begins and ends; of one with gaps no more than its first number."""
    sizes = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    whole = 1
    for stride, size in sizes:
        if stride != whole:
            return tensor.data_ptr(), tensor.data_ptr() + tensor.element_size()
        whole *= size
    return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes


def _sites(weights: Iterable[Weight]) -> list[Site]:
    return [site for weight in weights for site in weight.sites]
