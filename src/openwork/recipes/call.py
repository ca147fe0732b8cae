"""What a modifier becomes: a call of openwork as text, or the reason why there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEPS = "steps_per_epoch"
"""The variable of the printed code by which epochs become optimizer steps."""


@dataclass(frozen=True)
class Call:
    """A call of openwork.

    Args:
        technique: The technique, as Python.
        select: Which weights, as Python; None for the default.
        once: Whether a trained model is pruned at once, instead of while it trains.
        options: Further arguments of the call, as Python.
        attach: What `Sparsifier.attach` takes, as Python.
        notes: What changes, in sentences.
    """

    technique: str
    select: str | None = None
    once: bool = False
    options: tuple[str, ...] = ()
    attach: str = "optimizer"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Left:
    """A modifier that becomes no call.

    Args:
        reason: Why, in a sentence.
        missing: Whether something of the recipe is lost; otherwise it belongs to the training loop.
    """

    reason: str
    missing: bool = True


def expression(name: str, *positional: str, **named: str) -> str:
    """A call of a public name of openwork, as Python."""
    arguments = [*positional, *(f"{key}={value}" for key, value in named.items())]
    return f"ow.{name}({', '.join(arguments)})"


def steps(epochs: float, *, least: int = 0) -> str:
    """A number of optimizer steps, as Python that multiplies epochs by ``steps_per_epoch``."""
    if epochs <= 0:
        return str(least)
    text = STEPS if epochs == 1 else f"{epochs:.10g} * {STEPS}"
    text = text if float(epochs).is_integer() else f"round({text})"
    return f"max({least}, {text})" if least and not float(epochs).is_integer() else text


def number(kind: str, fields: Mapping[str, Any], *names: str, default: float | None = None) -> float:
    """The number under the first of the names that is there.

    Raises:
        ValueError: If there is none and no default, or it is no number.
    """
    for name in names:
        if name not in fields:
            continue
        value = fields[name]
        try:  # YAML takes 1e-7, without a point, for a text
            if not isinstance(value, bool):
                return float(value)
        except (TypeError, ValueError):
            pass
        raise ValueError(f"{kind} has {name}: {str(value)[:60]!r}, which is no number; write the number")
    if default is None:
        raise ValueError(f"{kind} has no {names[0]}, which it needs; add it to the recipe")
    return default


def sparsity(kind: str, fields: Mapping[str, Any], *names: str, default: float | None = None) -> float:
    """The same for a fraction of zeros in [0, 1)."""
    value = number(kind, fields, *names, default=default)
    if not 0 <= value < 1:
        raise ValueError(f"{kind} has {names[0]}: {value:g}, and a sparsity is in [0, 1); write a fraction")
    return value


def names_in(value: Any) -> list[str]:
    """A name or a list of names as a list."""
    several: Sequence[Any] = value if isinstance(value, list) else [] if value is None else [value]
    return [str(one) for one in several]


PRUNABLE = "ow.weights_of(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)"


def selection(targets: Sequence[str], ignored: Sequence[str] = ()) -> str | None:
    """Which weights names, regular expressions and classes of modules pick, as Python; None for the default.

    Args:
        targets: As SparseML's ``params`` or llm-compressor's ``targets``.
        ignored: As llm-compressor's ``ignore``.
    """
    if any(target in ("__ALL_PRUNABLE__", "__ALL__") for target in targets) or not targets:
        targets = ["Linear", "Conv1d", "Conv2d", "Conv3d"] if ignored else []
    elif list(targets) == ["Linear"] and not ignored:
        return "ow.weights_of(nn.Linear)"
    if not targets:
        return PRUNABLE
    return f"named({list(targets)!r}{f', {list(ignored)!r}' if ignored else ''})"
