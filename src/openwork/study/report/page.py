"""The report of a study: one self-contained page, its pictures and its tables."""

from collections.abc import Callable, Collection, Sequence
from html import escape
from pathlib import Path

from openwork.study.evaluation.metric import BLEU, Metric
from openwork.study.published.overlay import overlay, own_bands, paper_model
from openwork.study.report.answer import LEVELS, REFERENCE, answer, compared, how
from openwork.study.report.charts import front_values, run_values, trade_off
from openwork.study.report.curves import band_lines, budget_curves, scratch_chart
from openwork.study.report.differences import differences, value
from openwork.study.report.html import Page, columns, draw, unbroken
from openwork.study.report.layers import kind_panel, layer_panels
from openwork.study.report.style import duration, require_study_extra
from openwork.study.report.tables import (
    compared_table,
    diverged_columns,
    point_columns,
    point_lines,
    run_columns,
    run_lines,
    run_metrics,
    static_table,
)
from openwork.study.results.frontier import by_seed, hypervolume
from openwork.study.results.fronts import FEW
from openwork.study.results.result import Environment, Result
from openwork.study.results.statistics import (
    Point,
    nearest,
    pareto,
    summarize,
    tried,
    without_parts,
    worst_of,
    write_points,
)
from openwork.study.results.store import flat, read_results, unfinished, write_csv
from openwork.study.results.tournament import Tournament
from openwork.words import count


def write_report(
    directory: Path,
    out: Path,
    *,
    command: str | None = None,
    problems: list[str] | None = None,
    margin: float | None = None,
) -> Path:
    """The path of ``out/index.html``, written beside its pictures (PNG, SVG) and tables (CSV).

    Args:
        directory: A folder of run directories.
        out: Where to write; made where it does not exist.
        command: The command that produced the runs, for the page to name.
        problems: As for `openwork.study.results.store.read_results`.
        margin: As for `compared`, chosen before the runs.

    Raises:
        ValueError: If no run has finished, or for a margin that no difference can reach.
        OSError: If ``out`` cannot be written.
    """
    require_study_extra()
    every_result = read_results(directory, problems=problems)
    results = without_parts(every_result)
    points = summarize(results)
    if not any(point.n for point in points):
        raise ValueError(f"no finished run in {directory}; train some with `openwork run` or give another folder")
    tasks = sorted({point.task for point in points if point.n})
    found = {task: compared([result for result in results if result.task == task], margin) for task in tasks}
    out.mkdir(parents=True, exist_ok=True)
    write_csv(map(flat, every_result), out / "results.csv")
    write_points(points, out / "summary.csv")

    names = sorted({point.name for point in points if not point.dense})
    judged = {point.metric for point in points if point.n}
    named = " or ".join(sorted({metric.name for metric in judged}, key=str.lower))
    page = Page(f"Sparsity and {named}: {', '.join(tasks)}")
    metrics, apart = run_metrics(results), len({result.judged_on for result in results}) > 1
    page.data = {"runs": columns(run_lines(results, tasks, metrics)), "points": columns(point_lines(points, tasks))}
    answers = sections = ""
    for number, task in enumerate(tasks):
        suffix = "" if len(tasks) == 1 else f"-{number + 1}"
        answers += _answer(points, results, found[task], task=task, suffix=suffix)
        sections += _section(page, out, points, results, names, found[task], task=task, number=number, suffix=suffix)
    missing = unfinished(directory)
    kept = any(result.replicate != result.seed for result in results)
    every = f"<h2>All runs</h2>\n{page.table('runs', 'runs', run_columns(metrics, apart=apart, kept=kept))}\n"
    files = ", ".join(f'<a href="{name}">{name}</a>' for name in page.pictures)
    parts = len(every_result) - len(results)
    more = f"\n<p>{count(parts, 'more run is', 'more runs are')} the first steps of others: in results.csv alone.</p>"
    method = f"""{_method(results, named, judged, command)}{more if parts else ""}
<p class="quiet">Downloads beside this page: <a href="results.csv">results.csv</a> (every run),
<a href="summary.csv">summary.csv</a> (every operating point), {files}.</p>"""
    seeds = sorted({result.replicate for result in results})
    filters = {
        "hiddenTechniques": {"title": "Techniques", "choices": names},
        "hiddenSeeds": {"title": "Seeds", "choices": seeds, "one": len(seeds) > FEW},
    }
    note = (
        '<p class="quiet">The filters act on charts and sortable tables; answers and comparisons are of all runs.</p>'
    )
    body = f"{note}\n{sections}{every}{_problems(page, results, missing)}"
    page.write(out / "index.html", answer=answers, body=body, method=method, filters=filters)
    return out / "index.html"


