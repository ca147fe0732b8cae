"""Draws the pictures of the small study: errors over sparsity, with intervals, from the committed rows.

Run: python results/draw_study.py
"""

from pathlib import Path
from typing import Any

import altair as alt
import cifar_tournament
import vl_convert
from masks import KINDS, by_mask, whole
from played import errors, finals, sparsities
from tournaments import has_begun

from openwork.study.experiments.section6 import LEVELS as MASK_LEVELS
from openwork.study.experiments.tournament import ENTRANTS, LEVELS
from openwork.study.experiments.tournament_cifar10 import contest
from openwork.study.report.looks import encoded, looks
from openwork.study.report.style import theme
from openwork.study.results.student import student_interval

STUDY, CIFAR = (Path(__file__).parent / study for study in ("mnist", "cifar10-tournament"))
WORST = 10.0  # % of error: what lies beyond is left out, as it says no more than that a network has broken
MARKS = [1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 25, 30, 40, 50]
SHIFT = 1.012  # between the kinds of a level of section 6, so that intervals do not hide each other
NEAR = 1.006  # the same between the techniques on CIFAR-10, of which there are more
DASHES = ([1, 0], [6, 3], [2, 2])  # of lines of one colour


def point(line: str, level: float, sparsity: float, wrong: tuple[float, ...]) -> dict[str, Any]:
    """A mean error with its interval."""
    middle = sum(wrong) / len(wrong)
    low, high = student_interval(wrong) or (middle, middle)
    return {
        "technique": line,
        "level": f"{100 * level:g} %",
        "left": 100 - sparsity,
        "error": middle,
        "low": max(low, 0.01),
        "high": high,
    }


def tournament() -> alt.TopLevelMixin:
    """Every technique on LeNet-300-100 over the sparsity that its final runs have; dense as a line."""
    values = [
        point(name, level, sum(sparsities(runs)) / len(runs), errors(runs))
        for name in ENTRANTS
        for level in LEVELS
        if (runs := finals().get((name, level)))
    ]
    return trade_off(
        values,
        errors(finals()["dense", 0.0]),
        list(ENTRANTS),
        "LeNet-300-100 on MNIST: error over the weights that are left",
        "Means of 20 seeds with 95 % intervals, each technique tuned with 60 runs. Grey band: dense.",
        ticks=[50, 20, 10, 5, 2, 1, 0.5],
    )


