"""One colour for each technique on every page, and intervals and times as they can be read."""

import json
import math

import pytest

from openwork import public
from openwork.core.technique import Technique
from openwork.study.evaluation.metric import ACCURACY, BLEU, Metric
from openwork.study.experiments import tournament, tournament_cifar10
from openwork.study.published.overlay import TECHNIQUES
from openwork.study.report.charts import front_values
from openwork.study.report.looks import DARK, SHAPES, look, looks
from openwork.study.report.page import write_report
from openwork.study.report.paper import LABELS
from openwork.study.report.style import duration, whole_ticks
from openwork.study.results.statistics import summarize
from openwork.study.results.student import bounded_interval, student_interval
from tests.study.studies import results, row, study

OURS = ["GradualMagnitude", "L0", "RandomPruning", "VariationalDropout", "RigL", "SET", "Movement", "SNIP", "Wanda",
        "GroupL0", "PruneRetrain", "DynamicSurgery", "SoftWeightSharing"]  # fmt: skip


def test_each_technique_has_a_colour_of_its_own_whatever_is_beside_it():
    assert len({look(name)[0] for name in OURS}) == len(OURS)
    for name in OURS:
        assert looks([name])[name] == looks(["Aardvark", *OURS, "Zebra"])[name] == look(name)


@pytest.mark.parametrize("name", [*OURS, "MyTechnique", "dense"])
def test_a_variant_keeps_the_colour_and_changes_the_shape(name):
    (colour, shape), (other, another) = look(name), look(f"{name}, extended")
    assert (other, another != shape) == (colour, True)


def test_the_paper_s_techniques_have_the_colours_of_openwork_s():
    for technique, words in LABELS.items():
        assert look(words)[0] == look(TECHNIQUES[technique])[0]


def test_every_technique_of_openwork_s_looks_different_and_always_the_same():
    names = [
        name
        for name, one in vars(public).items()
        if isinstance(one, type) and issubclass(one, Technique) and one.__module__.startswith("openwork.techniques")
    ]
    assert len(names) >= 25, names
    assert len({look(name) for name in names}) == len(names)
    assert looks(["Aardvark", *names, "Zebra"]) == looks(["Aardvark", *names[::-1], "Zebra"])
    assert all(looks(["Aardvark", *names])[name] == look(name) for name in names)


@pytest.mark.parametrize("entrants", [tournament.ENTRANTS, tournament_cifar10.contest().entrants])
def test_the_words_of_the_studies_have_the_colours_of_openwork_s_techniques(entrants):
    known = {look(name)[0] for name in OURS}
    found = looks([name for name in entrants if name != "dense"])
    assert {colour for colour, _ in found.values()} <= known
    assert len(set(found.values())) == len(found)
    assert found["variational dropout"] == look("VariationalDropout")


def test_fifty_techniques_of_the_user_s_all_look_different():
    names = [*OURS, *(f"Mine{number}" for number in range(50))]
    assert len(set(looks(names).values())) == len(names)


def test_every_colour_has_one_for_a_dark_page():
    assert {look(name)[0] for name in OURS} <= DARK.keys()
    assert len(set(DARK.values())) == len(DARK)
    assert len(set(SHAPES)) == len(SHAPES)


@pytest.mark.parametrize(
    "scores", [(0.99, 0.9, 1.0), (0.001, 0.0, 0.2), (1.0, 1.0), (0.0, 0.0), (0.0, 1.0), (0.5, 1.0, 1.0)]
)
@pytest.mark.parametrize("metric", [ACCURACY, BLEU])
def test_an_interval_holds_only_what_the_metric_can_be(scores, metric):
    low, high = bounded_interval(scores, metric)
    assert 0 <= low <= sum(scores) / len(scores) <= high <= 1


def test_an_interval_inside_the_bounds_is_student_s():
    assert bounded_interval([0.90, 0.92, 0.94], ACCURACY) == student_interval([0.90, 0.92, 0.94])
    assert bounded_interval([1.0, 9.0], Metric("mse")) == student_interval([1.0, 9.0])
    assert bounded_interval([0.5], ACCURACY) is None


def test_the_interval_of_log_odds_by_hand():
    # mean .95, s / sqrt(2) = .05, t(.975, 1) = 12.7062: logit 2.94444 ± 12.7062 · .05 / (.95 · .05) = ± 13.37495
    low, high = bounded_interval([0.9, 1.0], ACCURACY)
    assert (math.log(low / (1 - low)), math.log(high / (1 - high))) == pytest.approx((-10.43051, 16.31939), abs=1e-4)


def test_two_seeds_apart_make_no_109_percent(tmp_path):
    rows = [row("A", seed=0, accuracy=0.90), row("A", seed=1, accuracy=0.99)]
    text = write_report(study(tmp_path, rows), tmp_path / "report").read_text()
    (point,) = summarize(results(rows))
    assert 0 < point.interval[0] < point.interval[1] < 1
    assert "109" not in text.partition("95 % interval ")[2][:20]
    (front,) = front_values(results(rows))[0, 1]
    assert (front["from"], front["to"]) == point.interval


def test_no_line_joins_points_that_are_no_curve():
    jump = [row("L0", f"{s}", 0, s, 0.9 - s / 10) for s in (0.0, 0.05, 0.999, 1.0)]
    steady = [row("A", f"{s}", 0, s, 0.9 - s / 10) for s in (0.5, 0.9, 0.98)]
    front = front_values(results([*jump, *steady]))[(0,)]
    pieces = {name: [p["piece"] for p in front if p["technique"] == name] for name in ("A", "L0")}
    assert pieces == {"A": [0, 0, 0], "L0": [0, 0, 1, 2]}


def test_the_charts_of_a_page_agree_on_colours(tmp_path):
    rows = [row(name, f"{s}", 0, s, 0.9 - s / 10) for name in ("Wanda", "RigL", "RigL, long") for s in (0.5, 0.9)]
    text = write_report(study(tmp_path, rows), tmp_path / "report").read_text()
    charts = json.loads(text.partition("const charts = ")[2].partition(";\nconst packed")[0])
    found = {}

    def walk(value):
        if isinstance(value, dict):
            scale = value.get("scale")
            if value.get("field") == "technique" and isinstance(scale, dict) and str(scale["range"][0]).startswith("#"):
                for name, colour in zip(scale["domain"], scale["range"], strict=True):
                    found.setdefault(name, set()).add(colour)
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(each)

    walk(charts)
    assert found == {"Wanda": {look("Wanda")[0]}, "RigL": {look("RigL")[0]}, "RigL, long": {look("RigL")[0]}}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (1.5, "1.5 s"), (45, "45 s"), (59.6, "1 min"), (90, "2 min"), (3599, "1 h 0 min"),
     (11_520, "3 h 12 min"), (3_600_000, "1,000 h 0 min")],
)  # fmt: skip
def test_a_time_can_be_read(seconds, text):
    assert duration(seconds) == text


def test_counts_have_whole_ticks():
    assert whole_ticks(1) == [1]
    assert whole_ticks(60) == [1, 2, 5, 10, 20, 50]
