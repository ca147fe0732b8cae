"""Draws the paper's figures 2, 4 and 6 from the rows of the large half, where they are there.

Figures 2 and 4: where the zeros are, means of at least three models of a level each. Figure 6: masks without the
training that found them, beside the published ones.

Run: python results/draw_large.py
"""

from collections.abc import Iterable
from itertools import product
from statistics import fmean
from typing import Any

import altair as alt
import large_study as large
import vl_convert
from large_layers import KINDS, alike, kinds, layers, resnets
from large_rows import Cell, number
from large_study import BOTH, EXTENDED, KEPT, STUDY, VD, of_masks
from seeds import best

from openwork.study.experiments import large_resnet50, large_transformer
from openwork.study.published.comparison import LEVELS as CHECKPOINTS
from openwork.study.published.overlay import bands
from openwork.study.report.looks import looks
from openwork.study.report.style import theme

NAMES = {
    "magnitude": "GradualMagnitude",
    EXTENDED: "GradualMagnitude, extended",
    VD: "VariationalDropout",
    "L0": "L0",
}


def masks(network: str) -> list[dict[str, Any]]:
    """Figure 6: the kinds of networks of a mask, mean, lowest and highest of the masks, and as published."""
    module, model = (large_transformer, "transformer") if network == BOTH else (large_resnet50, "resnet50")
    found = []
    for kind, level in product(("magnitude", *KEPT), module.MASK_LEVELS):
        if values := list(of_masks(network, kind, level).values()):
            ends = {"mean": fmean(values), "lowest": min(values), "highest": max(values)}
            found.append({"by": "openwork", "kind": kind, "sparsity": 100 * level, **ends})
    published = [
        {"by": "published", "kind": band.name, "sparsity": 100 * band.sparsity,
         "mean": band.mean, "lowest": band.lowest, "highest": band.highest}
        for band in bands(model)
        if band.name in KEPT
    ]  # fmt: skip
    for level in CHECKPOINTS[model]:
        one = best(model, "magnitude_pruning", level)
        ends = {"mean": one, "lowest": one, "highest": one}
        published.append({"by": "published", "kind": "magnitude", "sparsity": 100 * level, **ends})
    return [*found, *published] if found else []


def quality(of: dict[str, Cell]) -> str:
    """The mean scores of the models, which are to be of like quality."""
    return "; ".join(f"{name} {fmean(large.scores(cell).values()):.1f}" for name, cell in of.items() if cell)


def _colour(names: Iterable[str]) -> alt.Color:
    names = list(names)
    colours = [colour for colour, _ in looks([NAMES[name] for name in names]).values()]
    return alt.Color("technique:N").scale(domain=names, range=colours).legend(title=None, orient="bottom")


def bars(values: list[dict[str, Any]]) -> alt.Chart:
    """Figure 2."""
    two = alike()
    every = [100 * fmean(number(row, "sparsity") for row in cell.values()) for cell in two.values()]
    zeros = f"{min(every):.0f} to {max(every):.0f} %"
    names = list(dict.fromkeys(value["technique"] for value in values))
    return (
        alt.Chart(alt.InlineData(values=values))
        .mark_bar()
        .encode(
            alt.X("kind:N").sort(list(dict.fromkeys(KINDS.values()))).axis(title=None, labelAngle=-30),
            alt.Y("sparsity:Q").scale(zero=False).axis(title="zeros, %"),
            xOffset=alt.XOffset("technique:N").sort(names),
            color=_colour(names),
        )
        .properties(width=420, height=300, title=_title(f"Transformer, {zeros} zeros: by kind of layer", "BLEU", two))
    )


def lines(values: list[dict[str, Any]]) -> alt.LayerChart:
    """Figure 4."""
    names = list(dict.fromkeys(value["technique"] for value in values))
    shapes = [shape for _, shape in looks([NAMES[name] for name in names]).values()]
    base = alt.Chart(alt.InlineData(values=values)).encode(
        alt.X("place:Q").axis(title="layer, from the input to fc", grid=False),
        alt.Y("sparsity:Q").axis(title="zeros, %"),
        color=_colour(names),
        shape=alt.Shape("technique:N").scale(domain=names, range=shapes).legend(title=None, orient="bottom"),
    )
    title = _title("ResNet-50 at 95 %, 30 epochs: zeros of every layer", "accuracy, %", resnets())
    return (base.mark_line() + base.mark_point(filled=True, size=45)).properties(width=620, height=320, title=title)


def _title(text: str, unit: str, of: dict[str, Cell]) -> alt.TitleParams:
    return alt.TitleParams(text, subtitle=f"Means of three seeds; {unit}: {quality(of)}")


def panel(values: list[dict[str, Any]], title: str) -> alt.TopLevelMixin:
    """One network of figure 6."""
    base = alt.Chart(alt.InlineData(values=values)).encode(
        alt.X("sparsity:Q").scale(domain=[48, 100]).axis(title="sparsity, %", values=[50, 60, 70, 80, 90, 98]),
        color=alt.Color("kind:N").sort(["magnitude", *KEPT]).legend(title=None, orient="bottom", columns=5),
    )
    y = alt.Y("mean:Q").scale(zero=False).axis(title="BLEU" if title.startswith(BOTH) else "accuracy, %")
    shown = [base.mark_line(point=True).encode(y), base.mark_rule().encode(alt.Y("lowest:Q"), y2="highest:Q")]
    return alt.layer(*shown).properties(width=300, height=280, title=title)


def main() -> None:
    """Writes the pictures whose rows are there."""
    if two := kinds():
        _write("kinds.png", bars(two))
    if four := layers():
        _write("layers.png", lines(four))
    panels = [
        panel([value for value in values if value["by"] == by], f"{network}, {by}")
        for network in (BOTH, "ResNet-50")
        if (values := masks(network))
        for by in ("openwork", "published")
    ]
    if panels:
        _write("masks.png", alt.concat(*panels, columns=2))


def _write(name: str, chart: alt.TopLevelMixin) -> None:
    spec = chart.configure(**theme(dark=False) | {"background": "white"}).to_dict()
    (STUDY.parent / name).write_bytes(vl_convert.vegalite_to_png(spec, scale=2))


if __name__ == "__main__":
    main()
