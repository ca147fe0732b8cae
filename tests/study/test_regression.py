"""A task that is judged by a squared error, lower and without bounds, from training to the page."""

import csv
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openwork.cli import app
from openwork.cli.training import _print_summary
from openwork.study.results.statistics import pareto, summarize, tried, worst_of
from openwork.study.results.store import read_results

LAB = Path(__file__).parent


def command(*arguments, code=0):
    answer = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert answer.exit_code == code, answer.output
    return " ".join(answer.output.split())


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("line") / "runs"
    printed = command("run", "tests.study.regressionlab:runs", "--out", folder, code=3)
    assert "squared error" in printed
    assert "diverged" in printed
    assert "50.00%" in printed
    command("report", folder)
    return folder


def test_its_results_are_values_of_its_own_metric(directory):
    finished = {(r.name, r.sparsity, r.seed): r for r in read_results(directory) if r.finished}
    half, quarter = (finished["GradualMagnitude", sparsity, 0] for sparsity in (0.5, 0.75))
    assert half.after["mse"] == pytest.approx(1 + 2**2 + 1**2, rel=1e-4)
    assert quarter.after["mse"] == pytest.approx(1 + 4**2 + 2**2 + 1**2, rel=1e-4)
    assert half.score == -half.after["mse"]
    assert half.measured("loss") is half.measured("accuracy") is None


def test_the_frontier_is_of_low_errors_and_what_diverged_counts_as_the_worst(directory):
    points = [point for point in summarize(read_results(directory)) if not point.dense]
    assert [(p.name, p.sparsity) for p in pareto(points)] == [("GradualMagnitude", 0.5), ("GradualMagnitude", 0.75)]
    worst = max(r.after["mse"] for r in read_results(directory) if r.finished)
    assert worst_of(points) == -worst
    assert worst > 1 + 2**2 + 1**2  # random pruning's
    # The run that diverged has another field of the task: a separate setting, which found nothing.
    assert tried(points)["GradualMagnitude"].count(None) == 1


def test_the_table_of_results_has_its_value_and_direction(directory, tmp_path):
    command("results", directory, "--csv", tmp_path / "rows.csv", "--parquet", tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["sparsity_selected"] == "0.75")
    assert (row["metric"], row["better"], row["after_accuracy"], row["after_loss"]) == ("mse", "lower", "", "")
    assert float(row["after_value"]) == pytest.approx(22, rel=1e-4)
    (rows,) = [json.loads(CliRunner().invoke(app, ["results", str(directory), "--json"]).stdout)["rows"]]
    assert {one["metric"] for one in rows} == {"mse"}


def test_its_page_is_about_the_error(directory):
    text = (directory / "report" / "index.html").read_text()
    page = text.partition("<body>")[2].partition("<script>")[0]
    assert "<h1>Sparsity and squared error: line</h1>" in page
    assert "GradualMagnitude has squared error 22 at 75.0 % sparsity (95 % interval 22–22, n = 2)" in page.replace(
        "\xa0", " "
    )
    assert "accura" not in page
    assert "counts as squared error" in page
    assert "that of the worst run" in page
    charts = json.loads(re.search(r"^const charts = (.*);$", text, re.M).group(1))
    assert "mean squared error (lower is better)" in json.dumps(charts["trade-off"])
    tables = json.loads(re.search(r"^const tables = (.*);$", text, re.M).group(1))
    headings = [heading for _, heading, _ in tables["runs"]["columns"]]
    assert ["squared error" in headings, "accuracy" in headings] == [True, False]
    assert (directory / "report" / "trade-off.png").stat().st_size > 10_000
    with (directory / "report" / "summary.csv").open(newline="") as file:
        (line,) = [one for one in csv.DictReader(file) if (one["name"], one["sparsity"]) == ("RandomPruning", "0.75")]
    low, score, high = (float(line[key]) for key in ("lowest", "score", "highest"))
    assert low < score < high
    assert (line["metric"], line["loss"], high) == ("mse", "", pytest.approx(82, rel=1e-4))  # seed 0 kept the second


def test_eval_and_the_summary_of_the_quickstart_say_the_error(directory, capsys):
    run = next(r.id for r in read_results(directory) if r.finished and r.sparsity == 0.75)
    printed = command("eval", directory / run, "--trust", "tests")
    assert "mse" in printed
    assert " 22 " in printed
    assert "accuracy" not in printed
    _print_summary([r for r in read_results(directory) if r.finished])
    printed = capsys.readouterr().out
    assert "squared error" in printed
    assert " 22 " in printed
