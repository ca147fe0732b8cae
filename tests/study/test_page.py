import json
import re
import struct
from pathlib import Path

import pytest

from openwork.study.published.overlay import BANDS, own_bands
from openwork.study.report.charts import run_values, trade_off
from openwork.study.report.layers import kind, kind_panel, layer_panels
from openwork.study.report.looks import looks
from openwork.study.report.page import write_report
from openwork.study.report.style import left_axis, nice_ticks, theme
from openwork.study.results.statistics import nearest, summarize
from tests.study.studies import diverged, results, row, study

NASTY = "</script><script>alert(1)</script>"


def points(name: str, accuracies: dict[float, float]) -> list[dict]:
    return [row(name, f"s={s}", seed, s, a + 0.001 * seed) for s, a in accuracies.items() for seed in range(3)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rows = [
        *points("dense", {0.0: 0.98}),
        *points("GradualMagnitude", {0.5: 0.98, 0.9: 0.97, 0.98: 0.9}),
        *points("RandomPruning", {0.5: 0.97, 0.9: 0.91, 0.98: 0.5}),
        {**row("L0", NASTY, 0, 0.9, 0.93), "id": "nasty"},
        diverged("L0", "exploded", 0),
    ]
    folder = study(tmp_path_factory.mktemp("study"), rows)
    (folder / "aaaa000000000000").mkdir()
    (folder / "aaaa000000000000" / "run.json").touch()
    return write_report(folder, folder / "report", command="make quickstart")


def test_the_page_stands_alone(page):
    text = page.read_text()
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "budget.png", "budget.svg", "differences.png", "differences.svg", "index.html", "layers.png", "layers.svg",
        "results.csv", "summary.csv", "trade-off.png", "trade-off.svg",
    ]  # fmt: skip
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", text)
    assert "@import" not in text
    assert len(text) < 1_500_000
    assert text.count("<script>") == 2


def test_the_page_says_what_was_found(page):
    text = page.read_text()
    assert text.index('<p class="lead">') < text.index('<div id="filters">') < text.index("<h2>")  # the answer first
    answer = text.partition('<p class="lead">')[2].partition("</p>")[0].replace("\u00a0", " ")
    # All seeds differ by the same, which shows no spread.
    assert (
        "at 90 % sparsity GradualMagnitude has the best mean accuracy, 97.1 % (95 % interval 96.9–97.3 %, n = 3)"
        in answer
    )
    assert "the dense model has 98.1 % (95 % interval " in answer
    assert "zeros are simulated" in text
    assert "Command: make quickstart" in text
    assert "<p>1 run, in none of the means above.</p>" in text
    (lost,) = (run for run in lines(text, "runs") if run["status"] == "diverged")
    assert (lost["technique"], lost["seed"], lost["step"], lost["settings"]) == ("L0", 0, 10, "exploded")
    assert lost["accuracy"] is None
    assert "1 run without a result: aaaa000000000000." in text
    assert len((page.parent / "results.csv").read_text().splitlines()) == 1 + 3 + 9 + 9 + 1 + 1


def test_settings_cannot_become_code(page):
    text = page.read_text()
    assert "<script>alert" not in text
    assert r"\u003c/script>\u003cscript>alert" in text


