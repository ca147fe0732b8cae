"""The classes of modules with random weights, each made from the module's own."""

from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from openwork.core.ownership import RANDOM
from openwork.core.parameters.layers import FORWARDS, draw
from openwork.core.parameters.sample import Sample, protected
from openwork.core.parameters.weight import Learned
from openwork.core.sharded import is_sharded

_MADE: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}
PLAIN: dict[type[nn.Module], type[nn.Module]] = {}
"""A class that was made here -> the class that it was made from."""
_WRAPPED: dict[type[nn.Module], type[nn.Module]] = {}
"""A subclass of a class that was made here -> the same subclass of the plain class."""
_DRAWN = "_openwork_drawn"
"""The attribute of a module that holds what its weights read as while its forward runs."""


def switched(plain: type[nn.Module], leaves: tuple[str, ...]) -> type[nn.Module]:
    """The subclass of ``plain`` whose parameters ``leaves`` are random variables."""
    if (plain, leaves) in _MADE:
        return _MADE[plain, leaves]

    def reduce(module: nn.Module, protocol: int) -> tuple[Any, ...]:
        # pickle does not find classes that are made here
        return _blank, (plain, leaves), object.__reduce_ex__(module, 2)[2]

    recurrent = issubclass(plain, nn.RNNBase | nn.RNNCellBase)
    forward = FORWARDS.get(plain.forward) if recurrent or "weight" in leaves else None
    members: dict[str, Any] = {
        "forward": forward or _drawing_once(plain.forward),
        "__reduce_ex__": reduce,
        "__prepare_scriptable__": _refuse_script,
        "__setattr__": _refusing_samples(plain.__setattr__),
    }
    members["__module__"] = plain.__module__  # by which fx knows torch's own layers, which it does not look into
    if forward is None or not issubclass(plain, nn.RNNBase):  # RNNs keep references to what their attributes give
        members |= {leaf: property(_reader(leaf)) for leaf in leaves}
    for name in ("reset_parameters", "_reset_parameters"):
        if method := getattr(plain, name, None):
            members[name] = _on_means(method)
    for container, methods in _CONTAINERS.items():
        if issubclass(plain, container):
            members |= {name: m for name, m in methods.items() if getattr(plain, name) is getattr(container, name)}
    made = type(f"Reparameterized{plain.__name__}", (plain,), members)
    _MADE[plain, leaves], PLAIN[made] = made, plain
    return made


def plain_of(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class that a module of this class gets back; None where nothing was made here.

    ``fully_shard`` makes a subclass of a module's class; what it adds is kept.
    """
    if kind in PLAIN or not any(base in PLAIN for base in kind.__bases__):
        return PLAIN.get(kind)
    bases = tuple(PLAIN.get(base, base) for base in kind.__bases__)
    members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return _WRAPPED.setdefault(kind, type(f"FSDP{bases[-1].__name__}", bases, members))


def _blank(plain: type[nn.Module], leaves: tuple[str, ...]) -> nn.Module:
    """A module without state, for pickle and deepcopy to fill."""
    kind = switched(plain, leaves)
    return kind.__new__(kind)


def _reader(leaf: str) -> Callable[[nn.Module], Tensor]:
    """What reading the attribute ``leaf`` gives."""

    def read(module: nn.Module) -> Tensor:
        parameter = module._parameters.get(leaf)
        if parameter is not None and is_sharded(parameter):
            return parameter  # nobody computes with a shard, but FSDP2 looks for its parameter here
        drawn: dict[str, Tensor] | None = module.__dict__.get(_DRAWN)
        if drawn is None:
            return _drawn(module, leaf)
        if leaf not in drawn:
            drawn[leaf] = _drawn(module, leaf)
        return drawn[leaf]

    return read


def _drawn(module: nn.Module, leaf: str) -> Tensor:
    values = draw(module, leaf)
    # Compiled code, and tensors that stand for others, as those of a FakeTensorMode or vmap, need their own types.
    inside = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(values)
    if inside or type(values) is not Tensor:
        return values
    return protected(values, module.__dict__[RANDOM][leaf].name)


def _drawing_once(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The forward ``plain``, during which each random weight is drawn once, however often it is read."""

    @wraps(plain)  # also for fx and for hosts that look at the signature
    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if _DRAWN in module.__dict__:  # the module calls itself
            return plain(module, *args, **kwargs)
        module.__dict__[_DRAWN] = {}
        try:
            return plain(module, *args, **kwargs)
        finally:
            del module.__dict__[_DRAWN]

    return forward


def _on_means(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The method ``plain``, to which weights read as their means, and which does not see what is learned besides."""

    @wraps(plain)
    def reset(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        hidden = {name: child for name, child in module._modules.items() if isinstance(child, Learned)}
        module.__dict__[_DRAWN] = {leaf: module._parameters[leaf] for leaf in module.__dict__.get(RANDOM, ())}
        for name in hidden:
            del module._modules[name]
        try:
            return plain(module, *args, **kwargs)
        finally:
            module.__dict__.pop(_DRAWN, None)
            module._modules.update(hidden)

    return reset


def _refusing_samples(plain: Callable[..., None]) -> Callable[..., None]:
    """``plain``, the method that sets an attribute, which does not tie a random weight to a sample of another one."""

    def set_attribute(module: nn.Module, name: str, value: object) -> None:
        random = module.__dict__.get(RANDOM, {})
        if name in random and isinstance(value, Sample):
            raise ValueError(
                f"{random[name].name} is a random variable, and cannot be tied to a sample of one; tie weights before "
                "sparsify or after finalize"
            )
        if name in random and isinstance(value, nn.Parameter):
            module._parameters[name] = value  # as fully_shard does where nobody overrides this: it asks for no sample
        else:
            plain(module, name, value)

    return set_attribute


def _refuse_script(module: nn.Module) -> NoReturn:
    name = next(iter(module.__dict__[RANDOM].values())).name
    raise ValueError(
        f"{name} is a random variable, which torch.jit.script cannot compile; script the sparsifier's finalized_copy() "
        "instead, or use torch.compile"
    )


def _children(module: nn.Module) -> dict[str, nn.Module | None]:
    """A container's modules without what is learned besides its own weights."""
    return {name: child for name, child in module._modules.items() if not isinstance(child, Learned)}


_SEQUENCE: dict[str, Callable[..., Any]] = {
    "__iter__": lambda module: iter(_children(module).values()),
    "__len__": lambda module: len(_children(module)),
}
_MAPPING: dict[str, Callable[..., Any]] = {
    "__iter__": lambda module: iter(_children(module)),
    "__len__": lambda module: len(_children(module)),
    "__contains__": lambda module, name: name in _children(module),
    "keys": lambda module: _children(module).keys(),
    "items": lambda module: _children(module).items(),
    "values": lambda module: _children(module).values(),
}
_CONTAINERS: dict[type[nn.Module], dict[str, Callable[..., Any]]] = {
    nn.Sequential: _SEQUENCE,
    nn.ModuleList: _SEQUENCE,
    nn.ModuleDict: _MAPPING,
}
