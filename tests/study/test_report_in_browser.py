"""The report page in headless Chromium: it draws, answers to mouse and filters, and asks for nothing."""

import csv
import json
import random
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from openwork.study.evaluation.metric import Metric
from openwork.study.report.looks import DARK, look
from openwork.study.report.page import write_report
from openwork.study.report.versus import write_versus
from openwork.study.results.statistics import pareto, summarize
from tests.study.studies import diverged, results, row, study

pytestmark = pytest.mark.browser

DRAWN = "() => Promise.all(Object.values(drawn)).then(() => Object.keys(drawn))"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    draw = random.Random(0)
    settings = [(name, number) for name in ("A", "B", "C") for number in range(12)]
    rows = [
        row(name, f"number={number}", seed, round(draw.uniform(0.5, 0.99), 2), draw.uniform(0.9, 0.97))
        for name, number in settings
        for seed in (0, 1)
    ]
    # What ties: equally sparse and equally accurate; as accurate and less sparse; as sparse and less accurate.
    ties = [("A", "t1", 0.995, 0.88), ("B", "t2", 0.995, 0.88), ("A", "t3", 0.994, 0.88), ("C", "t4", 0.995, 0.87)]
    rows += [row(name, text, 0, sparsity, accuracy) for name, text, sparsity, accuracy in ties]
    # Equal means of unequal seeds, in another order: the less sparse one is beaten.
    rows += [row("C", "m1", seed, 0.992, a) for seed, a in enumerate((0.1 + 0.8, 0.87, 0.893))]
    rows += [row("C", "m2", seed, 0.991, a) for seed, a in enumerate((0.893, 0.9, 0.87))]
    rows += [row("dense", "plain", seed, 0.0, 0.975 + 0.001 * seed) for seed in (0, 1)] + [diverged("B", "exploded", 1)]
    folder = study(tmp_path_factory.mktemp("study"), [{**one, "task": "LeNet-300-100, MNIST"} for one in rows])
    return write_report(folder, folder / "report"), results(rows)


class Visit:
    """One page in the browser, with all it said and asked for."""

    def __init__(self, browser, path, **options):
        self.page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}} | options)
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.charts = self.page.evaluate(DRAWN)

    def values(self, field, chart="trade-off"):
        """The largest data set of a chart whose values have a field."""
        found = self.page.evaluate(
            """([id, field]) => drawn[id].then(({view}) => {
                 const sets = Object.values(view._runtime.data).map((set) => set.values.value).filter(Boolean);
                 const having = sets.filter((set) => set.length && field in set[0] && !("mark" in set[0]));
                 return JSON.stringify(having.sort((a, b) => a.length - b.length).pop() || []); })""",
            [chart, field],
        )
        return json.loads(found)

    def tick(self, label, checked):
        self.page.get_by_label(label, exact=True).set_checked(checked)
        self.page.evaluate("() => filtered")

    def saved(self, chart, kind):
        """The file that a figure's button saves, with the keyboard."""
        with self.page.expect_download() as download:
            self.page.locator(f"#{chart} + .save").get_by_text(kind).press("Enter")
        assert download.value.suggested_filename == f"{chart}.{kind.lower()}"
        return Path(download.value.path()).read_bytes()

    def cells(self, table, column):
        place = self.page.locator(f"#{table} tbody tr td:nth-child({column})")
        return place.all_inner_texts()


@pytest.fixture
def visit(browser, report):
    made = Visit(browser, report[0])
    yield made
    made.page.close()


def test_every_chart_draws_and_nothing_is_said_or_asked_for(visit, report):
    assert visit.charts[:2] == ["trade-off", "differences"]
    assert len(visit.charts) == visit.page.locator(".chart canvas, .chart svg.marks").count() == 2 + 3 + 5
    assert visit.said == []
    # The icon and embedded images are data; the page itself is the one file.
    assert [url for url in visit.asked if not url.startswith("data:")] == [report[0].as_uri()]


def test_the_frontier_that_the_page_computes_is_the_one_of_the_tables(visit, report):
    sparse = [point for point in summarize(report[1]) if point.name != "dense"]
    ringed = {(value["technique"], value["settings"]) for value in visit.values("interval") if value["pareto"]}
    assert ringed == {(point.name, point.settings) for point in pareto(sparse)}
    assert {("A", "t1"), ("B", "t2")} <= ringed
    for name in "ABC":
        front = {value["settings"] for value in visit.values("interval") if value["technique"] == name}
        assert front == {point.settings for point in pareto(p for p in sparse if p.name == name)}


