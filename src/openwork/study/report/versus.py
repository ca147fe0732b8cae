"""The page of two sweeps side by side: what both have run compared seed by seed, and what only one of them has."""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from openwork.study.evaluation.metric import Metric
from openwork.study.report.answer import LEVELS, scored
from openwork.study.report.both import both
from openwork.study.report.differences import differences, value
from openwork.study.report.html import Page, columns, unbroken
from openwork.study.report.style import percent, require_study_extra, written
from openwork.study.report.tables import Columns, compared_cells, how_written
from openwork.study.results.apart import told_apart
from openwork.study.results.matched import Compared, Group, Matched, match, mean, means, of_both, write_matched
from openwork.study.results.replicates import finished_replicates
from openwork.study.results.result import Result
from openwork.study.results.statistics import without_parts
from openwork.study.results.store import read_results
from openwork.words import count

_SHOWN = {"better": "better", "worse": "worse", "as good as": "as good", "equal": "equal", "undecided": "not decided"}
_FIELDS: Columns = [
    *(("difference", "difference", "text"), ("interval", "95 % interval", "text"), ("n", "seeds", "text")),
    *(("p", "p", "text"), ("shown", "shown", "text")),
]


def write_versus(
    directories: tuple[Path, Path], out: Path, *, margin: float | None = None, problems: list[str] | None = None
) -> Path:
    """The path of ``out/index.html``, which compares two sweeps, written beside ``comparison.csv``.

    Args:
        directories: Two folders of run directories. A difference is the second's score less the first's.
        out: Where to write; made where it does not exist.
        margin: As for `openwork.study.report.answer.compared`.
        problems: As for `openwork.study.results.store.read_results`.

    Raises:
        ValueError: If one has no finished run, or the two have no task in common; and as for `match`.
        OSError: If ``out`` cannot be written.
    """
    require_study_extra()
    if directories[0].resolve() == directories[1].resolve():
        raise ValueError(f"{directories[0]} was given twice; give two folders of run directories to compare")
    every = told_apart(*(read_results(directory, problems=problems, apart=False) for directory in directories))
    sides = [without_parts(side) for side in every]
    for directory, side in zip(directories, sides, strict=True):
        if not any(result.finished for result in side):
            raise ValueError(f"no finished run in {directory}; train some with `openwork run` or give another folder")
    labels = _labels(directories)
    tasks = _tasks(*sides)
    if not tasks:
        raise ValueError(f"{labels[0]} and {labels[1]} have no task in common; give two sweeps of one task")
    found = []
    for pair in tasks:
        mine = [[result for result in side if result.task == task] for side, task in zip(sides, pair, strict=True)]
        metric = next(result.metric for result in mine[0])
        found.append((mine, match(mine[0], mine[1], LEVELS, margin=scored(margin, metric))))
    out.mkdir(parents=True, exist_ok=True)
    write_matched([(pair, matched) for pair, (_, matched) in zip(tasks, found, strict=True)], out / "comparison.csv")

    names = sorted({result.name for side in sides for result in side if not result.dense})
    page = Page(f"{labels[0]} and {labels[1]}: {', '.join(of_both(*pair) for pair in tasks)}")
    answers = sections = ""
    for number, (pair, (mine, matched)) in enumerate(zip(tasks, found, strict=True)):
        suffix = "" if len(tasks) == 1 else f"-{number + 1}"
        task = of_both(*pair)
        where = f'<a href="#both{suffix}">{escape(task)}</a>: ' if suffix else ""
        answers += f'<p class="lead">{where}{unbroken(answer(matched, labels))}</p>\n'
        sections += _section(page, mine, matched, names, labels=labels, task=task, number=number, suffix=suffix)
    runs = [f"{label}: {count(len(side), 'result')} in {directory.resolve()}."
            for label, side, directory in zip(labels, sides, directories, strict=True)]  # fmt: skip
    apart = sorted({r.task for side in sides for r in side} - {task for pair in tasks for task in pair})
    if apart:
        runs.append(f"Not compared, as only one has the task: {', '.join(apart)}.")
    method = "".join(f"<p>{escape(sentence)}</p>\n" for sentence in [*runs, *_method(margin)])
    method += '<p class="quiet">Beside this page: <a href="comparison.csv">comparison.csv</a>.</p>'
    filters = {"hiddenTechniques": {"title": "Techniques", "choices": names}}
    page.write(out / "index.html", answer=answers, body=sections, method=method, filters=filters)
    return out / "index.html"


def answer(found: Matched, labels: Sequence[str]) -> str:
    """One sentence: of how many comparisons the second sweep is shown to be better, and the largest that is shown."""
    parts = []
    levels = [(name, level, one) for (level, name), one in found.levels.items()]
    cells = [(of_both(a[0].name, b[0].name), mean(a, "sparsity"), one) for a, b, one in found.cells]
    for what, compared in (("at equal sparsity:", levels), ("setting by setting:", cells)):
        verdicts = Counter(one.verdict.partition(",")[0] for _, _, one in compared)
        if verdicts:
            listed = ", ".join(f"{words} in {verdicts[word]}" for word, words in _SHOWN.items() if verdicts[word])
            parts.append(f"{what} {listed} of {sum(verdicts.values())}{_largest(compared, found.metric)}")
    if not parts:
        return f"{labels[0]} and {labels[1]} have no setting, and no technique at equal sparsity, in common."
    return f"{labels[1]} against {labels[0]} {'; '.join(parts)}."


