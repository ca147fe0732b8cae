"""Whether Python values are the same: what models are besides their tensors, and what tasks keep.

A stack computes with the tensors of all models and the Python of the first one, so that theirs must be the same.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from itertools import chain, zip_longest
from operator import attrgetter, itemgetter, methodcaller
from random import Random
from types import BuiltinFunctionType, CellType, FunctionType, MemberDescriptorType, MethodType
from typing import Any
from weakref import ref

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = {bool, int, float, complex, str, bytes, type(None), BuiltinFunctionType, torch.dtype, torch.device}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_TORCHS = frozenset(vars(nn.Module()))
"""What every module has: tensors and modules, which are compared by their names, hooks, and its training mode."""
_IDENTITY: Any = object.__eq__
_OWN = frozenset({"__dict__", "__weakref__", "__doc__", "__slotnames__", "__annotations_cache__"})
"""What every class has for itself, or Python keeps there once an object was copied or an annotation was read."""

Seen = dict[tuple[int, int], tuple[Any, Any]]


def check_same(models: Sequence[nn.Module], *, trained: bool = False) -> None:
    """Checks that the models differ in nothing but the values of their parameters and buffers.

    What openwork has added to them for random weights is left out.

    Args:
        models: The models.
        trained: Whether the first one has computed for the others, and so may have kept what they have not made yet.

    Raises:
        ValueError: If one has other modules or attributes than the first one; names them.
    """
    wanted, places = _modules(models[0]), _places(models[0])
    attributes = [(name, module, _attributes(module)) for name, module in wanted.items()]
    for number, model in enumerate(models[1:], 1):
        modules = _modules(model)
        if modules.keys() != wanted.keys():
            raise ValueError(_other(min(modules.keys() ^ wanted.keys()), number))
        if not trained and places != (others := _places(model)):
            differing = (one for one, other in zip_longest(places, others) if one != other)
            raise ValueError(_other(str((next(differing) or ("",))[0]), number))
        pairs: list[tuple[Any, Any]] = [(one, modules[name]) for name, one in wanted.items()]
        pairs += [pair for one, other in pairs for pair in zip(_tensors(one), _tensors(other), strict=False)]
        seen: Seen = {(id(one), id(other)): (one, other) for one, other in pairs}
        for name, one, own in attributes:
            other = modules[name]
            if not same(type(one), type(other), seen) or not _all_same(_hooks(one), _hooks(other), seen):
                raise ValueError(_other(name, number))
            theirs = _attributes(other)
            for key in own if own.keys() == theirs.keys() else own.keys() | theirs.keys():
                mine, its = own.get(key), theirs.get(key)
                if not (trained and (mine is None or its is None)) and not same(mine, its, seen):
                    raise ValueError(_other(f"{name}.{key}", number))


def same(one: Any, other: Any, seen: Seen | None = None) -> bool:
    """Whether two values are the same; what cannot be compared is taken to be.

    Functions are compared by their code and what it was given, classes that are made anew each time by their members.

    Args:
        one: A value.
        other: Another one.
        seen: Pairs that are the same or are being compared, by their ids.
    """
    kind, seen = type(one), {} if seen is None else seen
    if one is other or (id(one), id(other)) in seen:
        return True
    if kind in _PLAIN:
        return kind is type(other) and bool(one == other or (one != one and other != other))  # or both are NaN
    seen[id(one), id(other)] = one, other  # which keeps their ids their own
    if not same(kind, type(other), seen):
        return False
    parts, others = _parts(one), _parts(other)
    if parts is not None and others is not None:
        return _all_same(parts, others, seen)
    try:
        if isinstance(one, Tensor):
            if (one.dtype, one.device, one.layout) != (other.dtype, other.device, other.layout):
                return False
            dense = [each.detach() if each.layout == torch.strided else each.to_dense() for each in (one, other)]
            return torch.equal(*dense) and same(vars(one), vars(other), seen)
        return kind.__eq__ is _IDENTITY or bool(one == other)
    except Exception:  # somebody else's class, or layout
        return True


def _parts(value: Any) -> Sequence[Any] | None:
    """What the value consists of; None where it is compared as a whole."""
    match value:
        case nn.Module():  # which its model does not know
            return [_attributes(value), *_hooks(value), value._parameters, value._buffers, value._modules]
        case Tensor():
            return None
        case torch.Generator():
            return [value.get_state()]
        case np.random.Generator():
            return [value.bit_generator.state]
        case Random():
            return [value.getstate()]
        case np.ndarray():
            return [value.dtype.str, value.shape, value.tobytes()]
        case list() | tuple() | deque():
            return [*value, *_kept(value)]
        case Mapping():
            return [*value.keys(), *value.values(), getattr(value, "default_factory", None), *_kept(value)]
        case FunctionType():
            given = [value.__defaults__, value.__kwdefaults__, value.__closure__]
            return [value.__code__, *given, vars(value)]
        case attrgetter() | itemgetter() | methodcaller():
            return value.__reduce__()
        case CellType():
            return [] if value == CellType() else [value.cell_contents]
        case MethodType():
            return [value.__func__, value.__self__]
        case partial():
            return [value.func, value.args, value.keywords]
        case property():
            return [value.fget, value.fset]
        case staticmethod() | classmethod():
            return [value.__func__]
        case ref():
            return [value()]
        case type():
            own = {name: each for name, each in vars(value).items() if name not in _OWN}
            return [value.__qualname__, value.__bases__, own]
    return _kept(value) or None


def _kept(value: Any) -> list[dict[str, Any]]:
    """What Python code has given an object: its attributes, in its dictionary and in slots."""
    kind = type(value)
    kept = [vars(value)] if hasattr(value, "__dict__") else []
    if kind.__eq__ is _IDENTITY or is_dataclass(kind):  # others may keep there what they have computed, as paths do
        bases = [vars(base) for base in kind.__mro__ if "__slots__" in vars(base)]
        slots = [(name, each) for members in bases for name, each in members.items()]
        names = [name for name, each in slots if isinstance(each, MemberDescriptorType) and hasattr(value, name)]
        kept += [{name: getattr(value, name) for name in names}] if names else []
    return kept


def _all_same(some: Sequence[Any], others: Sequence[Any], seen: Seen) -> bool:
    return len(some) == len(others) and all(same(one, other, seen) for one, other in zip(some, others, strict=True))


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by their names, without those of random weights."""
    return {name: module for name, module in model.named_modules() if "reparam" not in name.split(".")}


