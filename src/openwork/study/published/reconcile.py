"""Where the release's README and its CSV files disagree, found by comparing them line by line."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from openwork.study.published.rows import Published, checkpoints, of, table

_ROUNDING = 0.005 + 1e-9  # the README prints two decimals of scores and of sparsities
ROUNDINGS = ("rounded sparsity", "rounded score")
"""The kinds that are no disagreements: the README prints fewer digits."""
_WINDOW = 0.0034  # the widest window of sparsity that fits every model the README lists


@dataclass(frozen=True)
class Disagreement:
    """One statement of the README that the rows do not support, or one that they surpass."""

    model: str
    technique: str
    sparsity: float
    """As the README lists it."""
    kind: str
    """``no row``, ``score``, ``settings``, ``sparsity``, ``better row``, ``name`` or one of `ROUNDINGS`."""
    readme: str
    rows: str


def reconcile(results: Sequence[Published]) -> list[Disagreement]:
    """Every disagreement between the 49 models of the README and ``results``, in the README's order.

    A model's row is the one with its settings; where none fits, the one with its score, if there is only one near its
    sparsity. The kinds:

    * ``no row``: no row fits;
    * ``score``: the score differs, and not as if it were rounded or cut off after fewer digits (``rounded score``);
    * ``settings``: the settings differ;
    * ``sparsity``: the measured sparsity, rounded to the list's two decimals, is another one;
    * ``rounded sparsity``: it is not, but differs by 0.0005 or more;
    * ``better row``: a better row is at least as sparse;
    * ``name``: the file's name says another sparsity than the list.
    """
    found: list[Disagreement] = []
    for model, line in zip(checkpoints(), table("checkpoints"), strict=True):
        found += _one(model, line["name"], float(line["target_sparsity_in_name"]), results)
    return found


def _one(model: Published, name: str, named: float, results: Sequence[Published]) -> list[Disagreement]:
    def says(kind: str, readme: str, rows: str) -> Disagreement:
        return Disagreement(model.model, model.technique, model.sparsity, kind, readme, rows)

    found = []
    if named != model.sparsity:
        found.append(says("name", f"listed as {model.sparsity:g}", f"its file is called {name}"))
    rows = of(results, model.model, model.technique)
    if not rows:
        return [*found, says("no row", f"{model.score:g}", "the release has no CSV file of these runs")]
    near = [r for r in rows if abs(r.sparsity - model.sparsity) <= _WINDOW]
    row = next((r for r in near if _same(r.settings, model.settings)), None)
    if row is None:
        alike = [r for r in near if abs(r.score - model.score) <= _ROUNDING]
        if len(alike) != 1:
            best = max(near, key=lambda r: r.score, default=None)
            text = f"the best of {len(near)} near it has {_row(best)}" if best else "none is near its sparsity"
            return [*found, says("no row", f"{model.score:g} with {model.text}", text)]
        (row,) = alike
        printed = f"; the file prints {row.printed}" if row.printed else ""
        found.append(says("settings", model.text, f"{_row(row)}{printed}"))
    elif abs(row.score - model.score) > _ROUNDING:
        kind = "rounded score" if f"{row.score:g}".startswith(f"{model.score:g}") else "score"
        found.append(says(kind, f"{model.score:g}", f"{row.score:g} with the same settings"))
    if (apart := abs(row.sparsity - model.sparsity)) >= 0.0005:
        kind = "rounded sparsity" if apart <= _ROUNDING else "sparsity"
        found.append(says(kind, f"{model.sparsity:g}", f"measured {row.sparsity:g}"))
    better = max((r for r in rows if r.sparsity >= row.sparsity), key=lambda r: r.score)
    if better.score > row.score + _ROUNDING:
        found.append(says("better row", f"{row.score:g} at {row.sparsity:g}", _row(better)))
    return found


def _row(row: Published) -> str:
    return f"{row.score:g} at {row.sparsity:g} with {row.text}"


def _same(row: dict[str, float | str], model: dict[str, float | str]) -> bool:
    """Whether a row has the model's settings: coefficients as far as they are printed, and no more settings."""
    return row.keys() == model.keys() and all(_alike(row[key], value) for key, value in model.items())


def _alike(a: float | str, b: float | str) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return a == b or abs(a - b) <= 0.005 * max(abs(a), abs(b))


def baseline(model: str) -> float:
    """The mean score of the published dense runs of one model: 27.29 BLEU (5 runs), 76.69 % (3 runs)."""
    return fmean(float(line["value"]) for line in table("baselines") if line["model"] == model)
