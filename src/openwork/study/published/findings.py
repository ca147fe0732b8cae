"""The findings from the published rows, as Markdown, with the order of the techniques at equal tuning budget."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from openwork.study.published.comparison import LEVELS, RANKED, Verdict, sweep, verdict
from openwork.study.published.reconcile import ROUNDINGS, Disagreement, reconcile
from openwork.study.published.rows import Published, of
from openwork.study.results.frontier import hypervolume, score_at

_MODELS = {"transformer": "Transformer, BLEU", "resnet50": "ResNet-50, top-1 in %"}
_SHORT = {
    "magnitude_pruning": "magnitude",
    "variational_dropout": "variational dropout",
    "l0_regularization": "L0",
    "random_pruning": "random",
}
_BUDGETS = (5, 20, 50)
_KINDS = {
    "no row": "listed models without a row",
    "score": "another score for the same settings",
    "settings": "other settings for the same score",
    "sparsity": "measured at another sparsity than listed",
    "better row": "a better row is at least as sparse",
    "name": "a file name says another sparsity",
    "rounded sparsity": "a sparsity, measured less than 0.005 from the listed one",
    "rounded score": "a score, cut off after fewer digits",
}
_WORDS = ("yes", "yes?", "no", "no?", "open", "no rows")


def findings(results: Sequence[Published]) -> str:
    """Markdown: figures, the answer at equal tuning budget, hypervolumes, and the reconciliation."""
    found = reconcile(results)
    parts = [
        "# The published results of the State of Sparsity",
        "Gale, Elsen & Hooker 2019, [arXiv:1902.09574](https://arxiv.org/abs/1902.09574), from the rows that it "
        "released (google-research/state_of_sparsity, Apache-2.0). All of this page is written by",
        "```sh\nopenwork published --rows path/to/state_of_sparsity/results --out published\n```",
        "which also writes the figures as SVG and a page, `index.html`, with the settings of each point.",
        f"Rows read: {_counted(results)}.",
        *(f"![{text}]({name}.png)" for name, text in _FIGURES.items()),
        "## Is magnitude ≥ variational dropout ≥ L0 at equal tuning budget?",
        "In short, the number of levels with each answer. `open` depends on rows that are missing. A question mark "
        "says that the 95 % bootstrap interval over settings crosses 0: other settings could turn the answer.",
        "\n".join(_in_short(results, aimed=aimed) for aimed in (True, False)),
        "The difference: a setting of pruning says the sparsity, one of variational dropout or L0 does not. A budget "
        "for one level favours pruning; if one sweep serves every level, pruning spends most of it on the other "
        "levels.",
        "In full, with the budget for each level:",
        _answers(results),
        _METHOD,
        "![Expected best score of n random settings, by model and sparsity](budget.png)",
        *(_table(results, model, n) for model in LEVELS for n in _BUDGETS),
        "## The best of all settings",
        "Each frontier at equal sparsity, read between its points and not beyond the rows. Each point is one run, "
        "chosen on the test set, so there is no interval, and more settings are an advantage: these tables order "
        "nothing.",
        _fronts(results),
        "One number for a frontier, its hypervolume: the area below it. Reference point: sparsity 0, score 0.",
        _volumes(results),
        "## Where the README and the CSV files disagree",
        _summary(found),
        _disagreements(found),
        _repairs(results),
    ]
    return "\n\n".join(parts) + "\n"


_FIGURES = {
    "figure-1": "Figure 1: BLEU of the Transformer against sparsity; hollow points are hand-picked rows",
    "figure-3": "Figure 3: top-1 of ResNet-50 against sparsity",
    "figure-5": "Figure 5: ResNet-50 with magnitude pruning that is longer and not uniform",
    "figure-6": "Figure 6: training from scratch and lottery tickets",
}

_METHOD = """\
How it is counted: n settings are drawn at random, without replacement, and the best one is kept; the tables give the
expectation. Pruning draws from its settings at the level's sparsity. The sparsity of variational dropout and L0 is an
outcome, so they draw from all of their settings, and one that stays denser (by more than 0.003) counts as 0: one
sweep serves all levels at once. “Magnitude, all levels” draws in this way, too. A setting of variational dropout on
the Transformer counts with its best threshold, which needs no training. Each setting has one seed.

Where a grid has more settings than rows there are two figures, `low … high`, by one rule for every technique. Low
counts a setting without a row as 0, as if it had diverged; high draws from the settings with a row alone. Of
ResNet-50's magnitude pruning the paper says that the others diverged, which is the low reading. If only good rows
were picked, high overstates the technique and low understates it. Of L0 on ResNet-50 there may be only the best row
of each group, of one seed; its figures are then 0 and that best. `yes` and `no` hold in both readings, `open` depends
on them. VD is variational dropout.