def _places(model: nn.Module) -> list[tuple[str, int]]:
    """All names of modules and tensors, in their order, each with the number of what it names.

    A container calls its modules in their order, and what has several names is compared by the first one alone.
    """
    numbers: dict[int, int] = {}
    found = []
    for name, module in model.named_modules(remove_duplicate=False):
        if "reparam" not in name.split("."):
            here: Iterable[tuple[str, Any]] = [("", module), *module._parameters.items(), *module._buffers.items()]
            found += [(f"{name}.{key}", numbers.setdefault(id(each), len(numbers))) for key, each in here]
    return found


def _tensors(module: nn.Module) -> list[Tensor | None]:
    return [*module._parameters.values(), *module._buffers.values()]


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What the module's own code has given it, besides tensors and modules."""
    found = vars(module)
    return {name: found[name] for name in found if name not in _TORCHS and not name.startswith("_openwork_")}


def _hooks(module: nn.Module) -> list[Any]:
    """What is called whenever the module is."""
    found = vars(module)
    return list(chain.from_iterable(found[name].values() for name in _HOOKS if found[name]))


def _other(place: str, number: int) -> str:
    place = place.strip(".") or "the class"
    return (
        f"{place} of model {number} is not that of the first one, whose Python computes for all; a number that is to "
        "differ can be a buffer"
    )
