"""The classes of modules with random weights, each made from the module's own."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from openwork.core.parameters.layers import FORWARDS, draw

_MADE: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}
PLAIN: dict[type[nn.Module], type[nn.Module]] = {}
"""A class that was made here -> the class that it was made from."""


def switched(plain: type[nn.Module], leaves: tuple[str, ...]) -> type[nn.Module]:
    """The subclass of ``plain`` whose parameters ``leaves`` are random variables."""
    if (plain, leaves) in _MADE:
        return _MADE[plain, leaves]

    def reduce(module: nn.Module, protocol: int) -> tuple[Any, ...]:
        # pickle does not find classes that are made here
        return _blank, (plain, leaves), object.__reduce_ex__(module, 2)[2]

    recurrent = issubclass(plain, nn.RNNBase | nn.RNNCellBase)
    forward = FORWARDS.get(plain.forward) if recurrent or "weight" in leaves else None
    members: dict[str, Any] = {"forward": forward or _drawing_once(plain.forward), "__reduce_ex__": reduce}
    if forward is None or not issubclass(plain, nn.RNNBase):  # RNNs keep references to what their attributes give
        members |= {leaf: property(_reader(leaf)) for leaf in leaves}
    made = type(f"Reparameterized{plain.__name__}", (plain,), members)
    _MADE[plain, leaves], PLAIN[made] = made, plain
    return made


def _blank(plain: type[nn.Module], leaves: tuple[str, ...]) -> nn.Module:
    """A module without state, for pickle and deepcopy to fill."""
    kind = switched(plain, leaves)
    return kind.__new__(kind)


def _reader(leaf: str) -> Callable[[nn.Module], Tensor]:
    """What reading the attribute ``leaf`` gives."""

    def read(module: nn.Module) -> Tensor:
        drawn: dict[str, Tensor] | None = module.__dict__.get("_drawn")
        if drawn is None:
            return draw(module, leaf)
        if leaf not in drawn:
            drawn[leaf] = draw(module, leaf)
        return drawn[leaf]

    return read


def _drawing_once(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The forward ``plain``, during which each random weight is drawn once, however often it is read."""

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if "_drawn" in module.__dict__:  # the module calls itself
            return plain(module, *args, **kwargs)
        module.__dict__["_drawn"] = {}
        try:
            return plain(module, *args, **kwargs)
        finally:
            del module.__dict__["_drawn"]

    return forward
