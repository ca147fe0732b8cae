"""The metric of a task, wherever people read it: BLEU of translations, accuracy of everything else."""

import csv
import json
import re
from dataclasses import replace

import pytest

from openwork.cli.training import _print_results
from openwork.study.evaluation.metric import ACCURACY, BLEU
from openwork.study.published.overlay import own_bands
from openwork.study.report.against import against
from openwork.study.report.answer import answer, compared
from openwork.study.report.charts import run_values
from openwork.study.report.page import write_report
from openwork.study.report.style import score_axis
from openwork.study.results.frontier import by_seed
from openwork.study.results.score import metric_of
from openwork.study.results.statistics import summarize, write_points
from openwork.study.sweeps.outcome import Outcome
from openwork.study.sweeps.sweep import Sweep
from tests.study.studies import diverged, results, row, study

TASK = "Transformer, WMT14 En-De"


def translated(name, sparsity, bleu, seed=0):
    # The worse its BLEU, the better its accuracy: whoever takes the wrong one is found out.
    settings = f"{name} {sparsity}"
    return {
        **row(name, settings, seed, sparsity, accuracy=0.9 - bleu / 1000, bleu=bleu, task=TASK),
        "id": f"{settings} {seed}",
    }


ROWS = [
    *(translated("dense", 0.0, 27.0 + seed, seed) for seed in range(2)),
    *(translated("GradualMagnitude", sparsity, bleu, 0) for sparsity, bleu in ((0.5, 26.5), (0.9, 17.44))),
    *(translated("RandomPruning", sparsity, bleu, 0) for sparsity, bleu in ((0.5, 20.0), (0.9, 9.4))),
]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = study(tmp_path_factory.mktemp("study"), [*ROWS, diverged("L0", task=TASK, bleu=0.0)])
    return write_report(folder, folder / "report").read_text()


def test_results_are_judged_by_what_their_task_declared():
    assert metric_of(results([row(bleu=0.0), diverged(bleu=0.0)])) == BLEU
    assert metric_of(results([diverged()])) == ACCURACY
    with pytest.raises(
        ValueError, match=f"run {row()['id']} of digits is judged by bleu and run {row()['id']} by accuracy; keep"
    ):
        metric_of(results([row(bleu=20.0), row()]))
    lower = replace(ACCURACY, full=None, percent=False, higher_is_better=False)
    with pytest.raises(
        ValueError, match=r"by Metric.*higher_is_better=True.* by Metric.*higher_is_better=False.*; keep"
    ):
        metric_of([*results([row()]), replace(*results([row()]), metric=lower)])
    assert BLEU.score(100.00000000000004) == 1.0  # as sacrebleu rounds


def test_each_metric_is_written_in_its_own_unit():
    assert (ACCURACY.text(0.9125), ACCURACY.text(0.9125, digits=2, space="")) == ("91.2 %", "91.25%")
    assert (BLEU.text(0.174), BLEU.range(0.17, 0.185, digits=2)) == ("17.4", "17.00–18.50")
    assert (ACCURACY.axis("test accuracy"), BLEU.axis("BLEU")) == ("test accuracy, %", "BLEU")


def test_every_statistic_is_of_the_score():
    (point,) = (p for p in summarize(results(ROWS)) if p.name == "GradualMagnitude" and p.sparsity == 0.9)
    assert (point.metric, point.score, point.highest) == (BLEU, pytest.approx(0.1744), pytest.approx(0.1744))
    assert by_seed(results(ROWS))["RandomPruning"][0] == [(0.5, 0.2), (0.9, pytest.approx(0.094))]
    assert run_values(results(ROWS[:3]))[0]["bleu"] == 0.265
    origin = {"type": "Scratch", "run": {"technique": {}, "steps": 9}}
    kept = {**translated("Scratch", 0.9, 12.0), "run": {"steps": 9, "technique": None, "origin": origin}}
    assert [band.mean for band in own_bands(results([*ROWS, kept]))] == [12.0]


def test_the_summary_says_what_its_scores_are(tmp_path):
    write_points(summarize(results([*ROWS[:2], row()])), tmp_path / "summary.csv")
    with (tmp_path / "summary.csv").open(newline="") as file:
        bleu, accuracy = csv.DictReader(file)
    assert (bleu["metric"], float(bleu["score"]), bleu["lowest"]) == ("bleu", pytest.approx(27.5), "27.0")
    assert (accuracy["metric"], accuracy["score"], accuracy["interval_low"]) == ("accuracy", "0.97", "")


