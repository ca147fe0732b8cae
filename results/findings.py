"""What the small study on MNIST found, in sentences that are made from its rows."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from masks import section6_tests, whole
from played import errors, finals, listed, plain, points, signed, sparsities, verdicts
from recipes import complete, left, missing_cells, recipe_effects, recipes
from seeds import paper, place
from tournaments import NAMED_LEVELS, as_good_as_dense, better_than_dense, compared, has_begun, missing, named_tests

from openwork.study.experiments.tournament import ENTRANTS


def findings() -> str:
    """A list of what was decided and what was not."""
    return "\n".join(f"* {sentence}" for sentence in sentences())


def sentences() -> Iterator[str]:
    """They, in the order of the plan's questions."""
    yield from recipe_sentences()
    yield from tournament_sentences() if has_begun() else ()
    yield from mask_sentences() if whole() else ()
    if parts := not_yet():
        yield f"Not run yet: {'; '.join(parts)}."


def not_yet() -> list[str]:
    """The parts of the plan that have no rows, in words."""
    found = [f"the final runs of {listed(missing())}"] if missing() and has_begun() else []
    found += [] if has_begun() else ["the tournament of LeNet-300-100"]
    found += ["SparseVD's recipe on LeNet-300-100"] if not complete() else []
    found += ["SparseVD's recipe on LeNet-5-Caffe"] if "E" in left() else []
    found += [f"other recipes on LeNet-5-Caffe: {', '.join(missing_cells('H'))}"] if "H" in left() else []
    found += ["section 6"] if not whole() else []
    return found + (["the tournament of LeNet-5-Caffe"] if not finals("lenet5") else [])


def recipe_sentences() -> Iterator[str]:
    """SparseVD's recipe."""
    for net, known in (
        ("LeNet-300-100", (("Molchanov", 3.0), ("Gale", 3.0), ("Gale", 2.0), ("Gale", 0.1))),
        ("LeNet-5-Caffe", (("Molchanov", 3.0), ("Gale", 3.0), ("Gale", 2.0))),
    ):
        n = len(recipes(net, ("True", "True")))
        if n < 2:
            continue
        said = []
        for by, threshold in known:
            runs = recipes(net, ("True", "True"), threshold)
            sparsity, error = paper(net, by, threshold)
            where = place(sparsity, sparsities(runs)), place(error, errors(runs))
            said.append(f"{by} et al. at threshold {threshold:g} sparsity {where[0]}, error {where[1]}")
        yield (
            f"SparseVD's recipe on {net} (n = {n}): where published runs lie, seen from its 95 % prediction intervals: "
            f"{'; '.join(said)}."
        )
    if complete():
        effects = recipe_effects()
        shown = [(label, what, pair.mean) for label, what, pair, p in effects if p is not None and p < 0.05]
        text = "; ".join(f"{label} ({what} {signed(value)} points)" for label, what, value in shown)
        yield (
            f"Of eight effects of `train_clip` and of the initial weights (n = 20) {len(shown)} are shown: "
            f"{text or 'none'}; the others are not."
        )
    if not {"E", "H"} & {*left()}:
        small = recipe_effects("LeNet-5-Caffe")
        text = "; ".join(
            f"{label}: sparsity {points(zeros)}, error {points(wrong)}"
            for (label, _, wrong, _), (_, _, zeros, _) in zip(small[::2], small[1::2], strict=True)
        )
        yield f"Exploratory, on LeNet-5-Caffe (n = {small[0][2].n}, no tests), points that each setting adds: {text}."


def tournament_sentences() -> Iterator[str]:
    """The tournament."""
    best = []
    for name, levels in groupby(compared().levels, key=lambda level: level.reference):
        best.append(f"{plain(name)} at {listed([f'{100 * level.level:g}' for level in levels])} %")
    yield f"Best on validation data, and the reference on the test set (n = 20): {'; '.join(best)}."
    for level in compared().levels:
        rest = [one for one in level.standings if one.technique != level.reference]
        better = [one.technique for one in rest if one.verdict.startswith("better")]
        as_good = [one.technique for one in rest if one.verdict.startswith(("as good", "equal"))]
        undecided = [one.technique for one in rest if one.verdict == "undecided"]
        worse = sum(one.verdict.startswith("worse") for one in rest)
        parts = [
            f"{word}: {listed([*map(plain, names)])}"
            for word, names in (("better", better), ("as good", as_good), ("undecided", undecided))
            if names
        ]
        text = "; ".join([*parts, f"worse: {worse} of {len(rest)}"])
        yield f"At {100 * level.level:g} % against {plain(level.reference)} (n = 20, Holm): {text}."
    for (one, other), levels in named_tests().items():
        left = [f"{100 * level:g}" for level in NAMED_LEVELS if level not in levels]
        text = f"; not compared at {listed(left)} %, where one of them misses the level" if left else ""
        yield f"The error of {plain(one)} against that of {plain(other)} (n = 20): {verdicts(levels)}{text}."
    for margin, found in as_good_as_dense().items():
        held = at_levels(key for key, holds in found.items() if holds)
        yield f"Shown to be as good as dense within {100 * margin:g} points (n = 20): {held}."
    yield f"Not planned, shown to be better than dense (n = 20, Holm): {at_levels(better_than_dense())}."


def at_levels(keys: Iterable[tuple[str, float]]) -> str:
    """``A at 50 and 75 %; B at 90 %`` of (technique, level)."""
    keys = list(keys)
    by_name = {name: [f"{100 * level:g}" for technique, level in keys if technique == name] for name in ENTRANTS}
    return "; ".join(f"{plain(name)} at {listed(at)} %" for name, at in by_name.items() if at) or "none at any level"


def mask_sentences() -> Iterator[str]:
    """Section 6."""
    for (one, other), levels in section6_tests().items():
        n = next(iter(levels.values()))[0].n
        yield f"The error of {plain(one)} against that of {plain(other)} (n = {n} masks): {verdicts(levels)}."
