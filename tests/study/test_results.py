import csv
import json
import math
import re
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from openwork.study.files import write_text
from openwork.study.report.page import write_report
from openwork.study.results.statistics import nearest, pareto, summarize, write_points
from openwork.study.results.store import (
    COLUMNS,
    collect,
    failures,
    flat,
    read_result,
    read_results,
    unfinished,
    write_csv,
    write_parquet,
)
from openwork.study.results.student import may_be_one_more, prediction_interval, student_interval
from tests.study.studies import diverged, results, row, study


def test_rows_come_sorted_and_unfinished_folders_are_named(tmp_path):
    study(tmp_path, [row("B", seed=1), row("B", seed=0), row("A"), diverged("C")])
    for name in ("0123456789abcdef", "aaaa000000000000", "report", "theirs"):
        (tmp_path / name).mkdir()
    for name in ("aaaa000000000000", "theirs"):
        (tmp_path / name / "run.json").touch()
    assert [(r.name, r.seed) for r in read_results(tmp_path)] == [("A", 0), ("B", 0), ("B", 1), ("C", 9)]
    assert unfinished(tmp_path) == ["0123456789abcdef", "aaaa000000000000"]
    with pytest.raises(FileNotFoundError, match="no folder of runs"):
        read_results(tmp_path / "nothing")