def test_the_answer_is_by_bleu():
    found = results(ROWS)
    assert answer(summarize(found), compared(found)) == (
        "Not decided, as one seed has no spread: at 90 % sparsity GradualMagnitude has the best BLEU, 17.4 (n = 1), "
        "+8.04 points against RandomPruning; the dense model has 27.5 (95 % interval 21.1–33.9, n = 2)."
    )
    alone = results(ROWS[:4])
    assert "is the only technique measured: BLEU 17.4 at 90.0 %" in answer(summarize(alone), compared(alone))


def test_the_page_of_translations_is_about_bleu(text):
    assert "<h1>Sparsity and BLEU: " in text
    assert "BLEU and sparsity are those of the finalized model" in text
    page = text.partition("How this was measured")[0].partition("<body>")[2]
    # The published BLEU of this task is the tokenized one.
    assert "Hollow: published points, by tokenized BLEU." in page
    assert "Differences in points of BLEU" in " ".join(page.split())
    assert "accura" not in page
    best = page.split("<h3>The best found</h3>")[1].split("</table>")[0]
    assert "<td>17.44</td><td>none with one seed</td><td>17.44–17.44</td>" in best
    compared = page.split("<h3>At equal sparsity</h3>")[1].split("</table>")[0]
    assert "<td>9.40</td><td>−8.04</td>" in compared


def test_the_charts_of_translations_have_an_axis_of_bleu(text):
    charts = json.loads(re.search(r"^const charts = (.*);$", text, re.M).group(1))
    titles = {name: set(re.findall(r'"title": ("[^"]*")', json.dumps(chart))) for name, chart in charts.items()}
    assert '"BLEU"' in titles["trade-off"]
    assert '"expected best BLEU"' in titles["budget-90"]
    assert "accuracy" not in json.dumps(charts)
    assert {value["label"] for value in drawn(charts["trade-off"]) if "label" in value} == {"dense 27.5"}
    tables = json.loads(re.search(r"^const tables = (.*);$", text, re.M).group(1))
    assert ["score", "BLEU", "hundred"] in tables["points"]["columns"]
    assert ["bleu", "BLEU", "hundred"] in tables["runs"]["columns"]
    assert ["accuracy", "accuracy", "percent"] in tables["runs"]["columns"]  # of the next token, beside it


def test_an_axis_of_bleu_is_as_long_as_its_scores():
    axis = score_axis(BLEU, [0.1, 0.27])
    assert (axis.low, axis.high) == (pytest.approx(0.73 / 1.02), pytest.approx(0.9 * 1.02))
    assert axis.ticks == (0.9, 0.85, 0.8, 0.75)  # 10 to 25 BLEU
    assert score_axis(ACCURACY, [0.1, 0.27]).high == pytest.approx(0.99)


def drawn(spec):
    return [value for values in spec["datasets"].values() for value in values]


def test_a_study_of_both_has_each_task_by_its_own(tmp_path):
    text = write_report(study(tmp_path, [*ROWS, row(accuracy=0.9)]), tmp_path / "report").read_text()
    assert "<h1>Sparsity and accuracy or BLEU: " in text
    leads = re.findall(r'<p class="lead">(.*?)</p>', text)
    assert ["best BLEU, 17.4 (" in leads[0], "measured: 90.0\u00a0% at" in leads[1]] == [True, True]


def test_a_setting_is_drawn_against_bleu():
    spec = against(results({**one, "run": {**one["run"], "width": 64}} for one in ROWS), "width").to_dict()
    assert spec["vconcat"][0]["layer"][0]["encoding"]["y"]["axis"]["title"] == "BLEU"
    assert {20.0, 26.5} <= {value["y"] for value in drawn(spec)}


def test_the_command_line_prints_bleu(capsys):
    _print_results(results([*ROWS, diverged()]))
    printed = capsys.readouterr().out
    assert "BLEU" in printed
    assert " 17.44 " in printed
    _print_results(results([row()]))
    assert "97.00%" in capsys.readouterr().out


def test_the_best_run_of_a_sweep_is_by_bleu(tmp_path):
    outcomes = {one.id: Outcome("finished", one) for one in results(ROWS)}
    best = Sweep(tmp_path, {}, outcomes).best()
    assert (best.id, best.metric) == ("GradualMagnitude 0.5 0", BLEU)
