"""Where a technique puts its zeros: the sparsity of every layer, and of every kind of layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from openwork.study.report.looks import encoded
from openwork.study.report.style import ChartData, left_axis, percent, require_study_extra
from openwork.study.results.replicates import finished_replicates, replicate_means
from openwork.study.results.result import Result
from openwork.study.results.statistics import Point
from openwork.study.results.zeros import LayerZeros
from openwork.words import count

if TYPE_CHECKING:
    from openwork.study.report.style import Chart

# Roles in a Transformer by the names of the common implementations; the first that matches.
_KINDS = (
    ("embedding", r"embed|\b(wte|wpe)\b"),
    ("query, key, value", r"in_proj|qkv|c_attn"),
    ("query", r"\b(q|query|to_q|wq)\b|\bq_"),
    ("key", r"\b(k|key|to_k|wk)\b|\bk_"),
    ("value", r"\b(v|value|to_v|wv)\b|\bv_"),
    ("attention output", r"out_proj|o_proj|to_out|output_transform|(attn|attention|own|cross).*\b(output|o)\b"),
    ("feed-forward", r"ffn|mlp|feed_?forward|\d\.(linear|fc)[12]\b|c_fc|c_proj|\b(up|down|gate)(_proj)?\b"),
)


def kind(name: str, shape: Sequence[int]) -> str:
    """The sort of layer a weight is: by its name if that says its role in a Transformer, otherwise by its shape."""
    if len(shape) > 2:
        return f"convolution {'×'.join(map(str, shape[2:]))}"
    return next((kind for kind, pattern in _KINDS if re.search(pattern, name.lower())), "linear")


def kind_panel(points: Mapping[str, Point], results: Sequence[Result], *, names: Sequence[str]) -> Chart | None:
    """The sparsity of each kind of layer, all layers of the kind together, a marker for each technique.

    None where every layer is the only one of its kind, or all are of one. Give the panel a width.

    Args:
        points: As for `layer_panels`.
        results: As for `layer_panels`.
        names: As for `layer_panels`.
    """
    require_study_extra()
    import altair as alt

    found: ChartData = []
    layers = {name: _mean_layers(point, results) for name, point in points.items()}
    for name, group in layers.items():
        kinds: dict[str, list[MeanLayer]] = {}
        for layer in group:
            kinds.setdefault(kind(layer.name, layer.shape), []).append(layer)
        found += [
            {
                "technique": name,
                "kind": word,
                "layers": len(members),
                "sparsity": 1 - sum(layer.nonzero for layer in members) / sum(layer.weights for layer in members),
            }
            for word, members in kinds.items()
        ]
    different = {value["kind"] for value in found}
    if len(different) < 2 or max(len(group) for group in layers.values()) <= len(different):
        return None
    x = left_axis([value["sparsity"] for value in found])
    legend = alt.Legend(orient="top", title=None, values=sorted(name for name, group in layers.items() if group))
    base = alt.Chart(alt.InlineData(values=[value | {"x": x.left(value["sparsity"])} for value in found])).encode(
        alt.X("x:Q").scale(x.scale()).axis(x.marks("sparsity, %", grid=True)),
        alt.Y("kind:N").sort(None).axis(title=None, labelLimit=160),
        tooltip=["technique:N", "kind:N", "layers:Q", alt.Tooltip("sparsity:Q", format=".2%")],
        **encoded(names, legend),
    )
    title = alt.TitleParams("Sparsity by kind of layer", subtitle="All layers of a kind together.")
    marks = base.mark_point(filled=True, size=90, opacity=1)
    return alt.layer(marks).properties(title=title, height=26 * len(different))


def layer_panels(points: Mapping[str, Point], results: Sequence[Result], *, names: Sequence[str]) -> list[Chart]:
    """One panel per technique with the sparsity of every layer; give each a width.

    A dot is a layer's mean over seeds; its line starts at the sparsity of all those layers together, so that it points
    right where the layer is sparser than the whole and left where it is denser. All panels share one logarithmic axis.

    Args:
        points: Technique -> its operating point, of one task. Techniques whose runs list no layers get no panel.
        results: Those of that task.
        names: Every technique of the study.
    """
    require_study_extra()
    import altair as alt

    layers = {name: _mean_layers(point, results) for name, point in points.items()}
    layers = {name: found for name, found in layers.items() if found}
    x = left_axis([layer.sparsity for found in layers.values() for layer in found])
    panels = []
    for name, found in layers.items():
        total = 1 - sum(layer.nonzero for layer in found) / sum(layer.weights for layer in found)
        data = alt.InlineData(
            values=[
                {
                    "technique": name,
                    "name": layer.name,
                    "layer": layer.name.removesuffix(".weight"),
                    "shape": " × ".join(map(str, layer.shape)),
                    "nonzero": f"{layer.nonzero:,.0f} of {layer.weights:,}",
                    "sparsity": layer.sparsity,
                    "x": x.left(layer.sparsity),
                    "total": x.left(total),
                }
                for layer in found
            ]
        )
        base = alt.Chart(data).encode(
            alt.X("x:Q").scale(x.scale()).axis(x.marks("sparsity, %", grid=True)),
            alt.Y("layer:N").sort(None).axis(title=None, labelLimit=130),
        )
        channels = encoded(names, None)
        color, shape = channels["color"], channels["shape"]
        tooltip = [
            alt.Tooltip("name:N", title="layer"),
            alt.Tooltip("shape:N"),
            alt.Tooltip("nonzero:N", title="non-zero"),
            alt.Tooltip("sparsity:Q", format=".2%"),
        ]
        point = points[name]
        title = alt.TitleParams(
            f"{name} at {percent(point.sparsity)} sparsity",
            subtitle=f"{point.settings}, {count(point.n, 'seed')}",
            limit=320,
        )
        panels.append(
            alt.layer(
                base.mark_rule(style="total").encode(x="total:Q", y=alt.value(0), y2=alt.value("height")),
                base.mark_rule(strokeWidth=2).encode(x2="total:Q", color=color),
                base.mark_point(filled=True, size=70, opacity=1).encode(color=color, shape=shape, tooltip=tooltip),
            ).properties(title=title, height=20 * len(found))
        )
    return panels


@dataclass(frozen=True)
class MeanLayer:
    """One layer at one operating point: `nonzero` and `sparsity` are means over seeds."""

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzero: float
    sparsity: float


def _mean_layers(point: Point, results: Iterable[Result]) -> list[MeanLayer]:
    """The layers of the finished runs of `point`, in the order of the model."""
    replicates = finished_replicates(result for result in results if result.group == point.group)
    runs = [result for group in replicates.values() for result in group]
    first: dict[str, LayerZeros] = {}
    of: dict[str, dict[str, LayerZeros]] = {}
    for result in runs:
        for layer in result.layers:
            first.setdefault(layer.name, layer)
            of.setdefault(layer.name, {})[result.id] = layer

    def mean(name: str, what: str) -> float:
        values = {id: getattr(layer, what) for id, layer in of[name].items()}
        return fmean(replicate_means(replicates, lambda run: values.get(run.id)).values())

    return [
        MeanLayer(name, layer.shape, layer.weights, mean(name, "nonzero"), mean(name, "sparsity"))
        for name, layer in first.items()
    ]