def _answer(
    points: Sequence[Point], results: Sequence[Result], found: Tournament | None, *, task: str, suffix: str
) -> str:
    """What was found on one task, in a sentence, and how; the place of its chart where there are several tasks."""
    said = unbroken(answer([point for point in points if point.task == task], found))
    where = f'<a href="#trade-off{suffix}">{escape(task)}</a>: ' if suffix else ""
    note = unbroken(how((result for result in results if result.task == task), found))
    return f'<p class="lead">{where}{said}</p>\n' + (f'<p class="quiet">{note}</p>\n' if note else "")


def _section(
    page: Page, out: Path, points: Sequence[Point], results: Sequence[Result], names: Sequence[str],
    found: Tournament | None, *, task: str, number: int, suffix: str,
) -> str:  # fmt: skip
    """The part of the page about one task; its pictures are written to ``out``."""
    import altair as alt

    mine = [point for point in points if point.task == task]
    metric = mine[0].metric
    good, better, name = (escape(word) for word in (*metric.good[:2], metric.name))
    worst = worst_of(mine)
    zero = "0" if metric.full else f"{metric.text(worst)}, that of the worst run"
    of_task = [result for result in results if result.task == task]
    chart = trade_off(mine, of_task, names=names, published=overlay(task))
    front = front_values(of_task)
    page.data |= {f"front {number} {','.join(map(str, seeds))}": columns(values) for seeds, values in front.items()}
    data = {"runs": run_values(of_task), "front": front[max(front, key=len)] if front else []}
    draw(chart.properties(width=760, height=430), out / f"trade-off{suffix}", page.pictures, data)
    figure = page.figure(chart.properties(height=420), f"trade-off{suffix}", runs=(number, metric.key))
    text = f"""<section>
<h2>{escape(task)}</h2>
{figure}
"""
    if found is not None:
        text += _at_equal_sparsity(page, out, of_task, found, metric, names=names, suffix=suffix, zero=(worst, zero))
    text += f"""<h3>The best found</h3>
<p class="quiet">Points that no other point beats: none is at least as sparse and {better}, or sparser and at least
as {good}. Means over seeds.</p>
{static_table(pareto(mine), metric)}
"""
    if (model := paper_model(task)) is not None:
        lines = page.figure(scratch_chart(model).properties(height=360), f"scratch{suffix}")
        text += f"<h3>Trained from scratch, as published</h3>\n{lines}\n"
    if kept := own_bands(of_task):
        longer = "scratch-b trains longer; " if any(band.name.startswith("scratch-b") for band in kept) else ""
        subtitle = [f"Mean, lowest and highest run; {longer}diverged runs are apart."]
        bands = band_lines(kept, title="With another run's zeros", subtitle=subtitle, score=metric.axis(metric.name))
        draw(bands.properties(width=480, height=320), out / f"kept{suffix}", page.pictures)
        lines = page.figure(bands.properties(height=360), f"kept{suffix}")
        text += f"<h3>Trained from scratch, and lottery tickets</h3>\n{lines}\n"
    with_layers = {result.group for result in of_task if result.layers}  # other thresholds list none
    near = nearest([point for point in mine if point.group in with_layers], REFERENCE)
    panels = layer_panels(near, of_task, names=names)
    if panels:
        together = alt.concat(*(panel.properties(width=320) for panel in panels), columns=2, spacing=40)
        draw(together, out / f"layers{suffix}", page.pictures)
        layers = "".join(
            page.figure(panel, f"layers{suffix}-{i}", technique=technique)
            for i, (technique, panel) in enumerate(zip(near, panels, strict=True))
        )
        text += f"""<h3>Where the zeros are</h3>
<p class="quiet">Each technique at its operating point nearest to {100 * REFERENCE:.0f} % sparsity. A dot is a layer,
the dashed line all of them together.</p>
"""
        if (kinds := kind_panel(near, of_task, names=names)) is not None:
            draw(kinds.properties(width=480), out / f"kinds{suffix}", page.pictures)
            text += page.figure(kinds, f"kinds{suffix}")
        text += f'<div class="panels">{layers}</div>\n'
    settings = tried(mine)
    curves = [(level, budget_curves(settings, level, metric, names=names, worst=worst)) for level in LEVELS]
    if drawn := [(level, curve) for level, curve in curves if curve is not None]:
        figures = "".join(page.figure(curve, f"budget{suffix}-{100 * level:.0f}") for level, curve in drawn)
        together = alt.concat(*(curve.properties(width=320) for _, curve in drawn), columns=2, spacing=40)
        draw(together, out / f"budget{suffix}", page.pictures)
        text += f"""<h3>What a tuning budget buys</h3>
<p class="quiet">The expected best {name} of n settings drawn at random from those that were run, without
replacement. A setting that stayed below the sparsity, or diverged, counts as {name} {zero}. The curves depend on how
many settings were aimed at a sparsity: compare only sweeps of the same design.</p>
<div class="panels">{figures}</div>
"""
    fields = point_columns(metric, several=any(point.runs > point.n for point in mine))
    table = page.table(f"points{suffix}", "points", fields, task=number)
    return text + f"<h3>All operating points</h3>\n{table}\n</section>\n"