def test_intervals_are_student_s(visit, report):
    points = {(point.name, point.settings): point for point in summarize(report[1])}
    for value in visit.values("interval"):
        point = points[value["technique"], value["settings"]]
        assert value["n"] == point.n
        if point.n > 1:
            # The page's numbers have nine digits.
            assert value["from"] == pytest.approx(point.interval[0], abs=1e-7)


def test_hovering_shows_the_settings_of_a_run(visit):
    target = next(value for value in visit.values("interval") if value["settings"] == "t2")
    x, y = visit.page.evaluate(
        """(d) => drawn["trade-off"].then(({view}) =>
             [view.padding().left + view.origin()[0] + view.scale("x")(d.x),
              view.padding().top + view.origin()[1] + view.scale("y")(d.y)])""",
        target,
    )
    visit.page.locator("#trade-off .marks").hover(position={"x": x, "y": y})
    tooltip = visit.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    # A and B lie on one another here: either may be the upper one.
    assert tooltip.inner_text().split()[:2] in (["technique", "A"], ["technique", "B"])
    assert tooltip.inner_text().split()[2:6] in (["settings", t, "sparsity", "99.50%"] for t in ("t1", "t2"))


def test_what_is_not_ticked_leaves_charts_and_tables(visit):
    curves = visit.page.locator("#budget-50 .mark-line path")
    assert curves.count() == 3
    visit.tick("B", False)
    assert visit.page.locator("figure[data-technique=B]").is_hidden()
    assert {value["technique"] for value in visit.values("interval")} == {"A", "C"}
    assert curves.count() == 2
    assert "B" not in visit.cells("points", 1)
    visit.tick("B", True)
    assert visit.page.locator("figure[data-technique=B]").is_visible()
    assert {value["technique"] for value in visit.values("interval")} == {"A", "B", "C"}


def test_a_point_is_ringed_once_nothing_that_is_drawn_beats_it(visit, report):
    def ringed():
        return {(value["technique"], value["settings"]) for value in visit.values("interval") if value["pareto"]}

    for hidden, names in (("A", "BC"), ("B", "C")):
        visit.tick(hidden, False)
        left = [point for point in summarize(report[1]) if point.name in names]
        assert ringed() == {(point.name, point.settings) for point in pareto(left)}


def test_frontiers_are_those_of_the_seeds_that_are_ticked(visit, report):
    visit.tick("2", False)
    visit.tick("0", False)
    alone = [p for p in summarize(r for r in report[1] if r.seed == 1) if p.n and not p.dense]
    values = visit.values("interval")
    for name in "ABC":
        own = {p.settings for p in pareto(p for p in alone if p.name == name)}
        assert {value["settings"] for value in values if value["technique"] == name} == own
    ringed = {(value["technique"], value["settings"]) for value in values if value["pareto"]}
    assert ringed == {(point.name, point.settings) for point in pareto(alone)}


def test_means_are_those_of_the_seeds_that_are_ticked(visit, report):
    visit.tick("1", False)
    visit.tick("2", False)
    alone = {(r.name, r.settings): r.after["accuracy"] for r in report[1] if r.seed == 0}
    values = visit.values("interval")
    assert values
    for value in values:
        assert value["score"] == pytest.approx(alone[value["technique"], value["settings"]], rel=1e-8)
    assert set(visit.cells("runs", 2)) == {"0"}


