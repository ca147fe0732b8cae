"""Draws the pictures of the one-shot study, one for each network that has rows: techniques over levels, with intervals.

Run: python results/draw_one_shots.py
"""

import math
from collections.abc import Callable
from statistics import fmean
from typing import Any

import altair as alt
import vl_convert
from one_shots import LANGUAGE, LEVELS, MINILM, SEEDLESS, STUDY, TECHNIQUES, Network, found

from openwork.study.report.looks import encoded
from openwork.study.report.style import theme
from openwork.study.results.student import student_interval

WORST = 400.0  # perplexity: what lies beyond is left out, or what others differ by could not be seen
TITLES = {False: "without reconstruct", True: "with reconstruct"}


def points(network: Network, write: Callable[[float], float]) -> list[dict[str, Any]]:
    """Means with their intervals, by technique, level and whether the weights were reconstructed."""
    values = []
    for ((name, fitted), level), by_seed in found(network.file, network.measure).items():
        if name in TECHNIQUES:
            mean = fmean(by_seed.values())
            low, high = student_interval(tuple(by_seed.values())) or (mean, mean)
            values.append({"technique": name, "level": level, "fitted": fitted, "mean": write(mean),
                           "low": write(low), "high": write(high)})  # fmt: skip
    if network is MINILM:
        return [value | {"low": max(value["low"], 0.0)} for value in values]
    return [value | {"high": min(value["high"], WORST)} for value in values if value["mean"] <= WORST]


def drawn(network: Network) -> alt.TopLevelMixin:
    """Four panels with one axis: sparsities and n:m, without and with `reconstruct`."""
    minilm = network is MINILM
    values = points(network, (lambda cosine: cosine) if minilm else math.exp)
    names = [name for name in TECHNIQUES if any(value["technique"] == name for value in values)]
    least = min(value["mean"] for value in values)
    scale = alt.Scale(domain=[0, 1]) if minilm else alt.Scale(type="log", domain=[0.98 * least, WORST], nice=False)
    channels = encoded(names, alt.Legend(orient="right", title=None, columns=1))
    color, shape = channels["color"], channels["shape"]
    dash = alt.StrokeDash("technique:N").legend(None).scale(
        domain=names, range=[[6, 3] if name in ("global magnitude", "OWL") else [1, 0] for name in names]
    )  # fmt: skip

    def panel(fitted: bool, levels: tuple[str, ...], first: bool) -> alt.LayerChart:
        own = [value for value in values if value["fitted"] == fitted and value["level"] in levels]
        title = ("mean cosine with the dense embedding" if minilm else "perplexity") if first else None
        ticks = alt.Undefined if minilm else [100, 120, 150, 200, 250, 300, 400]
        y = alt.Y("mean:Q", scale=scale).axis(title=title, labelOpacity=int(first), values=ticks)
        x = alt.X("level:O", sort=list(levels)).scale(domain=list(levels)).axis(title=None, labelAngle=0)
        base = alt.Chart(alt.InlineData(values=own)).encode(x, color=color)
        ends = base.mark_rule(strokeWidth=1.5).encode(alt.Y("low:Q", scale=scale), y2="high:Q")
        marks = base.mark_point(filled=True, size=55, opacity=1).encode(y, shape=shape)
        line = [base.mark_line(strokeWidth=1.5).encode(y, strokeDash=dash)] if levels == LEVELS[:4] else []
        return alt.layer(*line, ends, marks).properties(
            width=60 * len(levels),
            height=420,
            title=alt.TitleParams(TITLES[fitted], fontSize=12, frame="group", anchor="start"),
        )

    panels = [panel(fitted, levels, (fitted, levels) == (False, LEVELS[:4]))
              for levels in (LEVELS[:4], LEVELS[4:]) for fitted in (False, True)]  # fmt: skip
    counts = {len(by_seed) for ((name, fitted), _), by_seed in found(network.file, network.measure).items()
              if name in TECHNIQUES and (name not in SEEDLESS or fitted)}  # fmt: skip
    n = " to ".join(str(each) for each in sorted({min(counts), max(counts)}))
    return alt.hconcat(*panels, spacing=10, bounds="flush").properties(
        title=alt.TitleParams(
            f"{'MiniLM' if minilm else 'A small language model'}, pruned once with 128 "
            f"{'sentences' if minilm else 'windows of text'}",
            subtitle=[
                f"Means of n = {n} draws of these{', with 95 % intervals' if max(counts) > 1 else ''}.",
                *([] if minilm else [f"Perplexities above {WORST:g} are left out, and intervals end at the frame."]),
            ],
        )
    )


def main() -> None:
    """Writes the pictures."""
    for network in (MINILM, LANGUAGE):
        if any(key[0] in TECHNIQUES for key, _ in found(network.file, network.measure)):
            spec = drawn(network).configure(**theme(dark=False) | {"background": "white"}).to_dict()
            (STUDY.parent / f"{network.file}.png").write_bytes(vl_convert.vegalite_to_png(spec, scale=2))


if __name__ == "__main__":
    main()
