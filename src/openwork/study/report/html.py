"""Self-contained pages of charts and tables, and the same charts as pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from openwork.study.files import write_atomically, write_text
from openwork.study.report.looks import DARK
from openwork.study.report.style import theme

Values = Sequence[Mapping[str, Any]]


@dataclass
class Page:
    """The parts of a page; `write` fills the template with them."""

    title: str
    charts: dict[str, Any] = field(default_factory=dict)
    """id -> Vega-Lite specification."""
    data: dict[str, Any] = field(default_factory=dict)
    """Name -> table in columns, for charts and sortable tables."""
    tables: dict[str, Any] = field(default_factory=dict)
    """id -> name of its data, columns, and what it holds."""
    pictures: list[str] = field(default_factory=list)

    def figure(
        self, chart: Any, name: str, *, runs: tuple[int, str] | None = None, technique: str | None = None
    ) -> str:
        """The HTML of a chart's place; its title becomes text, which wraps on a phone.

        Args:
            chart: One of Altair's.
            name: Its id on the page.
            runs: The number of the task whose runs are the chart's data, and the key of their metric.
            technique: The only technique that it shows, if it shows only one.
        """
        spec: dict[str, Any] = chart.properties(width="container").to_dict()
        spec["autosize"] = {"type": "fit-x", "contains": "padding"}
        del spec["config"]  # the page chooses the light or the dark one
        title = spec.pop("title")
        spec["usermeta"] = {"title": title} | dict(zip(("task", "metric"), runs or (), strict=False))
        self.charts[name] = spec
        lines = title.get("subtitle", [])
        lines = [lines] if isinstance(lines, str) else lines
        caption = f"<b>{escape(title['text'])}</b><br>{escape(' '.join(lines))}"
        alone = f' data-technique="{escape(technique)}"' if technique else ""
        place = f'<div class="chart" id="{name}" role="img" aria-label="{escape(title["text"])}"></div>'
        return f"<figure{alone}><figcaption>{caption}</figcaption>{place}</figure>"

    def table(self, name: str, data: str, columns: Sequence[tuple[str, str, str]], **where: object) -> str:
        """The HTML of a sortable table's place; the page fills it, 20 lines at a time.

        Args:
            name: Its id on the page.
            data: The name of its data.
            columns: (field, heading, how to write it: ``text``, ``percent`` or, without its sign, ``hundred``,
                ``time``, ``MB`` or ``number``).
            **where: The fields and values of the lines it shows.
        """
        self.tables[name] = {"data": data, "columns": columns, "where": where}
        return f'<div class="sortable" id="{name}"></div>'

    def write(self, path: Path, *, answer: str = "", body: str, method: str, filters: Mapping[str, Any]) -> None:
        """Writes the page.

        Args:
            path: The HTML file.
            answer: HTML of what was found, the first that is read.
            body: HTML of the page's main part.
            method: HTML of the part about how it was measured.
            filters: The filters' names, titles and choices.
        """
        folder = files(__package__)
        text = Template(folder.joinpath("page.html").read_text(encoding="utf-8")).substitute(
            title=escape(self.title),
            answer=answer,
            body=body,
            method=method,
            bundle=_bundle(),
            script=folder.joinpath("page.js").read_text(encoding="utf-8"),
            charts=_json(self.charts),
            data=_json(self.data),
            tables=_json(self.tables),
            filters=_json(filters),
            dark=_json(DARK),
            themes=_json({"light": theme(dark=False), "dark": theme(dark=True)}),
        )
        write_text(path, text)


@cache
def _bundle() -> str:
    """The libraries that draw charts, as one script; making it takes seconds."""
    import vl_convert

    # A literal "</script" in the libraries would end the element.
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", r"<\/script")


def unbroken(text: str) -> str:
    """A sentence as HTML whose numbers keep their units: a line of a phone is short."""
    return escape(text).replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")


def columns(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Dicts with the same keys as columns: text as numbers of an entry in a list, other values as they are.

    Thousands of runs share a handful of techniques and settings, and no key is repeated: a fifth of the bytes.
    """
    packed: dict[str, Any] = {}
    for key in values[0] if values else ():
        column = [value[key] for value in values]
        if any(isinstance(cell, str) for cell in column):
            entries = {cell: number for number, cell in enumerate(dict.fromkeys(column))}
            packed[key] = {"entries": list(entries), "index": [entries[cell] for cell in column]}
        else:
            packed[key] = [_short(cell) for cell in column]
    return packed


def draw(chart: Any, path: Path, pictures: list[str], data: Mapping[str, Values] | None = None) -> None:
    """Writes path.png and path.svg on white, for documents.

    Args:
        chart: One of Altair's.
        path: Without a suffix.
        pictures: Gets the names of both files.
        data: The chart's data sets by name.
    """
    import vl_convert

    spec = {**chart.to_dict(), "config": {**theme(dark=False), "background": "#ffffff", "padding": 16}}
    if data:
        spec["datasets"] = {**spec.get("datasets", {}), **{name: list(values) for name, values in data.items()}}
    png = vl_convert.vegalite_to_png(spec, scale=2)
    write_atomically(path.with_suffix(".png"), lambda temporary: temporary.write_bytes(png))
    write_text(path.with_suffix(".svg"), vl_convert.vegalite_to_svg(spec))
    pictures += [f"{path.name}.png", f"{path.name}.svg"]


def _short(value: Any) -> Any:
    """Nine digits, so that what ties in Python ties on the page; NaN, which JSON lacks, is null."""
    if isinstance(value, float):
        return None if value != value else float(f"{value:.9g}")
    return value


def _json(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c")  # a "</script>" in a setting must not end the script