def test_tables_are_sorted_by_the_heading_that_is_pressed_and_turned(visit):
    heading = visit.page.locator("#runs th", has_text="accuracy")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    rising = [float(text.split()[0]) for text in visit.cells("runs", 7)]
    assert len(rising) == 20
    assert rising == sorted(rising)
    heading.get_by_role("button").press("Enter")  # the keyboard does as well
    falling = [float(text.split()[0]) for text in visit.cells("runs", 7)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == 97.6  # dense, seed 1
    assert visit.page.locator("#runs [role=status]").inner_text() == "1–20 of 85"
    for _ in range(4):
        visit.page.locator("#runs").get_by_label("next lines").click()
    assert visit.page.locator("#runs [role=status]").inner_text() == "81–85 of 85"
    assert visit.cells("runs", 7)[-1] == "–"  # diverged: last in either direction


def test_diverged_runs_have_a_table(visit):
    assert visit.cells("diverged", 1) == ["B"]
    assert visit.cells("diverged", 5) == ["exploded"]


def test_a_figure_is_saved_as_it_is_ticked_light_and_with_its_title(browser, report):
    visit = Visit(browser, report[0], color_scheme="dark")
    visit.tick("B", False)
    rows = list(csv.DictReader(visit.saved("trade-off", "CSV").decode().splitlines()))
    frontier = {(r["technique"], r["settings"], r["accuracy"]) for r in rows if r["part"] == "frontier"}
    assert frontier == {(v["technique"], v["settings"], str(v["score"])) for v in visit.values("interval")}
    assert {row["technique"] for row in rows if row["part"] != "published"} == {"A", "C", "dense"}
    assert [row["accuracy"] for row in rows if row["source"] and row["sparsity"] == "0.9857"] == ["0.9808"]
    assert [row["accuracy"] for row in rows if row["part"] == "run" and row["settings"] == "t1"] == ["0.88"]
    svg = visit.saved("trade-off", "SVG").decode()
    assert svg.startswith("<svg")
    assert ["LeNet-300-100, MNIST: test accuracy against sparsity" in svg, "#ffffff" in svg] == [True, True]
    assert not [dark for light, dark in DARK.items() if dark in svg and dark not in DARK]
    assert svg.count(look("A")[0]) > 10
    png = visit.saved("layers-0", "PNG")
    assert png[:4] == b"\x89PNG"
    assert int.from_bytes(png[16:20], "big") > 1500  # twice as many pixels as points
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith(("data:", "blob:"))] == [report[0].as_uri()]
    visit.page.close()


def test_a_phone_scrolls_down_alone(browser, report):
    visit = Visit(browser, report[0], viewport={"width": 390, "height": 800})
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    visit.page.close()


def test_two_sweeps_side_by_side_draw_and_fit_a_phone(browser, tmp_path):
    def sweep(name, gain):
        rows = [row("A", f"n={s}", seed, s, 0.9 + gain * seed) for s in (0.5, 0.9) for seed in range(2)]
        return study(tmp_path / name, [*rows, row(name, "alone", 0, 0.9)])

    path = write_versus((sweep("before", 0.01), sweep("after", 0.02)), tmp_path / "page")
    visit = Visit(browser, path, viewport={"width": 390, "height": 800})
    assert visit.charts == ["both", "differences"]
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    assert visit.cells("cells", 6) == ["+0.50", "+0.50"]
    assert visit.cells("only-a", 1) == ["before"]
    assert {line["sweep"] for line in csv.DictReader(visit.saved("both", "CSV").decode().splitlines())} == {
        "before",
        "after",
    }
    visit.tick("A", False)
    assert visit.cells("cells", 6) == []
    assert visit.said == []
    visit.page.close()


def test_dark_and_light_follow_the_system(browser, report):
    visit = Visit(browser, report[0], color_scheme="dark")
    dark = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    colour = "drawn['trade-off'].then(({view}) => view.scale('color')('A'))"
    seen = visit.page.evaluate(colour)
    light = next(light for light, brighter in DARK.items() if brighter == seen)
    assert dark == "rgb(20, 24, 29)"
    visit.page.emulate_media(color_scheme="light")
    visit.page.wait_for_function(f"() => {colour}.then((colour) => colour === '{light}')")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    visit.page.close()


