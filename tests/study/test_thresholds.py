"""One checkpoint at many thresholds: separate rows and points, which cost no training."""

import json
import math
from dataclasses import replace

import pytest

from openwork.cli.checkpoints import Evaluated, _keep
from openwork.core.schedules import Constant
from openwork.study.evaluation.metric import ACCURACY
from openwork.study.report.page import write_report
from openwork.study.results.result import identity
from openwork.study.results.statistics import summarize, tried
from openwork.study.results.store import collect, flat, read_results
from openwork.study.results.thresholds import AtThreshold, Judged, keep_thresholds, read_thresholds
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.sweeps.price import prices
from openwork.study.tasks.lenet import DigitsLeNet300100
from openwork.techniques.variational_dropout import VariationalDropout
from tests.study.studies import diverged, row, study

OWN = identity({"technique": {"threshold": 3.0}, "seed": 0})


def found(threshold, sparsity, accuracy):
    after = {"accuracy": accuracy, "loss": 0.2, "sparsity": sparsity}
    run = {"technique": {"threshold": threshold}}
    return AtThreshold(threshold, run, f"threshold={threshold:g}", after, sparsity, sparsity / 2)


def entry(threshold, sparsity, accuracy):
    """The same as thresholds.json says it."""
    return {
        "threshold": threshold,
        "run": {"technique": {"threshold": threshold}},
        "settings": f"threshold={threshold:g}",
        "after": {"accuracy": accuracy, "loss": 0.2, "sparsity": sparsity},
        "sparsity": {"selected": sparsity, "all": sparsity / 2},
    }


@pytest.fixture
def directory(tmp_path):
    """Two seeds of a run whose own threshold is 3, each kept at 0.5 and 3 as well."""
    rows = [row("VariationalDropout", "", seed, 0.8, 0.97) for seed in (0, 1)]
    for one in rows:
        one["run"] = {"technique": {"threshold": 3.0}, "seed": one["seed"]}
        one["threshold"] = 3.0
        one["id"] = identity(one["run"])
    study(tmp_path, rows)
    for one in rows:
        keep_thresholds(tmp_path / one["id"], [found(3.0, 0.8, 0.97), found(0.5, 0.9, 0.95 + 0.01 * one["seed"])])
    return tmp_path


def test_a_kept_threshold_is_a_row_beside_the_run_s_own(directory):
    rows = read_results(directory)
    assert [(r.id, r.seed, r.after["sparsity"]) for r in rows if r.seed == 0] == [
        (OWN, 0, 0.8),
        (f"{OWN}@0.5", 0, 0.9),
    ]  # its own threshold is there once
    other = rows[-1]
    assert (other.run["technique"]["threshold"], other.layers, other.before) == (0.5, (), None)
    assert [r.trained for r in rows] == [True, True, False, False]
    collected, differences = collect([directory])
    rows = [flat(one) for one in collected]
    assert ([r["after_accuracy"] for r in rows], differences) == ([0.97, 0.97, 0.95, 0.96], [])
    assert [r["seconds"] for r in rows] == [1.5, 1.5, 0.0, 0.0]


def test_a_run_trained_with_a_threshold_stands_for_those_that_are_kept_at_it(directory):
    trained = {**row("VariationalDropout", "threshold=0.5", 0, 0.9, 0.96), "threshold": 0.5}
    trained["run"] = {"technique": {"threshold": 0.5}, "seed": 0}
    study(directory, [trained])
    assert [r.id for r in read_results(directory) if r.settings] == [
        identity(trained["run"]),
        f"{identity({'technique': {'threshold': 3.0}, 'seed': 1})}@0.5",
    ]
    assert [(p.settings, p.n) for p in summarize(read_results(directory))] == [("", 2), ("threshold=0.5", 2)]


def test_runs_of_one_seed_that_start_from_networks_of_two_masks_are_kept_at_a_threshold_each(tmp_path):
    rows = [row("VariationalDropout", "", 0, 0.8, 0.97) for _ in range(2)]
    for mask, one in enumerate(rows):
        network = {"seed": 0, "origin": {"type": "LotteryTicket", "run": {"seed": mask}}}
        one["run"] = {"technique": {"threshold": 3.0}, "seed": 0, "origin": {"type": "Pretrained", "run": network}}
        one |= {"threshold": 3.0, "id": identity(one["run"])}
    study(tmp_path, rows)
    for one in rows:
        run = {**one["run"], "technique": {"threshold": 0.5}}
        keep_thresholds(tmp_path / one["id"], [replace(found(0.5, 0.9, 0.95), run=run)])
    assert [(p.settings, p.n, p.runs) for p in summarize(read_results(tmp_path))] == [
        # Another mask is another pre-training.
        *((f"origin.run.origin.run.seed={mask}", 1, 1) for mask in (0, 1)),
        *((f"origin.run.origin.run.seed={mask}, threshold=0.5", 1, 1) for mask in (0, 1)),
    ]


def test_thresholds_are_points_over_their_seeds_and_settings_of_a_budget(directory):
    own, other = summarize(read_results(directory))
    assert (other.settings, other.n, other.score, other.seconds) == ("threshold=0.5", 2, pytest.approx(0.955), 0)
    assert (own.score, own.n) == (0.97, 2)
    assert tried([own, other]) == {"VariationalDropout": [(0.8, 0.97), (0.9, pytest.approx(0.955))]}