def _largest(compared: Iterable[tuple[str, float | None, Compared]], metric: Metric) -> str:
    known = [
        (one.shown, abs(one.value.mean), name, sparsity, one.value) for name, sparsity, one in compared if one.value
    ]
    if not known or not max(size for _, size, *_ in known):
        return ""
    shown, _, name, sparsity, largest = max(known, key=lambda one: one[:2])
    text, ends = written(largest, metric)
    points = "" if metric.full is None else " points"
    at = f" at {percent(sparsity)}" if sparsity else ""
    interval = f", {ends}" if ends else ""
    word = "largest shown" if shown else "largest, not decided"
    return f" ({word}: {name}{at}, {text}{points}{interval}, n = {largest.n})"


def _section(
    page: Page, sides: Sequence[Sequence[Result]], found: Matched, names: Sequence[str], *,
    labels: Sequence[str], task: str, number: int, suffix: str,
) -> str:  # fmt: skip
    first, second = labels
    text = f"<section>\n<h2>{escape(task)}</h2>\n"
    if found.changed:
        listed = ", ".join(f"{name} {a} → {b}" for name, (a, b) in found.changed.items())
        both_differ = f"{first} and {second} differ, wherever a run has it, in: {listed}."
        text += f'<p class="quiet">{escape(both_differ)}</p>\n'
    if (chart := both(sides, found.metric, names=names, labels=labels, task=task)) is not None:
        text += page.figure(chart.properties(height=420), f"both{suffix}")
    values = [
        value(level, name, one.value, one.p, one.verdict) for (level, name), one in found.levels.items() if one.value
    ]
    if values:
        subtitle = [f"0 is {first}. Filled: shown to differ, after Holm's correction; hollow: not decided, or as good."]
        title = f"{second} less {first} at equal sparsity, seed by seed"
        chart = differences(values, found.metric, names=names, title=title, subtitle=subtitle)
        text += page.figure(chart.properties(height=300), f"differences{suffix}")
    name, how = found.metric.name, how_written(found.metric)
    fields: Columns = [
        *(("technique", "technique", "text"), ("sparsity", f"sparsity, {first}", "percent")),
        *(("other", f"sparsity, {second}", "percent"), ("score", f"{name}, {first}", how)),
        *(("others", f"{name}, {second}", how), *_FIELDS, ("settings", f"settings, {first}", "text")),
    ]
    only: Columns = [
        *(("technique", "technique", "text"), ("sparsity", "sparsity", "percent"), ("score", name, how)),
        *(("n", "seeds", "number"), ("settings", "settings", "text")),
    ]
    page.data[f"cells {number}"] = columns([_line(*cell, found) for cell in found.cells])
    text += f"<h3>Setting by setting</h3>\n{page.table(f'cells{suffix}', f'cells {number}', fields)}\n"
    for label, groups, side in zip(labels, found.only, "ab", strict=True):
        if groups:
            data = f"only {side} {number}"
            page.data[data] = columns([_alone(group, found) for group in groups])
            text += f"<h3>Only in {escape(label)}</h3>\n{page.table(f'only-{side}{suffix}', data, only)}\n"
    return text + "</section>\n"


def _line(one: Group, other: Group, compared: Compared, found: Matched) -> dict[str, object]:
    names = ("difference", "interval", "n", "p", "shown")
    cells = compared_cells(compared.value, found.metric, compared.p, compared.verdict)
    sparsity, other_sparsity, score, other_score = means(one, other, compared)
    return {
        **_alone(one, found),
        "sparsity": sparsity,
        "score": _drawn(score, found),
        "other": other_sparsity,
        "others": _drawn(other_score, found),
        **dict(zip(names, cells, strict=True)),
    }


def _alone(group: Group, found: Matched) -> dict[str, object]:
    return {
        "technique": group[0].name,
        "sparsity": mean(group, "sparsity"),
        "score": _drawn(mean(group, "score"), found),
        "n": len(finished_replicates(group)),
        "settings": group[0].shared_settings,
    }


def _drawn(score: float | None, found: Matched) -> float | None:
    return None if score is None else found.metric.drawn(score)


def _method(margin: float | None) -> list[str]:
    levels = ", ".join(f"{100 * level:g}" for level in LEVELS)
    said = [
        "Two settings are the same if their runs' whole descriptions are, but for seeds and for what all runs of the "
        "two sweeps differ in outside of their techniques.",
        "Differences are the second's score less the first's, by the seeds that both have, with Student's 95 % "
        f"interval; frontiers are read at {levels} % sparsity, where each of these seeds is measured in both. "
        "Setting by setting, the means are those of these seeds, too, and a run that diverged counts with the worst "
        "score.",
        "What is shown has p below 5 % after Holm's correction, for all settings together, and for all techniques and "
        "sparsities together.",
    ]
    return said if margin is None else [*said, f"As good: a difference below {margin:g}, by two one-sided tests."]


def _labels(directories: Sequence[Path]) -> tuple[str, str]:
    names = [directory.resolve().name for directory in directories]
    first, second = names if names[0] != names[1] else [str(directory) for directory in directories]
    return first, second


def _tasks(first: Sequence[Result], second: Sequence[Result]) -> list[tuple[str, str]]:
    """The titles of the tasks that are compared: equal ones, and where each sweep has one task, these."""
    one, other = ({result.task for result in side if result.finished} for side in (first, second))
    if not one & other and len(one) == len(other) == 1:
        return [(one.pop(), other.pop())]
    return [(task, task) for task in sorted(one & other)]