def test_thousands_of_runs_are_all_drawn_and_answer(browser, tmp_path):
    rows = [
        row("A", f"n={i // 3}", i % 3, 0.5 + 0.00009 * (i // 3 * 3), 0.9 + 0.00001 * (i * 7919 % 5_000))
        for i in range(5_000)
    ]
    page = write_report(study(tmp_path, rows), tmp_path / "report")
    assert page.stat().st_size < 5_000_000
    visit = Visit(browser, page)
    assert len(visit.values("x")) == 5_000
    assert visit.page.locator("#trade-off canvas").count() == 1
    visit.tick("2", False)
    assert len(visit.values("x")) == 3_334
    assert visit.said == []
    visit.page.close()


def test_bleu_is_written_without_a_percent_sign(browser, tmp_path):
    rows = [row("A", f"n={s}", 0, s, 0.6, bleu=b, task="words") for s, b in ((0.5, 26.5), (0.9, 17.44))]
    visit = Visit(browser, write_report(study(tmp_path, rows), tmp_path / "report"))
    assert {(value["shown"], value["score"]) for value in visit.values("interval")} == {
        ("26.50", 0.265),
        ("17.44", 0.1744),
    }
    assert [visit.cells("runs", column) for column in (7, 8)] == [["26.50", "17.44"], ["60.00 %", "60.00 %"]]
    assert visit.cells("points", 4) == ["26.50", "17.44"]
    assert visit.said == []
    visit.page.close()


def test_of_many_seeds_all_or_one_are_drawn(browser, tmp_path):
    rows = [row("A", f"n={s}", seed, s, 0.9 + 0.01 * seed) for s in (0.5, 0.9) for seed in range(8)]
    visit = Visit(browser, write_report(study(tmp_path, rows), tmp_path / "report"))
    assert [value["n"] for value in visit.values("interval")] == [8]
    assert visit.page.get_by_label("all", exact=True).is_checked()
    visit.tick("3", True)
    (value,) = visit.values("interval")
    assert (value["n"], value["settings"], value["score"]) == (1, "n=0.9", 0.93)
    assert set(visit.cells("runs", 2)) == {"3"}
    visit.tick("all", True)
    assert [value["n"] for value in visit.values("interval")] == [8]
    assert visit.said == []
    visit.page.close()


def test_a_metric_without_bounds_has_an_axis_of_its_values(browser, tmp_path):
    metric = asdict(Metric("mse", name="squared error", higher_is_better=False))
    rows = [row("A", f"n={s}", 0, s) for s in (0.5, 0.9)]
    for one, error in zip(rows, (6.0, 22.0), strict=True):
        one |= {"metric": metric, "before": {"mse": error}, "after": {"mse": error}}
    visit = Visit(browser, write_report(study(tmp_path, rows), tmp_path / "report"))
    assert [(value["y"], value["shown"], value["pareto"]) for value in visit.values("interval")] == [
        (6, "6", True),
        (22, "22", True),
    ]
    assert visit.page.evaluate("drawn['trade-off'].then(({view}) => view.scale('y')(6) > view.scale('y')(22))")
    assert visit.cells("points", 4) == ["6", "22"]
    assert visit.said == []
    visit.page.close()


def mistakes(scale, seeds=(0, 1, 2)):
    """Rows of two techniques judged by a metric without bounds, of this size."""
    metric, draw = asdict(Metric("mse", higher_is_better=False)), random.Random(1)
    rows = [row(name, f"n={s}", seed, s) for name in "AB" for s in (0.5, 0.9) for seed in seeds]
    for one in rows:
        error = scale * draw.uniform(1, 4)
        one |= {"metric": metric, **{part: {"mse": error, "loss": error} for part in ("before", "after")}}
    return rows


@pytest.mark.parametrize("scale", [1e299, 1e15, 1e-12])
def test_very_large_and_very_small_numbers_are_written_in_powers_of_ten(browser, tmp_path, scale):
    folder = study(tmp_path, mistakes(scale))
    visit = Visit(browser, write_report(folder, folder / "report"))
    assert "differences" in visit.charts
    shown = visit.page.evaluate("() => [document.body.innerText, ...[...document.querySelectorAll('svg text')]"
                                ".map((text) => text.textContent)].join('\\n')")  # fmt: skip
    longest = max(re.findall(r"[\d,.]+", shown), key=len)
    assert len(longest) < 12
    visit.page.close()


@pytest.mark.parametrize("width", [1280, 400])
def test_long_names_of_variants_wrap_and_leave_the_numbers_in_view(browser, tmp_path, width):
    begun = "L0, warm-started from the dense network of the same seed, with the coefficient raised over a half, at "
    names = [f"{begun}eight", f"{begun}nine", f"L0, {'long_' * 30}"]
    draw = random.Random(1)
    rows = [
        row(name, f"n={s}", seed, s, draw.uniform(0.9, 0.97)) for name in names for s in (0.5, 0.9) for seed in (0, 1)
    ]
    first, second = (study(tmp_path / folder, rows) for folder in ("before", "after"))
    pages = write_report(first, tmp_path / "one"), write_versus((first, second), tmp_path / "two")
    for path in pages:
        visit = Visit(browser, path, viewport={"width": width, "height": 800})
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        # In each table the second column, with the sparsity or the technique, begins in view.
        places = visit.page.locator("tbody tr").evaluate_all(
            "(rows) => rows.map((row) => row.children[1].getBoundingClientRect().left)"
        )
        assert places
        assert max(places) < width - 60
        if path is pages[0]:
            assert {*visit.cells("runs", 1)} == {*names}  # whole
        legend = visit.page.locator(".chart svg .role-legend-label text").all_text_contents()
        assert len({text for text in legend if text.startswith("L0")}) >= 3
        boxes = visit.page.locator(".chart svg .role-legend-label").evaluate_all(
            "(labels) => labels.map((label) => label.getBoundingClientRect().right)"
        )
        assert max(boxes) <= width
        visit.page.close()
