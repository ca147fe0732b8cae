"""How the rows of docs/findings.md say means, counts of seeds, differences, and what is decided."""

import re
from collections.abc import Iterable, Mapping

from large_study import Compared
from played import listed, plain, probability, signed
from seeds import Row, markdown

from openwork.study.results.claims import ALPHA
from openwork.study.results.paired import Difference

LENET = "LeNet-300-100 on MNIST; nothing of large networks"


def at_level(
    what: str, said: str, found: list[Compared], lacks: str, sparser: Mapping[str, float] = {}, unit: str = ""
) -> Row:
    """A row of the comparisons of one level.

    Args:
        what: What is compared.
        said: What the paper says.
        found: The comparisons.
        lacks: What they do not show.
        sparser: The sparsity of what has more zeros than the level, by the beginnings of labels.
        unit: What n counts, where it is not seeds.
    """
    made = [one for one in found if one.difference]
    if not made:
        return what, said, "–", "0", "not decided yet: fewer than three pairs", "–"
    text = "; ".join(f"{one.label}: {_text(one.difference)}, p {probability(one.p)}" for one in made if one.difference)
    n = " or ".join(sorted({str(one.difference.n) for one in made if one.difference})) + unit
    decided = [f"{one.label}: {decision(one, one.label.startswith(tuple(sparser)))}" for one in made]
    if left := [one.label for one in found if not one.difference]:
        decided.append(f"not compared, as fewer than three seeds reach the level: {'; '.join(left)}")
    zeros = [f"{name} has {100 * own:.1f} % zeros" for name, own in sparser.items()]
    unequal = f"equal sparsity: {' and '.join(zeros)}; " if zeros else ""
    return what, said, text, n, "; ".join(decided), unequal + lacks


def at_levels(
    pair: tuple[str, str],
    levels: dict[float, tuple[Difference, float | None]],
    unit: str = "",
    *,
    network: str = "LeNet-300-100",
    lacks: str = LENET,
    planned: Iterable[float] = (),
) -> Row:
    """A row of one comparison on one network at all its levels, and which of the ``planned`` ones are not reached."""
    one, other = map(plain, pair)
    texts = [f"{percent(level)}: {_text(found, 100)}, p {probability(p)}" for level, (found, p) in levels.items()]
    shown = [f"{percent(level)}: {_decided(*found)}" for level, found in levels.items()]
    shown += [f"{percent(level)}: not compared, as it is not reached" for level in planned if level not in levels]
    n = f"{' or '.join(map(str, sorted({found.n for found, _ in levels.values()})))}{unit}"
    return f"{network}: accuracy of {one} less {other}", "not asked", "; ".join(texts), n, "; ".join(shown), lacks


def answered(heads: Row, lines: list[Row]) -> str:
    """Which networks the answer is decided for, and the table."""
    by: dict[str, set[bool]] = {}
    for what, *_, decided, _ in lines:
        by.setdefault(re.split(r"[,:]| at ", what)[0], set()).add(not decided.startswith("not decided"))
    yes, no = ([name for name, found in by.items() if (True in found) is has] for has in (True, False))
    said = [
        f"{text}: {listed(names)}."
        for text, names in (("Measured, or with n above one", yes), ("Not decided yet", no))
        if names
    ]
    return f"{' '.join(said)}\n\n{markdown(heads, lines)}"


def percent(level: float) -> str:
    """``0.9`` as ``90 %``."""
    return f"{100 * level:g} %"


def decision(one: Compared, sparser: bool = False) -> str:
    """What is shown of a comparison that was made; ``sparser`` where the first of the two has more zeros."""
    assert one.difference
    if one.as_good:
        return "as good"
    said = _decided(one.difference, one.p)
    return f"{said}, with more zeros" if sparser and said.startswith("yes") else said


def _decided(difference: Difference, p: float | None) -> str:
    if p is None or p >= ALPHA:
        return "not shown"
    return "yes: higher" if difference.mean > 0 else "yes: lower"


def _text(difference: Difference | None, factor: float = 1) -> str:
    assert difference
    ends = difference.interval()
    values = [signed(factor * value) for value in (difference.mean, *(ends or ()))]
    return f"{values[0]} ({values[1]} to {values[2]})" if ends else values[0]
