"""Techniques that prune at once, by the names that --technique, --pattern and --allocation take."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openwork.core.masks.technique import MaskTechnique

TECHNIQUES = {
    "magnitude": "GradualMagnitude",
    "random": "RandomPruning",
    "wanda": "Wanda",
    "ria": "RIA",
    "dsnot": "DSnoT",
    "sparsegpt": "SparseGPT",
    "admm": "ADMM",
    "alps": "ALPS",
}
"""What --technique takes, and the public name of each."""
ALLOCATIONS = {"uniform": "Uniform", "global": "GlobalRanking", "erk": "ERK", "lamp": "LAMP", "owl": "OWL"}
"""What --allocation takes, and the public name of each."""


def named_technique(
    name: str, sparsity: str | None, pattern: str | None, allocation: str | None = None
) -> "MaskTechnique":
    """The technique.

    Args:
        name: One of `TECHNIQUES`.
        sparsity: What --sparsity takes.
        pattern: What --pattern takes.
        allocation: One of `ALLOCATIONS`.

    Raises:
        ValueError: If one of them is unknown, or they do not fit each other.
    """
    import openwork as ow

    if name not in TECHNIQUES:
        raise ValueError(f"unknown --technique {name!r}; give one of {', '.join(TECHNIQUES)}")
    if allocation not in (None, *ALLOCATIONS):
        raise ValueError(f"unknown --allocation {allocation!r}; give one of {', '.join(ALLOCATIONS)}")
    where = _pattern(pattern) if pattern else None
    if sparsity is None and not isinstance(where, ow.NM):
        raise ValueError("give --sparsity, the fraction of zeros, such as 0.5, or a --pattern n:m that says it")
    final = 1 - where.n / where.m if isinstance(where, ow.NM) else 0.0
    if sparsity is not None:
        final = _fraction(sparsity)
    make: Any = getattr(ow, TECHNIQUES[name])
    arguments = {"pattern": where} if where else {}
    if allocation:
        arguments["allocation"] = getattr(ow, ALLOCATIONS[allocation])()
    try:
        found: MaskTechnique = make(ow.OneShot(final), **arguments)
    except ValueError as error:
        raise ValueError(f"--technique {name} --sparsity {final:g}: {error}") from error
    return found


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        cure = (
            f"; did you mean --pattern {text}?" if ":" in text else "; did you pass a percentage?" if value > 1 else ""
        )
        raise ValueError(f"--sparsity must be a fraction of zeros between 0 and 1, such as 0.5, got {text}{cure}")
    return value


def _pattern(text: str) -> Any:
    import openwork as ow

    named: dict[str, Any] = {
        "rows": ow.Rows,
        "columns": ow.Columns,
        "per-output": ow.PerOutput,
        "unstructured": ow.Unstructured,
    }
    if text in named:
        return named[text]()
    for sign, kind in ((":", ow.NM), ("x", ow.Block)):
        first, found, second = text.partition(sign)
        if found and first.isdecimal() and second.isdecimal():
            try:
                return kind(int(first), int(second))
            except ValueError as error:
                raise ValueError(f"--pattern {text}: {error}") from error
    raise ValueError(f"unknown --pattern {text!r}; give n:m such as 2:4, HxW such as 1x4, or one of {', '.join(named)}")