def test_the_report_counts_runs_and_thresholds_apart(directory):
    text = write_report(directory, directory / "report").read_text()
    assert "2 finished runs of 10 steps with seeds 0, 1; 3.0 s of training." in text  # 2 · 1.5 s
    assert "2 more points are those runs at other thresholds, which cost no training." in text
    answer = text.partition('<p class="lead">')[2].partition("</p>")[0].replace("\u00a0", " ")
    assert answer.startswith("VariationalDropout is the only technique measured: 95.5 % at 90.0 % sparsity (95 % inter")
    assert answer.endswith("n = 2).")
    # The layers are listed of the run alone, at 80 %.
    assert "VariationalDropout at 80.0 % sparsity" in text


def test_what_is_found_again_replaces_what_was_kept(tmp_path):
    keep_thresholds(tmp_path, [found(2.0, 0.5, 0.9), found(-1.0, 0.99, 0.1)])
    keep_thresholds(tmp_path, [found(2.0, 0.5, 0.8), found(0.5, 0.9, 0.7)])
    assert [(one.threshold, one.after["accuracy"]) for one in read_thresholds(tmp_path)] == [
        (-1.0, 0.1), (0.5, 0.7), (2.0, 0.8),
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["thresholds.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"thresholds.json cannot be read \(.*\); delete it, and evaluate the run's thresholds again"),
        ("[]", r"\(no list of thresholds\); delete it"),
        (json.dumps({"format": 7, "thresholds": []}), "has format 7, this openwork reads 2"),
        (json.dumps({"format": 2, "thresholds": [{"threshold": 1}]}), "one has no threshold, settings, after"),
        (json.dumps({"format": 2, "thresholds": [entry(True, 0.5, 0.9)]}), "one has no threshold"),
        (json.dumps({"format": 2, "thresholds": [entry(1.0, 0.5, 90)]}), r"after.accuracy must be in \[0, 1\], got 90"),
        (json.dumps({"format": 2, "thresholds": [entry(math.nan, 0.5, 0.9)]}), "one has no threshold"),
        (json.dumps({"format": 2, "thresholds": [{**entry(1, 1, 1), "settings": 3}]}), "settings is not text"),
    ],
)
def test_a_damaged_file_is_named_with_its_cure(directory, content, message):
    (directory / OWN / "thresholds.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_results(directory)


@pytest.mark.parametrize(
    ("kind", "same", "reason"),
    [
        ("finished", False, "not kept in the run's directory, as --data and --recalibrate change"),
        ("finished", True, "kept in "),
        ("diverged", True, "not kept: the run is not finished"),
        ("begun", True, "not kept: the run is not finished"),
    ],
)
def test_only_what_belongs_to_a_finished_run_is_kept(tmp_path, capsys, kind, same, reason):
    if kind != "begun":
        made = row() if kind == "finished" else diverged()
        study(tmp_path, [made])
    folder = tmp_path / made["id"] if kind != "begun" else tmp_path
    judged = Judged("test", "digits", ACCURACY)
    _keep([Evaluated(1.0, {}, "threshold=1", {"accuracy": 0.9}, 0.5, 0.25, judged)], folder, same=same)
    assert capsys.readouterr().err.startswith(reason)
    assert (folder / "thresholds.json").exists() == (reason == "kept in ")


def test_a_threshold_at_which_a_metric_is_not_finite_is_not_kept_beside_those_at_which_all_are(tmp_path, capsys):
    study(tmp_path, [made := row()])
    judged = Judged("test", "digits", ACCURACY)
    measured = {1.0: 0.2, 2.0: math.nan, 3.0: math.inf}
    tried = [
        Evaluated(threshold, {}, "", {"accuracy": 0.9, "loss": loss}, 0.5, 0.25, judged)
        for threshold, loss in measured.items()
    ]
    _keep(tried, tmp_path / made["id"], same=True)
    assert [one.threshold for one in read_thresholds(tmp_path / made["id"])] == [1.0]
    said = capsys.readouterr().err
    assert said.startswith("kept in ")
    assert "without threshold 2, 3, where a metric is NaN or infinite" in said
    _keep(tried[1:2], tmp_path / made["id"], same=True)
    assert capsys.readouterr().err == "not kept: at threshold 2 a metric is NaN or infinite\n"


def test_thresholds_do_not_price_a_sweep(tmp_path):
    task, technique = DigitsLeNet300100(), VariationalDropout(Constant(1e-4))
    done = Run(task, technique, steps=2)
    result = execute(done, tmp_path, evaluations=1)
    keep_thresholds(tmp_path / done.id, [found(0.5, 0.9, 0.5)])
    (price,) = prices([Run(task, technique, steps=2, seed=1)], tmp_path)
    assert (price.step_ms, price.source) == (result.cost.step_ms, "1 finished run")


def test_texts_of_thresholds_are_read_with_escapes(directory):
    path = next(directory.glob("*/thresholds.json"))
    judged = {"on": "validation", "task": "a\x1bb", "metric": {"key": "accuracy", "name": "c \udcff"}}
    odd = {**entry(0.25, 0.9, 0.9), "settings": "d\x1be", "judged": judged}
    path.write_text(json.dumps({"format": 2, "thresholds": [odd]}))
    (one,) = [result for result in read_results(directory) if result.id.endswith(",validation")]
    assert (one.task, one.metric.name, one.settings) == (r"a\x1bb", r"c \udcff", r"d\x1be")