def _at_equal_sparsity(
    page: Page, out: Path, results: Sequence[Result], found: Tournament, metric: Metric, *,
    names: Sequence[str], suffix: str, zero: tuple[float, str],
) -> str:  # fmt: skip
    """Each technique against the best: a figure, a table, and the areas below the frontiers."""
    worst, zero_text = zero
    values = [
        value(level.level, one.technique, one.difference, one.p, one.verdict)
        for level in found.levels
        for one in level.standings
        if one.difference is not None
    ]
    figure = ""
    if values:
        subtitle = [
            "0 is the technique with the best mean there. Filled: shown to differ, after Holm's correction; "
            "hollow: not decided, or as good."
        ]
        title = "Behind the best at equal sparsity, seed by seed"
        chart = differences(values, metric, names=names, title=title, subtitle=subtitle)
        draw(chart.properties(width=560, height=300), out / f"differences{suffix}", page.pictures)
        figure = page.figure(chart.properties(height=300), f"differences{suffix}")
    volumes = {
        technique: hypervolume((pair for pairs in runs.values() for pair in pairs), (0.0, worst))
        for technique, runs in by_seed(results).items()
        if any(runs.values())
    }
    listed = ", ".join(f"{escape(technique)} {_area(volume, metric)}" for technique, volume in volumes.items())
    name = escape(metric.name)
    return f"""<h3>At equal sparsity</h3>
<p class="quiet">Each seed's frontier, read between its points and not beyond the runs; a technique that a seed did
not measure there is left out. Differences in
{"points of " if metric.full else ""}{name}, by the seeds
that both have, with Student's 95 % interval of their mean, which is wide for a few seeds. p is
Holm's. Area below the frontier of all runs (reference: sparsity 0, {name}
{zero_text}): {listed}.</p>
{figure}
{compared_table(found, metric)}
"""