Beside each `yes` and `no` stands the 95 % interval of the difference that it rests on, in which the missing settings
speak against it: a percentile bootstrap of 2,000 samples of the settings, with replacement. It says how much hangs on
the settings that happened to be tried, not what other seeds would have given."""


def _in_short(results: Sequence[Published], *, aimed: bool, n: int = 20) -> str:
    parts = []
    for model, title in _MODELS.items():
        said = []
        for better, worse in pairwise(RANKED):
            verdicts = [verdict(results, model, better, worse, level, n, aimed=aimed) for level in LEVELS[model]]
            counts = Counter(found.word for found in verdicts)
            text = ", ".join(f"{counts[word]} {word}" for word in _WORDS if counts[word])
            said.append(f"{_SHORT[better]} ≥ {_SHORT[worse]}: {text}")
        parts.append(f"{title.split(',')[0]} ({len(LEVELS[model])} sparsity levels) {'; '.join(said)}")
    reading = "for each sparsity level" if aimed else "for all sparsity levels together"
    return f"* With {n} random settings {reading}: {'. '.join(parts)}."


def _answers(results: Sequence[Published]) -> str:
    lines = []
    for model, title in _MODELS.items():
        for better, worse in ((RANKED[0], RANKED[1]), (RANKED[1], RANKED[2]), (RANKED[0], RANKED[2])):
            said = []
            for n in _BUDGETS:
                words = {level: verdict(results, model, better, worse, level, n).word for level in LEVELS[model]}
                groups = {word: [level for level in words if words[level] == word] for word in _WORDS[:-1]}
                texts = [f"{w} at {'/'.join(f'{100 * s:g}' for s in at)} %" for w, at in groups.items() if at]
                said.append(f"with {n} settings {', '.join(texts) or 'no rows'}")
            order = f"{title.split(',')[0]}, {_SHORT[better]} ≥ {_SHORT[worse]}"
            lines.append(f"* **{order}:** {'; '.join(said)}.")
    return "\n".join(lines)


def _table(results: Sequence[Published], model: str, n: int) -> str:
    names = [*RANKED, "random_pruning"]
    heads = ["sparsity", "magnitude", "magnitude, all levels", *(_SHORT[name] for name in names[1:])]
    heads += ["magnitude ≥ VD", "VD ≥ L0"]
    lines = [f"**{_MODELS[model]}, expected best of {n} settings**", "", _line(heads), _line(["---"] * len(heads))]
    for level in LEVELS[model]:
        cells = [_expected(results, model, name, level, n) for name in names]
        cells.insert(1, _expected(results, model, names[0], level, n, aimed=False))
        order = [_said(verdict(results, model, RANKED[i], RANKED[i + 1], level, n)) for i in (0, 1)]
        lines.append(_line([f"{100 * level:g} %", *cells, *order]))
    return "\n".join(lines)


def _said(found: Verdict) -> str:
    if found.interval is None:
        return found.word
    low, high = (f"{value:.2f}".replace("-", "−") for value in found.interval)
    return f"{found.word} ({low} to {high})"


def _expected(results: Sequence[Published], model: str, name: str, level: float, n: int, *, aimed: bool = True) -> str:
    found = sweep(results, model, name, level, aimed=aimed)
    expected = found.expected(n) if found else None
    if expected is None:
        return "–"
    low, high = (f"{value:.2f}" for value in expected)
    return low if low == high else f"{low} … {high}"


def _fronts(results: Sequence[Published]) -> str:
    lines = [_line(["", "sparsity", *_SHORT.values()]), _line(["---"] * (2 + len(_SHORT)))]
    for model, title in _MODELS.items():
        groups = [[(r.sparsity, r.score) for r in of(results, model, name)] for name in _SHORT]
        for level in LEVELS[model]:
            scores = [score_at(group, level) for group in groups]
            cells = ["–" if score is None else f"{score:.2f}" for score in scores]
            lines.append(_line([title, f"{100 * level:g} %", *cells]))
    return "\n".join(lines)


def _volumes(results: Sequence[Published]) -> str:
    lines = [_line(["", *_SHORT.values()]), _line(["---"] * (1 + len(_SHORT)))]
    for model, title in _MODELS.items():
        groups = [of(results, model, name) for name in _SHORT]
        cells = [f"{hypervolume((r.sparsity, r.score) for r in group):.2f}" if group else "–" for group in groups]
        lines.append(_line([title, *cells]))
    return "\n".join(lines)


def _counted(results: Sequence[Published]) -> str:
    counts = Counter((r.file, r.picked) for r in results)
    return "; ".join(f"`{name}` {count}{' (hand-picked)' * picked}" for (name, picked), count in counts.items())


def _summary(found: Sequence[Disagreement]) -> str:
    counts = Counter(d.kind for d in found)

    def listed(kinds: Sequence[str]) -> str:
        return "; ".join(f"{counts[kind]} × {_KINDS[kind]}" for kind in kinds if counts[kind])

    rounded = sum(counts[kind] for kind in ROUNDINGS)
    return (
        f"At most {len(found) - rounded} disagreements about the 49 listed models: "
        f"{listed([kind for kind in _KINDS if kind not in ROUNDINGS])}. (A better row contradicts nothing: the README "
        f"does not say by which rule it chose.) Beside them {rounded} roundings: {listed(ROUNDINGS)}."
    )


def _disagreements(found: Sequence[Disagreement]) -> str:
    heads = ["model", "technique", "listed", "kind", "README", "rows"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    lines += [_line([d.model, d.technique, f"{d.sparsity:g}", d.kind, d.readme, d.rows]) for d in found]
    return "\n".join(lines)


def _repairs(results: Sequence[Published]) -> str:
    repaired = Counter(r.file for r in results if r.printed)
    what = "; ".join(f"`{name}` {count}" for name, count in repaired.items()) or "none"
    return (
        f"Rows whose printed labels were repaired while they were read: {what}. The labels of a block of the "
        "Transformer's L0 file belong to other rows (inferred: only then does sparsity rise with the coefficient and "
        "fall with the start), and in ResNet-50's L0 file the headings of label smoothing and weight decay are "
        "exchanged."
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