def tournament_cifar10() -> alt.TopLevelMixin:
    """The same of ResNet-20 on CIFAR-10."""
    values = [
        point(name, level, sum(sparsities(runs)) / len(runs), wrong(runs))
        for (name, level), runs in cifar_tournament.finals().items()
        if level
    ]
    names = [name for name in contest().entrants if any(value["technique"] == name for value in values)]
    for value in values:
        value["left"] *= NEAR ** (len(names) // 2 - names.index(value["technique"]))
    counts = sorted({len(runs) for runs in cifar_tournament.finals().values()})
    return trade_off(
        values,
        wrong(cifar_tournament.finals()["dense", 0.0]),
        list(contest().entrants),
        "ResNet-20 on a JPEG copy of CIFAR-10: error over the weights that are left",
        f"Means of {' or '.join(map(str, counts))} seeds with 95 % intervals, each technique tuned with 8 runs; drawn "
        "side by side at each level. Grey band: dense.",
        ticks=[20, 10, 5, 2],
        worst=65.0,
        height=760,
    )


def wrong(runs: list[dict[str, str]]) -> tuple[float, ...]:
    """The errors of runs on CIFAR-10, in %."""
    return tuple(100 - 100 * score for score in cifar_tournament.scores(runs).values())


def trade_off(
    values: list[dict[str, Any]],
    dense: tuple[float, ...],
    names: list[str],
    title: str,
    subtitle: str,
    *,
    ticks: list[float],
    worst: float = WORST,
    height: int = 560,
) -> alt.TopLevelMixin:
    """Errors over the weights that are left, and the interval of the dense network."""
    there = [name for name in names if any(value["technique"] == name for value in values)]
    low, high = student_interval(dense) or (dense[0], dense[0])
    band = alt.Chart(alt.InlineData(values=[{"low": low, "high": high}])).mark_rect(style="dense-band")
    marks = drawn([value for value in values if value["left"] > 0], there, ticks=ticks, worst=worst)
    return alt.layer(band.encode(y="low:Q", y2="high:Q"), *marks).properties(
        width=720,
        height=height,
        title=alt.TitleParams(
            title,
            subtitle=[subtitle, f"Errors above {worst:g} % are left out, and intervals end at the frame."],
        ),
    )


def masks() -> alt.TopLevelMixin:
    """The kinds of networks of section 6 over the sparsity of their masks."""
    values = [
        point(kind, level, 100 * level, tuple(100 * (1 - value) for value in by_mask(kind, level).values()))
        for kind in KINDS
        for level in MASK_LEVELS
        if by_mask(kind, level)
    ]
    for value in values:
        value["left"] *= SHIFT ** (len(KINDS) // 2 - KINDS.index(value["technique"]))
    return alt.layer(*drawn(values, list(KINDS), ticks=[100 - 100 * level for level in MASK_LEVELS])).properties(
        width=720,
        height=560,
        title=alt.TitleParams(
            "Masks of magnitude pruning, trained again: error over the weights that are left",
            subtitle=[
                "Means of five masks with 95 % intervals, five replicas of each; drawn side by side at each level.",
                f"Errors above {WORST:g} % are left out, and intervals end at the frame.",
            ],
        ),
    )


def drawn(
    values: list[dict[str, Any]], names: list[str], *, ticks: list[float], worst: float = WORST
) -> list[alt.Chart]:
    """Lines, intervals and points on logarithmic axes."""
    values = [value for value in values if value["error"] <= worst]
    channels = encoded(names, alt.Legend(orient="right", title=None, columns=1))
    color, shape = channels["color"], channels["shape"]
    colours = [colour for colour, _ in looks(names).values()]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        alt.X("left:Q")
        .scale(type="log", reverse=True, nice=False, padding=12)
        .axis(title="weights left, %", grid=False, values=[round(tick, 6) for tick in ticks], format="~g"),
        color=color,
    )
    kinds = [colours[:place].count(colour) for place, colour in enumerate(colours)]
    dash = alt.StrokeDash("technique:N").scale(domain=names, range=[DASHES[kind] for kind in kinds]).legend(None)
    # By the means: an interval that is wider than all of them would flatten the picture.
    means = [value["error"] for value in values]
    ends = 0.9 * min(means), 1.1 * max(means)
    scale = alt.Scale(type="log", nice=False, clamp=True, domain=list(ends))
    marks = [mark for mark in MARKS if ends[0] < mark < ends[1]]  # clamped, others would lie at the ends
    y = alt.Y("error:Q", scale=scale).axis(title="error on the test set, %", values=marks, format="~g")
    return [
        base.mark_line(strokeWidth=1.5).encode(y, strokeDash=dash),
        base.mark_rule(strokeWidth=1.5).encode(alt.Y("low:Q", scale=scale), y2="high:Q"),
        base.mark_point(filled=True, size=55, opacity=1).encode(y, shape=shape),
    ]


def main() -> None:
    """Writes the pictures."""
    pictures = (
        (STUDY / "tournament.png", has_begun, tournament),
        (STUDY / "masks.png", whole, masks),
        (CIFAR / "tournament.png", cifar_tournament.has_begun, tournament_cifar10),
    )
    for path, there, chart in pictures:
        if not there():
            continue  # not run yet, as the tables say
        spec = chart().configure(**theme(dark=False) | {"background": "white"}).to_dict()
        path.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))


if __name__ == "__main__":
    main()
