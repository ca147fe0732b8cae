import csv
import json
import math

import pytest
from studies import diverged, row, study

from openwork.study.results.statistics import nearest, pareto, student_interval, summarize, write_points
from openwork.study.results.store import COLUMNS, read_results, unfinished, write_csv


def test_rows_come_sorted_and_unfinished_folders_are_named(tmp_path):
    study(tmp_path, [row("B", seed=1), row("B", seed=0), row("A"), diverged("C")])
    (tmp_path / "interrupted").mkdir()
    assert [(r["name"], r["seed"]) for r in read_results(tmp_path)] == [("A", 0), ("B", 0), ("B", 1), ("C", 9)]
    assert unfinished(tmp_path) == ["interrupted"]
    with pytest.raises(FileNotFoundError, match="no study directory"):
        read_results(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"result.json cannot be read \(.*only this run is repeated"),
        ("[]", "expected an object, got list"),
        (json.dumps({**row(), "format": 7}), "has format 7, this openwork reads 1"),
        (json.dumps({**row(), "status": "maybe"}), "status is 'maybe'"),
        (json.dumps({**row(), "after": {"accuracy": 97, "loss": 0.1}}), r"after.accuracy must be in \[0, 1\], got 97"),
        (json.dumps({k: v for k, v in row().items() if k != "cost"}), "not the result of a run: no cost"),
    ],
)
def test_a_damaged_result_is_named_with_its_cure(tmp_path, content, message):
    study(tmp_path, [row()])
    (tmp_path / row()["id"] / "result.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path)


def test_a_copied_run_is_not_one_more_seed(tmp_path):
    study(tmp_path, [row()])
    (tmp_path / row()["id"]).rename(tmp_path / "copy")
    study(tmp_path, [row()])
    with pytest.raises(ValueError, match="is the same run as"):
        read_results(tmp_path)


def test_csv_has_a_line_for_each_run_and_empty_cells_for_nothing(tmp_path):
    write_csv([row(accuracy=0.5), diverged()], tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == COLUMNS
    assert (first["after_accuracy"], first["sparsity_all"], first["processor"]) == ("0.5", "0.45", "some CPU")
    assert (second["status"], second["after_accuracy"], second["peak_memory_bytes"]) == ("diverged", "", "")


def test_student_interval_by_hand():
    # mean 2, s = 1, t(0.975, 2) = 4.30265: half width 4.30265 / sqrt(3)
    low, high = student_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert student_interval([1.0]) is None
    assert student_interval([]) is None


def test_points_are_means_over_seeds_without_the_diverged():
    rows = [row(seed=s, accuracy=a) for s, a in enumerate((0.90, 0.92, 0.94))] + [diverged()]
    (point,) = summarize(rows)
    assert (point.n, point.diverged) == (3, 1)
    assert (point.accuracy, point.lowest, point.highest) == pytest.approx((0.92, 0.90, 0.94))
    assert point.interval == pytest.approx((0.92 - 0.0496828, 0.92 + 0.0496828), abs=1e-5)
    (lost,) = summarize([diverged()])
    assert lost.n == 0
    assert math.isnan(lost.accuracy)


def test_two_runs_of_one_seed_at_one_point_are_an_error():
    with pytest.raises(ValueError, match="say in the settings how they differ"):
        summarize([row(), {**row(), "id": "other"}])


def names(points):
    return [point.settings for point in points]


def test_pareto_keeps_what_nothing_beats():
    points = summarize([
        row(settings="a", sparsity=0.5, accuracy=0.98),
        row(settings="b", sparsity=0.9, accuracy=0.97),
        row(settings="c", sparsity=0.9, accuracy=0.96),  # b is as sparse and better
        row(settings="d", sparsity=0.8, accuracy=0.97),  # b is sparser and as good
        row(settings="e", sparsity=0.99, accuracy=0.5),
        row(settings="f", sparsity=0.9, accuracy=0.97),  # equal to b: both stay
        diverged(settings="g"),
    ])  # fmt: skip
    assert names(pareto(points)) == ["a", "b", "f", "e"]
    assert pareto([]) == []


def test_points_of_two_tasks_are_not_compared():
    points = summarize([row(), {**row(settings="b"), "task": "other"}])
    with pytest.raises(ValueError, match="points of one task can be compared"):
        pareto(points)


def test_the_nearest_point_of_each_technique():
    points = summarize([
        row("A", "x", sparsity=0.85, accuracy=0.9),
        row("A", "y", sparsity=0.95, accuracy=0.8),
        row("B", "z", sparsity=0.5),
        row("dense", "", sparsity=0.0),
    ])  # fmt: skip
    assert {name: point.settings for name, point in nearest(points, 0.9).items()} == {"A": "x", "B": "z"}


def test_a_csv_that_fails_leaves_the_old_one_and_no_other_file(tmp_path):
    path = tmp_path / "results.csv"
    write_csv([row()], path)
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write_csv([{"task": "half a row"}], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_summary_has_a_line_for_each_point(tmp_path):
    rows = [row(seed=0, accuracy=0.8), row(seed=1, accuracy=0.8), diverged("Z")]
    write_points(summarize(rows), tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    # Two equal accuracies: s = 0, so the interval is the mean.
    assert [first[key] for key in ("n", "accuracy", "interval_low", "interval_high")] == ["2", "0.8", "0.8", "0.8"]
    assert [second[key] for key in ("name", "n", "diverged", "accuracy", "interval_low")] == ["Z", "0", "1", "", ""]


def test_task_name_and_settings_make_a_point():
    rows = [row("B"), row("B", seed=1), row("B", "b", sparsity=0.5), row("A"), {**row("B"), "task": "other", "id": "o"}]
    assert [(p.task, p.name, p.settings, p.n) for p in summarize(rows)] == [
        ("digits", "A", "a", 1),
        ("digits", "B", "b", 1),  # less sparse
        ("digits", "B", "a", 2),
        ("other", "B", "a", 1),
    ]
    assert summarize([]) == []


def test_pareto_takes_sparsities_within_rounding_as_equal():
    # 0.90002 comes of rounding to whole weights: it is no reason to keep a less accurate point.
    worse, better = row(settings="a", sparsity=0.90002, accuracy=0.8), row(settings="b", sparsity=0.9, accuracy=0.9)
    assert names(pareto(summarize([worse, better]))) == ["b"]
    sparser = row(settings="a", sparsity=0.9002, accuracy=0.8)
    assert names(pareto(summarize([sparser, better]))) == ["b", "a"]
