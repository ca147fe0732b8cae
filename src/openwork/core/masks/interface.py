"""Whether a technique, as its author wrote it, is one that masks can ask: its parts, its methods, what they take."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from openwork.core.masks.allocations import Allocation
from openwork.core.masks.criterion import Criterion
from openwork.core.masks.evidence import Evidence
from openwork.core.masks.patterns import Pattern

if TYPE_CHECKING:
    from openwork.core.masks.technique import MaskTechnique

_VIEW = "; read view.weight, view.mask, view.evidence, view.step and view.uniform() instead"


def check_parts(technique: MaskTechnique) -> None:
    """Raises TypeError for a criterion, an allocation or a pattern that is none, such as its class or its name."""
    for name, kind, example in (
        ("criterion", Criterion, "Threshold()"),
        ("allocation", Allocation, "ERK()"),
        ("pattern", Pattern, "NM(2, 4)"),
    ):
        if not isinstance(value := getattr(technique, name), kind):
            raise TypeError(f"{name} must be an instance of {kind.__name__} such as {example}, got {value!r}")


def check_methods(technique: MaskTechnique, base: type) -> None:
    """Raises TypeError for methods that are missing, that nothing would call, or that take others than the base's."""
    evidence, name = technique.evidence, type(technique).__name__
    if not isinstance(evidence, Evidence):
        raise TypeError(
            f"{name}.evidence must be an instance of Evidence such as Evidence(gradients='at updates'), got "
            f"{evidence!r}"
        )
    kind = type(evidence).__name__
    for method, asked, does, cure in (
        ("growth", technique.regrows, "regrows weights", "set regrows = True in the class"),
        ("solve", technique.solves, "solves for weights", "set solves = True in the class"),
    ):
        _check_called(technique, base, method, asked, does, cure)
    if evidence.gradients == "never":
        _check_called(evidence, Evidence, "gradient", False, "", f"pass {kind}(gradients='at updates') or 'every step'")
    _check_called(evidence, Evidence, "input", evidence.inputs, "looks at inputs", f"pass {kind}(inputs=True)")
    measures, does = evidence.returns != "nothing", f"needs {evidence.returns}"
    _check_called(evidence, Evidence, "measure", measures, does, f"pass {kind}(returns='a loss') or 'outputs'")
    for method in ("scores", "growth", "exchange", "restarts", "solve"):
        _check_arguments(technique, base, method)
    for method in ("begin", "gradient", "input", "measure"):
        _check_arguments(evidence, Evidence, method)


def _check_called(owner: object, base: type, method: str, asked: bool, does: str, cure: str) -> None:
    """Raises TypeError where the owner has no method of its own that is called, or one that is not."""
    name = type(owner).__name__
    own = _is_own(owner, base, method)
    if asked and not own:
        wanted = ", ".join(_arguments(base, method)[1:])
        raise TypeError(f"{name} {does} and has no {method}; give it a method {method}({wanted})")
    if own and not asked:
        raise TypeError(f"{name} has a method {method} that nothing calls; {cure}")


def _check_arguments(owner: object, base: type, method: str) -> None:
    if getattr(getattr(owner, method), "__func__", None) is getattr(base, method):
        return  # the base's own
    takes, wanted = _arguments(owner, method), _arguments(base, method)[1:]
    if len(takes) != len(wanted):
        raise TypeError(
            f"{type(owner).__name__}.{method} takes ({', '.join(takes)}) and must take ({', '.join(wanted)})"
            f"{_VIEW if 'view' in wanted else ''}"
        )


def _is_own(owner: object, base: type, method: str) -> bool:
    return getattr(type(owner), method) is not getattr(base, method)


def _arguments(owner: object, method: str) -> list[str]:
    return list(inspect.signature(getattr(owner, method)).parameters)
