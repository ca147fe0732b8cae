"""Two sweeps side by side: the settings that both have run, compared seed by seed, and those that only one has.

A cell is a technique with its settings on a task. What differs in the same way between all runs of the two sweeps, and
is not the technique's, such as the steps or a field of the task, is what the sweeps compare: it keeps no cells apart.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from statistics import fmean

from openwork.study.evaluation.metric import Metric
from openwork.study.results.apart import leaves
from openwork.study.results.claims import as_good_as, check_margin, holm
from openwork.study.results.frontier import by_seed, difference
from openwork.study.results.paired import Difference, paired_results
from openwork.study.results.replicates import by_replicate, finished_replicates, replicate_means
from openwork.study.results.result import Result, canonical
from openwork.study.results.score import metric_of, worst_score
from openwork.study.results.store import write_table
from openwork.study.results.tournament import verdict

Group = tuple[Result, ...]
"""The results of one cell in one sweep, which differ in their seeds alone."""
_ABSENT = "default"


@dataclass(frozen=True)
class Compared:
    """How much more the second sweep scores than the first: `value`, and what of it is shown.

    Args:
        value: By the seeds that both have; None without one, and where every run diverged.
        p: After Holm's correction.
        verdict: As of `tournament.verdict`: "better" where the second is.
    """

    value: Difference | None
    p: float | None
    verdict: str

    @property
    def shown(self) -> bool:
        """Whether the two are shown to differ."""
        return self.verdict.startswith(("better", "worse"))


@dataclass(frozen=True)
class Matched:
    """Two sweeps on one task.

    Args:
        metric: Theirs.
        changed: Field of the runs' descriptions -> its value in the first and in the second sweep, as JSON.
        cells: The cells of both, with their comparisons: one family of Holm's correction.
        levels: (sparsity, technique) -> the comparison of the technique's frontiers there: another family. None where a
            seed that both sweeps have does not reach the sparsity in both.
        only: The cells of the first sweep alone, and those of the second.
    """

    metric: Metric
    changed: Mapping[str, tuple[str, str]]
    cells: tuple[tuple[Group, Group, Compared], ...]
    levels: Mapping[tuple[float, str], Compared]
    only: tuple[tuple[Group, ...], tuple[Group, ...]]


def match(
    first: Sequence[Result], second: Sequence[Result], levels: Iterable[float], *, margin: float | None = None
) -> Matched:
    """The comparison of two sweeps on one task.

    Args:
        first: The results of the one, at least one.
        second: Those of the other, whose task may have another title.
        levels: The sparsities at which frontiers are compared, 0-1.
        margin: The smallest difference of scores that matters, chosen before the runs; None claims no equality.

    Raises:
        ValueError: If the sweeps have other metrics, two results of one have the same settings and seed, and for a
            margin that no difference can reach.
    """
    metric = metric_of([*first, *second])
    if margin is not None:
        check_margin(margin, metric)
    second = [replace(result, task=first[0].task) for result in second]
    changed = _changed(first, second)
    one, other = (_cells(side, changed) for side in (first, second))
    both = [key for key in one if key in other]
    finished = [result.score for result in (*first, *second) if result.finished]
    worst = worst_score(metric, finished) if finished else None
    found = _compared([_paired(one[key], other[key], worst) for key in both], margin)
    frontiers = by_seed(first), by_seed(second)
    places = [(level, name) for level in levels for name in frontiers[0] if name in frontiers[1]]
    read = {
        (level, name): value
        for level, name in places
        if (value := difference(frontiers[1][name], frontiers[0][name], level, metric=metric)) is not None
        # As `frontier.at_levels` has it: the seeds that reach a level in both sweeps may be the lucky ones.
        and value.n == len(frontiers[0][name].keys() & frontiers[1][name].keys())
    }
    return Matched(
        metric=metric,
        changed=changed,
        cells=tuple((one[key], other[key], compared) for key, compared in zip(both, found, strict=True)),
        levels=dict(zip(read, _compared([*read.values()], margin), strict=True)),
        only=(
            tuple(group for key, group in one.items() if key not in other),
            tuple(group for key, group in other.items() if key not in one),
        ),
    )


def mean(group: Group, what: str) -> float | None:
    """The mean of ``score`` or ``sparsity`` over the seeds of a cell that finished; None where none did."""
    values = replicate_means(finished_replicates(group), attrgetter(what)).values()
    return fmean(values) if values else None


def in_common(one: Group, other: Group) -> tuple[Group, Group]:
    """The runs of two cells whose seeds (`Result.replicate`) both have.

    Raises:
        ValueError: If two runs of a cell have the same seeds.
    """
    sides = by_replicate(one), by_replicate(other)
    seeds = sorted(sides[0].keys() & sides[1].keys())
    first, second = (tuple(result for seed in seeds for result in side[seed]) for side in sides)
    return first, second


def means(one: Group, other: Group, compared: Compared) -> list[float | None]:
    """The mean sparsities and scores of two cells that are compared: those of the seeds that both have.

    Over all of its seeds a cell may look better than the one that it is shown to be worse than.

    Returns:
        Sparsity of the first and the second, and their scores, in which a diverged run counts as in the comparison.
    """
    first, second = in_common(one, other)
    if not first:
        first, second = one, other
    value = compared.value
    scores = [fmean(value.theirs), fmean(value.ours)] if value else [mean(first, "score"), mean(second, "score")]
    return [mean(first, "sparsity"), mean(second, "sparsity"), *scores]


def of_both(first: str, second: str) -> str:
    """What both sweeps call something: one name, or "first → second" where they differ."""
    return first if first == second else f"{first} → {second}"


def write_matched(found: Iterable[tuple[tuple[str, str], Matched]], path: Path) -> None:
    """Writes a line for each cell to `path`, replacing it in one step.

    Means and differences are in the unit of the metric, accuracy from 0 to 1; cells that one sweep lacks are empty.
    Settings are those of either sweep, which differ in what all its runs differ in.

    Args:
        found: The titles of a task in the first and in the second sweep, with its comparison.
        path: The CSV file.
    """
    header = (
        *("task", "technique", "settings", "settings_second"),
        *("sparsity", "sparsity_second", "value", "value_second"),
        *("difference", "difference_low", "difference_high", "n", "p_holm", "verdict"),
    )
    lines: list[Sequence[object]] = []
    for tasks, matched in found:
        metric = matched.metric

        def alone(one: Group, other: Group) -> list[float | None]:
            groups = one, other
            return [*(mean(group, "sparsity") for group in groups), *(mean(group, "score") for group in groups)]

        def values(found: Sequence[float | None], metric: Metric = metric) -> list[float | None]:
            return [*found[:2], *(None if score is None else metric.value(score) for score in found[2:])]

        for one, other, compared in matched.cells:
            ours = compared.value
            interval = ours.interval() if ours else None
            ends = metric.ends(*interval) if interval else (None, None)
            difference = (metric.value(ours.mean), *ends, ours.n) if ours else (None, *ends, 0)
            line = (*values(means(one, other, compared)), *difference, compared.p, compared.verdict)
            named = of_both(*tasks), of_both(one[0].name, other[0].name)
            lines.append((*named, one[0].shared_settings, other[0].shared_settings, *line))
        for place, groups in enumerate(matched.only):
            for group in groups:
                sides = values(alone(group, ()) if place == 0 else alone((), group))
                line = (*sides, *[None] * 5, f"only in the {('first', 'second')[place]}")
                settings = (group[0].shared_settings, None) if place == 0 else (None, group[0].shared_settings)
                lines.append((tasks[place], group[0].name, *settings, *line))
    write_table(header, lines, path)


def _paired(one: Group, other: Group, worst: float | None) -> Difference | None:
    first, second = in_common(one, other)
    if not any(result.finished for result in [*first, *second]):
        return None
    return paired_results(second, first, worst=worst)


def _compared(differences: Sequence[Difference | None], margin: float | None) -> list[Compared]:
    """What each shows, after Holm's correction for all of them."""
    shown = holm([None if one is None else one.p for one in differences])
    good = holm([None if one is None or margin is None else as_good_as(one, margin).p for one in differences])
    return [Compared(one, p, verdict(one, p, q)) for one, p, q in zip(differences, shown, good, strict=True)]