def _area(volume: float, metric: Metric) -> str:
    return f"{metric.full * volume:.3f}" if metric.full else f"{volume:.3g}"


def _problems(page: Page, results: Sequence[Result], missing: Sequence[str]) -> str:
    diverged = [result for result in results if not result.finished]
    kept = any(result.replicate != result.seed for result in diverged)
    text = ""
    if diverged:
        table = page.table("diverged", "runs", diverged_columns(kept=kept), status="diverged")
        text += f"<h2>Diverged</h2><p>{count(len(diverged), 'run')}, in none of the means above.</p>{table}"
    if missing:
        text += (
            f"<h2>Unfinished</h2><p>{count(len(missing), 'run')} without a result: {escape(', '.join(missing))}.</p>"
        )
    return text


def _method(results: Sequence[Result], named: str, judged: Collection[Metric], command: str | None) -> str:
    def distinct(part: Callable[[Environment], object]) -> str:
        values = {str(value) for result in results if (value := part(result.environment)) is not None}
        return ", ".join(sorted(values)) or "unknown"

    finished = [result for result in results if result.finished]
    seeds = sorted({result.replicate for result in finished})
    steps = sorted({result.step for result in finished})
    counting = " that count as" if any(result.replicate != result.seed for result in finished) else " with"
    from_seeds = f"{counting} seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"
    lengths = f"{', '.join(f'{step:,}' for step in steps)} step{'s' * (steps != [1])}"
    seconds = sum(result.cost.seconds or 0 for result in results)
    zeros = {
        "simulated": "zeros are simulated, that is stored and multiplied like any other number (dense arithmetic)",
        "executed": "zeros are executed, that is left out of the arithmetic",
    }
    how = "; ".join(zeros.get(kind, kind) for kind in sorted({result.execution for result in finished}))
    runs = count(sum(result.trained for result in finished), "finished run")
    others = sum(not result.trained for result in finished)
    more = count(others, "more point is", "more points are")
    widths = [result.environment.fleet for result in finished if result.trained and result.environment.fleet]
    on = {result.judged_on for result in finished}
    where = [words for data, words in (("test", "the test set"), ("validation", "validation data")) if data in on]
    sentences = [
        f"{runs} of {lengths}{from_seeds}; {duration(seconds)} of training.",
        *(
            [
                f"{len(widths)} of these were trained as one model with others, at most {max(widths):,} at a time; "
                "their times are their shares."
            ]
            if widths
            else []
        ),
        *([f"{more} those runs at other thresholds, which cost no training."] if others else []),
        f"{named[0].upper()}{named[1:]} and sparsity are those of the finalized model: plain modules with real "
        f"zeros, on {' or '.join(where)}{', as the title of a task says' if len(where) > 1 else ''}.",
        *(
            ["BLEU is sacrebleu's, from 0 to 100, of translations by beam search."]
            if any(metric.key == BLEU.key for metric in judged)
            else []
        ),
        "Sparsity is the fraction of zeros among the weights that the technique was given; "
        "“of all” is among all parameters.",
        "Intervals are Student's t over seeds, 95 %, of the mean.",
        *(
            [
                "A network that keeps the zeros of another run counts under that run's seed; several that keep those "
                "of one run count once, with their mean."
            ]
            if any(result.replicate != result.seed for result in results)
            else []
        ),
        f"In these runs {how}.",
        f"Hardware: {distinct(lambda e: e.processor)} ({distinct(lambda e: e.device)}, "
        f"threads: {distinct(lambda e: e.threads)}). torch {distinct(lambda e: e.torch)}, "
        f"Python {distinct(lambda e: e.python)}, openwork {distinct(lambda e: e.openwork)}, "
        f"commit {distinct(lambda e: e.commit)}.",
    ]
    if command:
        sentences.append(f"Command: {command}")
    return "".join(f"<p>{escape(sentence)}</p>\n" for sentence in sentences)
