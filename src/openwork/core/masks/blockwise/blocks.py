"""Blocks: the parts of a model that are pruned one after another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn

from openwork.core.masks.inputs import caller_of
from openwork.core.masks.shown import are_multiplied
from openwork.core.names import few, nearest
from openwork.core.selection import Site, Weight


@dataclass(frozen=True)
class Block:
    """A module whose weights are pruned together.

    Args:
        name: Its name in the model.
        module: The module.
        weights: The selected weights in it.
    """

    name: str
    module: nn.Module
    weights: tuple[Weight, ...]


def is_expert(weight: Weight) -> bool:
    """Whether it is an expert's, or holds those of several: a router may send it nothing."""
    return are_multiplied(weight) or "expert" in weight.name.lower()


def mixture_of(weight: Weight) -> str:
    """The name of the module around the experts, which gets all positions."""
    *parts, _ = weight.name.split(".")
    place = next((place for place, part in enumerate(parts) if "expert" in part.lower()), len(parts) - 1)
    return ".".join(parts[:place])


def find_blocks(model: nn.Module, weights: Sequence[Weight], names: str | Iterable[str] | None) -> list[Block]:
    """The blocks that hold the weights, in the model's order.

    Args:
        model: The model.
        weights: The selected weights that are to be pruned.
        names: Names of modules or shell patterns for them; None finds the repeated blocks of the model where these hold
            half of the layers or more, and otherwise takes layer for layer.

    Raises:
        TypeError: If ``names`` is something else.
        ValueError: If a name fits no module, a block lies inside of another or cannot be called, or a weight lies in
            none of those that are named.
    """
    if names is None:
        found = _repeated(model, weights)
        if 2 * sum(len(block.weights) for block in found) < len(weights):  # not by size: heads may be larger than all
            found = _layers(model, weights)
        return _each_once(found)
    if isinstance(names, str) or not isinstance(names, Iterable):
        names = [names]  # what is no text is refused below
    found = _named(model, weights, list(names))
    inside = {weight.name for block in found for weight in block.weights}
    if missed := [weight.name for weight in weights if weight.name not in inside]:
        raise ValueError(
            f"{few(missed)} {'lies' if len(missed) == 1 else 'lie'} in none of the blocks; name a block for "
            f"{'it' if len(missed) == 1 else 'them'}, leave out blocks, or select less, as with "
            f"select=excluding({missed[0]!r})"
        )
    return _each_once(found)


def _each_once(blocks: Sequence[Block]) -> list[Block]:
    """The blocks with each weight in the first one that holds it, as several may share a module; without empty ones."""
    owners: dict[str, str] = {}
    for block in blocks:
        for weight in block.weights:
            owners.setdefault(weight.name, block.name)
    own = [replace(b, weights=tuple(w for w in b.weights if owners[w.name] == b.name)) for b in blocks]
    return [block for block in own if block.weights]


def _repeated(model: nn.Module, weights: Sequence[Weight]) -> list[Block]:
    """The parts of the outermost lists and sequences in which a kind of module is repeated."""
    found: list[Block] = []

    def look(prefix: str, module: nn.Module) -> None:
        parts = [_block(f"{prefix}{name}", part, weights) for name, part in module.named_children()]
        parts = [part for part in parts if part.weights]
        kinds = [type(part.module) for part in parts]
        plain = any(not [*part.module.children()] for part in parts)
        repeats = len(set(kinds)) < len(kinds) and (len(set(kinds)) == 1 or not plain)
        callable_parts = not any(isinstance(part.module, nn.ModuleList | nn.ModuleDict) for part in parts)
        experts = "expert" in prefix.lower()  # which a router may pass by
        if isinstance(module, nn.ModuleList | nn.Sequential) and repeats and callable_parts and not experts:
            found.extend(parts)
            return
        for part in parts:
            look(f"{part.name}.", part.module)

    look("", model)
    return found


def _layers(model: nn.Module, weights: Sequence[Weight]) -> list[Block]:
    """The module of each weight, or the mixture that it lies in."""
    mixtures = {f"{mixture_of(weight)}." for weight in weights if is_expert(weight)} - {"."}
    names = dict.fromkeys(
        next((each[:-1] for each in mixtures if weight.sites[0].name.startswith(each)), _called(weight.sites[0]))
        for weight in weights
    )
    return [_block(name, model.get_submodule(name), weights) for name in names]


def _called(site: Site) -> str:
    """The name of the module whose calls show a weight's inputs: an attention never calls its `out_proj`."""
    own = site.name.rpartition(".")[0]
    return own if caller_of(site) is site.module else own.rpartition(".")[0]


def _named(model: nn.Module, weights: Sequence[Weight], patterns: list[str]) -> list[Block]:
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"blocks takes names of modules, such as 'encoder.layer.*', got {patterns!r}")
    modules = dict(model.named_modules())
    fitting: dict[str, nn.Module] = {}
    for pattern in patterns:
        # A star stands for one part of a name: layer.* are the layers, and not what is in them.
        fit = {n: m for n, m in modules.items() if n.count(".") == pattern.count(".") and fnmatchcase(n, pattern)}
        if not fit:
            raise ValueError(f"the block {pattern!r} fits no module; {nearest(pattern, modules)}")
        fitting |= fit
    for name, module in fitting.items():
        around = next((other for other in fitting if name.startswith(f"{other}.") or (not other and name)), None)
        if around is not None:
            raise ValueError(f"the block {name!r} lies inside of the block {around!r}; leave out one of them")
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            raise ValueError(f"the block {name!r} is a list of modules; name those in it, as with {name + '.*'!r}")
    blocks = [_block(name, modules[name], weights) for name in modules if name in fitting]
    return [block for block in blocks if block.weights]


def _block(name: str, module: nn.Module, weights: Sequence[Weight]) -> Block:
    inside = {id(each) for each in module.modules()}
    return Block(name, module, tuple(weight for weight in weights if id(weight.sites[0].module) in inside))