def layer(**changes):
    """A result.json whose layer was edited."""
    return json.dumps({**row(), "layers": [row()["layers"][0] | changes]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"result.json cannot be read \(.*only this run is repeated"),
        ("[]", "expected an object, got list"),
        (
            json.dumps({**row(), "format": 7}),
            "has format 7, this openwork reads 2; use the openwork that wrote it, or train",
        ),
        (json.dumps({**row(), "status": "maybe"}), "status is 'maybe'"),
        (json.dumps({**row(), "step": "last"}), "step is not an integer"),
        (json.dumps({**row(), "before": "dense"}), "before is not an object"),
        (json.dumps({**row(), "after": {"accuracy": 97, "loss": 0.1}}), r"after.accuracy must be in \[0, 1\], got 97"),
        (json.dumps(row(bleu=101)), r"after.bleu must be in \[0, 100\], got 101"),
        (json.dumps({k: v for k, v in row().items() if k != "cost"}), "not the result of a run: no cost"),
        (layer(nonzero="x"), r"layers cannot be read \(fc.weight: nonzero must be whole and at least 0, got 'x'"),
        (layer(nonzero=10**9), r"read \(fc.weight: nonzero must be at most its 100 weights, got 1000000000\); delete"),
        (layer(shape=3), r"layers cannot be read \(fc.weight: 'int' object is not iterable\)"),
        (json.dumps({**row(), "layers": ["x"]}), r"layers cannot be read \(one must be an object, got 'x'\)"),
        (json.dumps({**row(), "layers": [{"name": "fc"}]}), r"read \(fc has no shape, weights, nonzero, sparsity\)"),
        (layer(weights=None), r"layers cannot be read \(fc.weight: weights must be whole and at least 0, got None"),
        (layer(shape=[10, 1.5]), r"layers cannot be read \(fc.weight: shape must be whole and at least 0, got 1.5"),
        (layer(sparsity=9), r"layers cannot be read \(fc.weight: sparsity must be in \[0, 1\], got 9"),
        (layer(name=[1]), r"layers cannot be read \(\[1\]: name must be text, got \[1\]"),
    ],
)
def test_a_damaged_result_is_named_with_its_cure(tmp_path, content, message):
    study(tmp_path, [row()])
    (tmp_path / row()["id"] / "result.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path)


def shown_texts(value):
    """The texts in what is read."""
    if isinstance(value, dict | list | tuple):
        return [text for part in (value.values() if isinstance(value, dict) else value) for text in shown_texts(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("odd", ["a\n\x1b[31mb", "a \udcff"])
@pytest.mark.parametrize(
    "place",
    [
        *(("name",), ("task",), ("settings",), ("execution",), ("metric", "name"), ("metric", "title")),
        *(("metric", "good", 2), ("layers", 0, "name"), ("environment", "device"), ("environment", "commit")),
    ],
)
def test_texts_that_no_run_may_have_are_read_and_shown_with_escapes(tmp_path, odd, place):
    rows = [row("L0"), row("L0", seed=1), row("dense", sparsity=0.0)]
    for one in rows:
        part = one = json.loads(json.dumps(one))
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = odd
        study(tmp_path / "runs", [one])
    found = read_results(tmp_path / "runs")
    assert len(found) == 3
    shown = odd.encode("unicode_escape").decode()
    assert all(shown in shown_texts(asdict(one)) for one in found)
    write_csv(map(flat, found), tmp_path / "rows.csv")
    assert write_report(tmp_path / "runs", tmp_path / "page.html").exists()  # what draws it died of an escape


def test_a_copied_run_is_not_one_more_seed(tmp_path):
    study(tmp_path, [row()])
    (tmp_path / row()["id"]).rename(tmp_path / "copy")
    study(tmp_path, [row()])
    with pytest.raises(
        ValueError, match=rf"its id is {row()['id']} and its folder copy, so that it was moved or copied; delete that"
    ):
        read_results(tmp_path)


def test_csv_has_a_line_for_each_run_and_empty_cells_for_nothing(tmp_path):
    write_csv(map(flat, results([row(accuracy=0.5), diverged()])), tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == COLUMNS
    assert (first["after_accuracy"], first["sparsity_all"], first["processor"]) == ("0.5", "0.45", "some CPU")
    assert (second["status"], second["after_accuracy"], second["peak_memory_bytes"]) == ("diverged", "", "")


def test_each_metric_of_a_task_has_its_column():
    (one,) = results([row(bleu=17.4)])
    assert [flat(one)[f"after_{name}"] for name in ("top5", "bleu", "tokenized_bleu")] == [None, 17.4, 17.9]
    image = row()
    image["after"] = {**image["after"], "top5": 0.99}
    (one,) = results([image])
    assert [flat(one)[f"after_{name}"] for name in ("top5", "bleu", "tokenized_bleu")] == [0.99, None, None]


def test_student_interval_by_hand():
    # mean 2, s = 1, t(0.975, 2) = 4.30265: half width 4.30265 / sqrt(3)
    low, high = student_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert student_interval([1.0]) is None
    assert student_interval([]) is None


def test_one_more_run_lies_in_the_prediction_interval_by_hand():
    # mean 2, s = 1, t(0.975, 2) = 4.30265: half width 4.30265 · sqrt(1 + 1/3)
    low, high = prediction_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.968276, 2 + 4.968276), abs=1e-5)
    assert prediction_interval([1.0]) is None
    assert may_be_one_more(6.96, [1.0, 2.0, 3.0])
    assert not may_be_one_more(6.97, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="1 seed has no interval; compare nothing with it"):
        may_be_one_more(1.0, [1.0])


def test_points_are_means_over_seeds_without_the_diverged():
    rows = [row(seed=s, accuracy=a) for s, a in enumerate((0.90, 0.92, 0.94))] + [diverged()]
    (point,) = summarize(results(rows))
    assert (point.n, point.diverged) == (3, 1)
    assert (point.score, point.lowest, point.highest) == pytest.approx((0.92, 0.90, 0.94))
    assert point.interval == pytest.approx((0.92 - 0.0496828, 0.92 + 0.0496828), abs=1e-5)
    (lost,) = summarize(results([diverged()]))
    assert lost.n == 0
    assert math.isnan(lost.score)


def in_fleet(of: int, **row_of: Any) -> dict[str, Any]:
    """A row of a run of such a fleet."""
    found = row(**row_of)
    return {**found, "environment": {**found["environment"], "fleet": of}}


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        ([row(seed=0), row(seed=1)], 1.5),
        ([in_fleet(4, seed=0), in_fleet(3, seed=1)], 1.5),
        ([in_fleet(4, seed=0), row(seed=1)], None),
    ],
)
def test_the_times_of_runs_alone_and_of_fleets_have_no_mean(rows, seconds):
    (point,) = summarize(results(rows))
    assert point.n == 2
    assert math.isnan(point.seconds) if seconds is None else point.seconds == seconds