def test_pictures_are_pictures(page):
    for name in ("trade-off", "layers", "budget"):
        png = (page.parent / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG")
        assert width > 1000
        assert height > 200
        assert "GradualMagnitude" in (page.parent / f"{name}.svg").read_text()


def test_an_empty_study_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no finished run in .*; train some with `openwork run`"):
        write_report(study(tmp_path, [diverged()]), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_one_run_is_enough(tmp_path):
    text = write_report(study(tmp_path, [row()]), tmp_path / "report").read_text()
    assert "n\u00a0=\u00a01)." in text


def test_ticks_are_round():
    assert nice_ticks(0.01, 0.6) == (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
    assert nice_ticks(0.91, 0.99) == (0.98, 0.96, 0.94, 0.92)


def test_the_template_ships_with_the_package():
    for name in ("page.html", "page.js"):
        assert (Path(__file__).parents[2] / "src/openwork/study/report" / name).is_file()


def chart(rows: list[dict]) -> dict:
    found = results(rows)
    points = summarize(found)
    return trade_off(points, found, names=sorted({point.name for point in points if not point.dense})).to_dict()


def drawn(spec: dict) -> list[dict]:
    return [value for values in spec["datasets"].values() for value in values]


def lines(text: str, name: str) -> list[dict]:
    """A table of the page's data."""
    columns = json.loads(re.search(r"^const packed = (.*);$", text, re.M).group(1))[name]
    unpacked = [
        [column["entries"][i] for i in column["index"]] if isinstance(column, dict) else column
        for column in columns.values()
    ]
    return [dict(zip(columns, line, strict=True)) for line in zip(*unpacked, strict=True)]


def cells(text: str, heading: str) -> list[list[str]]:
    """The lines of the first table after a heading."""
    body = text.split(f"<h3>{heading}</h3>")[1].split("<tbody>")[1].split("</tbody>")[0]
    lines = (re.sub("</?span[^>]*>", "", line) for line in body.strip().splitlines())
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]


def test_the_tables_hold_the_frontier_and_every_point(page):
    text = page.read_text()
    assert [(line[0], line[1], line[3]) for line in cells(text, "The best found")] == [
        ("GradualMagnitude", "50.00 %", "98.10 %"),
        ("GradualMagnitude", "90.00 %", "97.10 %"),
        ("GradualMagnitude", "98.00 %", "90.10 %"),
    ]  # nothing is lost at 50 %, so the dense model is beaten
    every = {(line["technique"], line["sparsity"]): line for line in lines(text, "points")}
    assert len(every) == 1 + 3 + 3 + 1
    point = every["GradualMagnitude", 0.9]
    # 0.970, 0.971, 0.972: 0.971 ± 4.303 · 0.001 / √3
    assert (point["interval"], point["lowest"], point["highest"]) == ("96.85–97.35 %", 0.97, 0.972)
    assert (point["seconds"], point["memory"], point["execution"]) == (1.5, None, "simulated")


def test_several_tasks_have_a_section_each(tmp_path):
    rows = [row(accuracy=0.9), {**row(accuracy=0.6, task="b <b>"), "id": "b"}]
    text = write_report(study(tmp_path, rows), tmp_path / "out").read_text()
    assert re.findall("<h2>(.*?)</h2>", text)[:2] == ["b &lt;b&gt;", "digits"]
    assert [cells(part, "The best found")[0][3] for part in text.split("<section>")[1:]] == ["60.00 %", "90.00 %"]
    charts = json.loads(re.search(r"^const charts = (.*);$", text, re.M).group(1))
    assert list(charts) == ["trade-off-1", "layers-1-0", "trade-off-2", "layers-2-0"]
    assert (tmp_path / "out" / "trade-off-2.png").exists()


def test_every_finished_sparse_run_is_in_the_chart_s_data():
    rows = [row(seed=1), diverged(), row("dense", sparsity=0.0)]
    assert run_values(results(rows)) == [
        {"technique": "L0", "settings": "a", "seed": 1, "replicate": 1, "sparsity": 0.9, "accuracy": 0.97}
    ]


def test_the_page_may_fetch_nothing_and_fits_its_place(page):
    text = page.read_text()
    assert "default-src 'none'" in text
    assert text.count("window.vegaEmbed=") == 1
    for name, spec in json.loads(re.search(r"^const charts = (.*);$", text, re.M).group(1)).items():
        assert spec["width"] == "container"
        assert "config" not in spec  # the page sets the dark or the light one
        assert "title" not in spec  # said in text, which wraps
        assert text.count(f'id="{name}"') == 1


def encodings(spec: dict) -> list[dict]:
    return [spec.get("encoding", {})] + [one for layer in spec.get("layer", []) for one in encodings(layer)]


@pytest.mark.parametrize(
    "rows",
    [
        [row("dense", sparsity=0.0)],
        [row()],
        [row(sparsity=1.0, accuracy=1.0), row("dense", sparsity=0.0, accuracy=1.0)],
        [row(seed=s, sparsity=1.0, accuracy=0.1 * s) for s in range(2)],
    ],
    ids=["dense only", "one run", "nothing left to lose", "nothing left"],
)
def test_extreme_results_have_axes(rows):
    channels = [encoding.get(axis, {}) for encoding in encodings(chart(rows)) for axis in ("x", "y")]
    domains = [channel["scale"]["domain"] for channel in channels if "scale" in channel]
    assert domains
    assert all(0 < low < high < 10 for low, high in domains)


def test_an_axis_keeps_a_place_for_nothing_left():
    for axis in (left_axis([0.9, 1.0]), left_axis([1.0])):
        assert axis.low < axis.left(1.0) == axis.floor == axis.ticks[-1]
        assert all(axis.floor < tick <= 1 for tick in axis.ticks[:-1])
    assert left_axis([0.9, 1.0]).left(0.9) == pytest.approx(0.1)


def test_layers_are_means_over_seeds():
    rows = [row(seed=0), row(seed=1), row(settings="elsewhere", sparsity=0.5)]
    rows[1]["layers"][0] |= {"nonzero": 30, "sparsity": 0.7}  # the other seed: 10 of 100
    found = results(rows)
    (panel,) = layer_panels(nearest(summarize(found), 0.9), found, names=["L0"])
    spec = panel.to_dict()
    assert (spec["title"]["text"], spec["title"]["subtitle"]) == ("L0 at 90.0 % sparsity", "a, 2 seeds")
    (layer,) = drawn(spec)
    assert (layer["layer"], layer["shape"], layer["nonzero"]) == ("fc", "10 × 10", "20 of 100")
    assert (layer["sparsity"], layer["x"], layer["total"]) == pytest.approx((0.8, 0.2, 0.2))


def test_kinds_of_layers_are_known_by_name_and_shape():
    names = {
        "encoder.0.self_attention.q": "query", "h.0.attn.c_attn": "query, key, value", "wte": "embedding",
        "layers.1.self_attn.out_proj": "attention output", "layers.1.linear1": "feed-forward", "fc1": "linear",
        "decoder.layer_0.attention.v_proj": "value", "model.embed_tokens": "embedding",
        "decoder.0.cross.output": "attention output", "decoder.0.own.value": "value", "encoder.5.up": "feed-forward",
        "model.layers.0.mlp.down_proj": "feed-forward",
    }  # fmt: skip
    assert {name: kind(f"{name}.weight", (8, 8)) for name in names} == names
    assert kind("conv1.weight", (64, 3, 7, 7)) == "convolution 7×7"


def test_layers_of_a_kind_are_counted_together():
    one = row()
    layer = one["layers"][0]
    one["layers"] = [
        layer | {"name": "enc.0.q.weight", "weights": 100, "nonzero": 10},
        layer | {"name": "enc.1.q.weight", "weights": 300, "nonzero": 10},
        layer | {"name": "enc.1.k.weight", "weights": 100, "nonzero": 50},
    ]
    found = results([one])
    values = drawn(kind_panel(nearest(summarize(found), 0.9), found, names=["L0"]).to_dict())
    assert [(v["kind"], v["layers"], v["sparsity"]) for v in values] == [("query", 2, 0.95), ("key", 1, 0.5)]
    found = results([row()])
    assert kind_panel(nearest(summarize(found), 0.9), found, names=["L0"]) is None  # one kind


def test_techniques_are_compared_with_the_best_at_equal_sparsity(page):
    found = [line for line in cells(page.read_text(), "At equal sparsity") if line[0] == "90 %"]
    equal = "all 3 differences are equal: no spread was seen"
    # L0 has one seed alone and the other two begin at 50 %: 97.1 against 91.1, each seed by 6 points
    assert found == [
        ["90 %", "GradualMagnitude", "97.10 %", "–", "–", "–", "–", "the best mean"],
        ["90 %", "L0", "93.00 %", "−4.00", "none: one seed has no spread", "1", "–", "undecided"],
        ["90 %", "RandomPruning", "91.10 %", "−6.00", f"none: {equal}", "3", "–", "undecided"],
    ]


def test_differences_are_in_points_only_where_the_metric_has_bounds(page, tmp_path):
    assert "Differences in points of accuracy, by the seeds" in " ".join(page.read_text().split())
    rows = [*points("A", {0.9: 0.8}), *points("B", {0.9: 0.7})]
    rows = [{**one, "metric": {"key": "mse", "higher_is_better": False}, "after": {"mse": 1.0}} for one in rows]
    text = " ".join(write_report(study(tmp_path, rows), tmp_path / "report").read_text().split())
    assert "Differences in mse, by the seeds" in text


def test_published_points_lie_over_the_tasks_that_papers_measured(tmp_path):
    text = write_report(study(tmp_path, [row(task="LeNet-5-Caffe, MNIST")]), tmp_path / "out").read_text()
    spec = json.loads(re.search(r"^const charts = (.*);$", text, re.M).group(1))["trade-off"]
    published = [value for value in drawn(spec) if "source" in value]
    assert (0.995, 0.9925) in [(value["sparsity"], value["score"]) for value in published]
    assert "Hollow: published points." in text


def test_scratch_runs_and_tickets_are_bands_of_their_own(tmp_path):
    masked = {"technique": {"final": 0.9}, "steps": 100}

    def kept(seed, accuracy, steps=100, **changes):
        kind = "LotteryTicket" if changes.pop("ticket", False) else "Scratch"
        origin = {"type": kind, "run": masked, **changes}
        run = {"steps": steps, "technique": None, "seed": seed, "origin": origin}
        return {**row(kind, "zeros", seed, accuracy=accuracy), "run": run}

    rows = [kept(0, 0.90), kept(1, 0.92), kept(2, 0.95, ticket=True), kept(3, 0.96, 200, augmented=True)]
    failed = {**kept(4, 0.1), "status": "diverged", "after": None, "sparsity": None}
    found = own_bands(results([row(), *rows, failed]))
    assert [(b.name, round(b.mean, 6), b.lowest, b.highest, b.n, b.failures) for b in found] == [
        ("lottery ticket", 95.0, 95.0, 95.0, 1, 0),
        ("scratch-e", 91.0, 90.0, 92.0, 2, 1),
        ("scratch-b, augmented", 96.0, 96.0, 96.0, 1, 0),
    ]
    names = [{**one, "settings": str(number)} for number, one in enumerate(rows)]
    text = write_report(study(tmp_path, names), tmp_path / "out").read_text()
    assert "Trained from scratch, and lottery tickets" in text
    write_report(study(tmp_path / "tickets", names[2:3]), tmp_path / "tickets")
    written = [re.findall(r">([^<>]+)</text>", (tmp_path / out / "kept.svg").read_text()) for out in ("out", "tickets")]
    kinds = [[text for text in texts if text in BANDS] for texts in written]  # the legend has those that are drawn
    assert kinds == [["lottery ticket", "scratch-e", "scratch-b, augmented"], ["lottery ticket"]]
    assert ["scratch-b trains longer" in " ".join(texts) for texts in written] == [True, False]


def test_91_lines_differ_in_colour_or_marker():
    marks = theme(dark=False)["range"]
    assert len({(marks["category"][i % 13], marks["symbol"][i % 7]) for i in range(91)}) == 91
    assert (len({*marks["category"]}), len({*marks["symbol"]})) == (13, 7)
    assert len({*looks([f"Mine{number}" for number in range(42)]).values()}) == 42


def test_folders_of_reports_and_of_others_are_no_unfinished_runs(tmp_path):
    directory = study(tmp_path / "study", [row()])
    (directory / "notes").mkdir()
    for out in (directory / "report", directory / "page", tmp_path / "out"):
        assert "without a result" not in write_report(directory, out).read_text()


def test_an_out_that_is_a_file_is_an_os_error(tmp_path):
    (tmp_path / "out").write_text("taken")
    with pytest.raises(OSError, match="out"):
        write_report(study(tmp_path / "study", [row()]), tmp_path / "out")


@pytest.mark.parametrize("library", ["altair", "vl_convert"])
def test_a_missing_library_is_named_with_what_installs_it(tmp_path, monkeypatch, library):
    monkeypatch.setattr("openwork.study.report.style.find_spec", lambda name: None if name == library else name)
    with pytest.raises(ImportError, match=rf'{library}: pip install "openwork\[study\]"'):
        write_report(tmp_path, tmp_path / "out")