def _cells(results: Iterable[Result], changed: Mapping[str, object]) -> dict[str, Group]:
    """The cells of a sweep, by what is left of their descriptions."""
    found: dict[str, Group] = {}
    for result in sorted(results, key=lambda r: (r.name, r.sparsity or 0.0, r.settings, r.seed)):
        fields = {name: text for name, text in _fields(result).items() if name not in changed}
        key = f"{canonical(fields)}@{result.threshold}"
        found[key] = (*found.get(key, ()), result)
    return found


def _changed(first: Iterable[Result], second: Iterable[Result]) -> dict[str, tuple[str, str]]:
    """The fields of descriptions, outside of techniques, that have one value in a sweep and another in the other."""
    sides = [[_fields(result) for result in {r.group: r for r in side}.values()] for side in (first, second)]
    parents = [[{name.rpartition(".")[0] for name in fields} | {""} for fields in side] for side in sides]
    found = {}
    for name in sorted({name for side in sides for fields in side for name in fields}):
        parent = name.rpartition(".")[0]
        values = [
            {fields.get(name, _ABSENT) for fields, there in zip(side, own, strict=True) if parent in there}
            for side, own in zip(sides, parents, strict=True)
        ]
        if name.partition(".")[0] != "technique" and len(values[0]) == len(values[1]) == 1 and values[0] != values[1]:
            found[name] = values[0].pop(), values[1].pop()
    return found


def _fields(result: Result) -> dict[str, str]:
    """The leaves of a result's description without seeds, by path, as JSON."""
    described, _ = json.JSONDecoder().raw_decode(result.group)  # what follows it is the threshold
    return dict(leaves(described))