def test_the_report_says_that_runs_were_a_fleet(tmp_path):
    study(tmp_path / "study", [in_fleet(4, seed=0), row(seed=1), row(name="dense", sparsity=0.0)])
    page = write_report(tmp_path / "study", tmp_path / "page.html").read_text()
    assert "1 of these were trained as one model with others, at most 4 at a time; their times are their shares" in page


def test_two_runs_of_one_seed_at_one_point_are_an_error():
    with pytest.raises(ValueError, match="say in the settings how they differ"):
        summarize(results([row(), {**row(), "id": "other"}]))


def names(points):
    return [point.settings for point in points]


def test_pareto_keeps_what_nothing_beats():
    points = summarize(results([
        row(settings="a", sparsity=0.5, accuracy=0.98),
        row(settings="b", sparsity=0.9, accuracy=0.97),
        row(settings="c", sparsity=0.9, accuracy=0.96),  # b is as sparse and better
        row(settings="d", sparsity=0.8, accuracy=0.97),  # b is sparser and as good
        row(settings="e", sparsity=0.99, accuracy=0.5),
        row(settings="f", sparsity=0.9, accuracy=0.97),  # equal to b: both stay
        diverged(settings="g"),
    ]))  # fmt: skip
    assert names(pareto(points)) == ["a", "b", "f", "e"]
    assert pareto([]) == []


def test_points_of_two_tasks_are_not_compared():
    points = summarize(results([row(), row(settings="b", task="other")]))
    with pytest.raises(ValueError, match="points of one task can be compared"):
        pareto(points)


def test_the_nearest_point_of_each_technique():
    points = summarize(results([
        row("A", "x", sparsity=0.85, accuracy=0.9),
        row("A", "y", sparsity=0.95, accuracy=0.8),
        row("B", "z", sparsity=0.5),
        row("dense", "", sparsity=0.0),
    ]))  # fmt: skip
    assert {name: point.settings for name, point in nearest(points, 0.9).items()} == {"A": "x", "B": "z"}


def test_a_csv_that_fails_leaves_the_old_one_and_no_other_file(tmp_path):
    path = tmp_path / "results.csv"
    write_csv(map(flat, results([row()])), path)
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write_csv([{"task": "half a row"}], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_summary_has_a_line_for_each_point(tmp_path):
    rows = [row(seed=0, accuracy=0.8), row(seed=1, accuracy=0.8), diverged("Z")]
    write_points(summarize(results(rows)), tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    # Two equal accuracies: s = 0, so the interval is the mean.
    assert [first[key] for key in ("metric", "score", "interval_low", "interval_high")] == ["accuracy", *["0.8"] * 3]
    assert [second[key] for key in ("name", "n", "diverged", "score", "interval_low")] == ["Z", "0", "1", "", ""]


def test_task_name_and_settings_make_a_point():
    rows = [row("B"), row("B", seed=1), row("B", "b", sparsity=0.5), row("A"), {**row("B", task="other"), "id": "o"}]
    assert [(p.task, p.name, p.settings, p.n) for p in summarize(results(rows))] == [
        ("digits", "A", "a", 1),
        ("digits", "B", "b", 1),  # less sparse
        ("digits", "B", "a", 2),
        ("other", "B", "a", 1),
    ]
    assert summarize([]) == []


def test_pareto_takes_sparsities_within_rounding_as_equal():
    # 0.90002 comes of rounding to whole weights: it is no reason to keep a less accurate point.
    worse, better = row(settings="a", sparsity=0.90002, accuracy=0.8), row(settings="b", sparsity=0.9, accuracy=0.9)
    assert names(pareto(summarize(results([worse, better])))) == ["b"]
    sparser = row(settings="a", sparsity=0.9002, accuracy=0.8)
    assert names(pareto(summarize(results([sparser, better])))) == ["b", "a"]


def test_the_document_has_every_column_with_its_type(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \| (text|integer|number)\b", text, re.M)
    write_parquet(map(flat, results([diverged()])), tmp_path / "rows.parquet")
    types = {"string": "text", "int64": "integer", "double": "number"}
    schema = pq.read_schema(tmp_path / "rows.parquet")
    assert documented == [(name, types[str(schema.field(name).type)]) for name in COLUMNS]


def test_folders_are_merged_and_what_disagrees_is_said(tmp_path):
    shared, cheaper, other = row(seed=1), {**row(seed=1), "cost": {"seconds": 1}}, row(seed=2)
    study(tmp_path / "a", [row(), shared])
    study(tmp_path / "b", [cheaper, other])
    rows, differences = collect([tmp_path / "a", tmp_path / "b"])
    assert [flat(one) for one in rows] == [flat(one) for one in results([row(), shared, other])]
    assert not differences  # another machine took another time
    study(tmp_path / "c", [row(seed=2, accuracy=0.5)])
    rows, differences = collect([tmp_path / name for name in "abc"])
    assert [flat(one) for one in rows] == [flat(one) for one in results([row(), shared, other])]
    assert differences == [
        f"run {row(seed=2)['id']} has another before_accuracy, after_accuracy in {tmp_path}/c than in {tmp_path}/b; "
        f"the row is that of {tmp_path}/b"
    ]


def test_ten_thousand_runs_are_ten_thousand_rows(tmp_path):
    study(tmp_path, [row(seed=seed) for seed in range(10_000)])
    rows, _ = collect([tmp_path])
    assert [r.seed for r in rows] == [*range(10_000)]


def test_two_writers_of_one_row_leave_one_of_the_two(tmp_path):
    versions = [row(accuracy=0.25), row(accuracy=0.75)]
    path = study(tmp_path, versions[:1]) / versions[0]["id"] / "result.json"
    stop = threading.Event()

    def write(version):
        while not stop.is_set():
            write_text(path, json.dumps(version))

    writers = [threading.Thread(target=write, args=(version,)) for version in versions]
    for writer in writers:
        writer.start()
    try:
        read: list[float] = []
        while len(read) < 500 or len(set(read)) == 1:
            read.append(read_result(path).after["accuracy"])
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert set(read) == {0.25, 0.75}
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]


def test_a_failure_counts_until_the_run_has_finished(tmp_path):
    study(tmp_path, [row()])
    for name in (row()["id"], "aaaa000000000000"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "failed.json").write_text('{"error": "ValueError: wrong", "attempt": 2}')
    (tmp_path / "interrupted").mkdir()
    assert failures(tmp_path) == {"aaaa000000000000": {"error": "ValueError: wrong", "attempt": 2}}


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"error": "wrong"}', '{"error": "no", "attempt": "x"}', '{"error": null, "attempt": 1}']
)
def test_a_damaged_failure_is_named_with_its_cure(tmp_path, content):
    (tmp_path / "aaaa000000000000").mkdir()
    (tmp_path / "aaaa000000000000" / "failed.json").write_text(content)
    with pytest.raises(ValueError, match=r"failed.json .*; delete it, and the run is tried again"):
        failures(tmp_path)


def test_results_that_differ_in_their_seeds_alone_are_one_group():
    def group(seed, origin=None, **technique):
        run = {"technique": {"type": "L0", **technique}, "steps": 10, "seed": seed}
        run |= {"origin": {"type": origin, "run": {"steps": 5, "seed": 10 + seed}}} if origin else {}
        (one,) = results([{**row(seed=seed), "run": run}])
        return one.group

    assert group(0) == group(1) != group(1, dropout=0.5)
    assert group(0, "Pretrained") == group(1, "Pretrained")  # whose seed follows the run's
    assert group(0, "LotteryTicket") == group(
        1, "LotteryTicket"
    )  # the zeros of two runs, which `Result.replicate` tells apart
    # A default is left out of a description and another threshold is in it: the value counts.
    (said,) = results([{**row(), "run": {"technique": {"threshold": 3.0}, "seed": 0}, "threshold": 3.0}])
    (left_out,) = results([{**row(), "run": {"technique": {}, "seed": 1}, "threshold": 3.0}])
    (other,) = results([{**row(), "run": {"technique": {"threshold": 2.0}, "seed": 1}, "threshold": 2.0}])
    assert said.group == left_out.group != other.group
