"""Classes that share a name: reports must not make one technique, or one task, of two."""

import csv
import json
import shutil
from dataclasses import dataclass

import pytest

import openwork as ow
from openwork.study.evaluation.metric import Metric
from openwork.study.report.page import write_report
from openwork.study.report.versus import write_versus
from openwork.study.results.folders import folders_apart, read_folders
from openwork.study.results.store import collect, read_results
from openwork.study.results.thresholds import AtThreshold, keep_thresholds
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.sweeps.price import prices
from openwork.study.tasks.lenet import DigitsLeNet300100
from tests.cli.folders import openwork
from tests.study.studies import row, study

HERE = __name__
SCHEDULE = ow.OneShot(0.5, at=1)


@dataclass(frozen=True)
class GradualMagnitude(ow.MaskTechnique):
    """The smallest weights stay."""

    def scores(self, view):
        return -view.weight.abs()


@dataclass(frozen=True)
class Otherwise(DigitsLeNet300100):
    """A task that inherits its title, and is judged otherwise."""

    metric = Metric("mistakes", higher_is_better=False)

    def evaluate(self, model, device):
        measured = super().evaluate(model, device)
        return measured | {"mistakes": 1 - measured["accuracy"]}


def one(name="Mine", technique="Mine", task="digits", kind="Digits", seed=0, **more):
    """A row whose technique and task are of these classes."""
    found = row(name, seed=seed, task=task, **more)
    described = {"steps": 10, "seed": seed, "technique": {"type": technique}, "task": {"type": kind}}
    return {**found, "run": described}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for task in (DigitsLeNet300100(), Otherwise()):
        for technique in (ow.GradualMagnitude(SCHEDULE), GradualMagnitude(SCHEDULE)):
            execute(Run(task, technique, steps=2), folder, evaluations=1)
    return folder


def test_a_copy_of_a_technique_is_another_technique_and_a_subclass_of_a_task_another_task(trained, tmp_path):
    title = DigitsLeNet300100().title
    expected = {
        (where, name)
        for where in (title, f"{title} ({HERE}.Otherwise)")
        for name in ("GradualMagnitude", f"{HERE}.GradualMagnitude")
    }
    for found in (read_results(trained), collect([trained])[0]):
        assert {(result.task, result.name) for result in found} == expected
    write_report(trained, tmp_path)
    with (tmp_path / "summary.csv").open(newline="") as file:
        points = [(line["task"], line["name"]) for line in csv.DictReader(file)]
    assert sorted(points) == sorted(expected)


def test_run_prints_two_techniques(tmp_path, monkeypatch, capsys):
    (tmp_path / "twolab.py").write_text(
        "import openwork as ow\n"
        "from openwork.study.runs.run import Run\n"
        "from openwork.study.tasks.lenet import DigitsLeNet300100\n"
        f"from {HERE} import SCHEDULE, GradualMagnitude\n"
        "techniques = (ow.GradualMagnitude(SCHEDULE), GradualMagnitude(SCHEDULE))\n"
        "runs = [Run(DigitsLeNet300100(), technique, steps=2) for technique in techniques]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert openwork(monkeypatch, "run", "twolab:runs", "--out", tmp_path / "runs", "--evaluations", 1) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "GradualMagnitude" in line]
    assert names == ["GradualMagnitude", f"{HERE}.GradualMagnitude"]


def test_prices_know_the_finished_runs_of_such_classes(trained):
    runs = [Run(DigitsLeNet300100(), GradualMagnitude(SCHEDULE), steps=2, seed=seed) for seed in (0, 1)]
    (price,) = prices(runs, trained)
    assert price.step_ms is not None
    assert price.name == "GradualMagnitude"  # as the sweep has no other of that name


def test_prices_are_of_one_class_each(trained, tmp_path):
    """Each has the times of its own finished runs alone, and is named as in reports."""
    title = DigitsLeNet300100().title
    tasks, techniques = (DigitsLeNet300100(), Otherwise()), (ow.GradualMagnitude(SCHEDULE), GradualMagnitude(SCHEDULE))
    runs = [Run(task, technique, steps=2, seed=seed) for task in tasks for technique in techniques for seed in (0, 1)]
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    for factor, run in enumerate(runs[::2], 1):
        path = tmp_path / run.id / "result.json"
        result = json.loads(path.read_text())
        result["cost"]["step_ms"] = 1e3 * factor
        path.write_text(json.dumps(result))
    found = {(price.task, price.name): (price.states, price.step_ms) for price in prices(runs, tmp_path)}
    each = {"finished": 1, "new": 1}
    assert found == {
        (title, "GradualMagnitude"): (each, 1e3),
        (title, f"{HERE}.GradualMagnitude"): (each, 2e3),
        (f"{title} ({HERE}.Otherwise)", "GradualMagnitude"): (each, 3e3),
        (f"{title} ({HERE}.Otherwise)", f"{HERE}.GradualMagnitude"): (each, 4e3),
    }


def test_two_modules_are_told_apart_and_variants_stay(tmp_path):
    rows = [
        one(technique="first:Mine"),
        one(technique="second.part:Mine"),
        one("Mine, long", technique="first:Mine", seed=1),
        one("Mine, long", technique="third:Mine", seed=1),
        one("Other", technique="first:Other"),
    ]
    assert [result.name for result in read_results(study(tmp_path, rows))] == [
        *("Other", "first.Mine", "first.Mine, long", "second.part.Mine", "third.Mine, long"),
    ]


def test_one_class_with_several_settings_keeps_its_name(tmp_path):
    rows = [one(technique="first:Mine", kind="first:Task", seed=seed) for seed in (0, 1)]
    assert {(result.task, result.name) for result in read_results(study(tmp_path, rows))} == {("digits", "Mine")}


def test_another_variant_of_a_copy_is_no_variant_of_the_technique(tmp_path):
    rows = [one(), one("Mine, long", technique="first:Mine")]
    assert [result.name for result in read_results(study(tmp_path, rows))] == ["Mine", "first.Mine, long"]


def close(coefficient, seed, **more):
    """A row whose settings have six digits of this coefficient."""
    found = one(seed=seed, settings=f"coefficient={coefficient:.6g}", **more)
    found["run"]["technique"]["coefficient"] = coefficient
    return found


def test_settings_that_differ_in_the_seventh_digit_are_told_apart_and_others_stay_as_they_are(tmp_path):
    rows = [close(value, seed) for value in (0.1, 0.10000001, 0.2) for seed in (0, 1)]
    names = ["coefficient=0.1, coefficient=0.1", "coefficient=0.10000001, coefficient=0.1", "coefficient=0.2"]
    folder = study(tmp_path / "runs", rows)
    for found in (
        read_results(folder),
        collect([folder])[0],
        [run.result for run in folders_apart([*read_folders(folder)])],
    ):
        assert sorted(result.settings for result in found) == sorted(2 * names)
    write_report(folder, tmp_path / "page")
    with (tmp_path / "page" / "summary.csv").open(newline="") as file:
        assert sorted(line["settings"] for line in csv.DictReader(file)) == names


def test_settings_of_two_sweeps_are_told_apart_together(tmp_path):
    first, second = (
        study(tmp_path / str(value), [close(value, seed) for seed in (0, 1)]) for value in (0.1, 0.10000001)
    )
    write_versus((first, second), tmp_path / "page")
    with (tmp_path / "page" / "comparison.csv").open(newline="") as file:
        shown = [(line["settings"], line["settings_second"]) for line in csv.DictReader(file)]
    assert shown == [
        ("coefficient=0.1, coefficient=0.1", ""), ("", "coefficient=0.10000001, coefficient=0.1")
    ]  # fmt: skip


def test_thresholds_that_differ_in_the_seventh_digit_are_two_points(tmp_path):
    folder = study(tmp_path, [close(0.1, 0)])
    run = {**close(0.1, 0)["run"]}
    entries = []
    for threshold in (2.0, 2.0000001):
        technique = {**run["technique"], "threshold": threshold}
        entries.append(
            AtThreshold(threshold, {**run, "technique": technique}, "threshold=2", {"accuracy": 0.9}, 0.5, 0.4)
        )
    (path,) = folder.iterdir()
    keep_thresholds(path, entries[:1])
    keep_thresholds(path, entries[1:])
    found = [result for result in read_results(folder) if not result.trained]
    assert [(result.id.partition("@")[2], result.settings) for result in found] == [
        ("2", "threshold=2.0, threshold=2"), ("2.0000001", "threshold=2.0000001, threshold=2")
    ]  # fmt: skip
    assert len({result.group for result in found}) == 2


def versus(tmp_path, *kinds_of_both):
    """The text of the page that compares two studies with techniques of these classes."""
    first, second = (
        study(tmp_path / name, [one(technique=kind, seed=seed) for kind in kinds for seed in (0, 1)])
        for name, kinds in zip(("old", "new"), kinds_of_both, strict=True)
    )
    return write_versus((first, second), tmp_path / "page").read_text()


@pytest.mark.parametrize(("second", "name"), [("first:Mine", "first.Mine"), ("Mine", "Mine")])
def test_a_class_that_is_told_apart_in_one_study_is_compared_with_itself_in_the_other(tmp_path, second, name):
    versus(tmp_path, ["Mine", "first:Mine"], [second])
    with (tmp_path / "page" / "comparison.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["technique"] for line in lines if not line["verdict"].startswith("only")] == [name]


def test_a_technique_is_compared_with_a_copy_of_another_module_where_no_study_has_both(tmp_path):
    assert "at equal sparsity: " in versus(tmp_path, ["Mine"], ["first:Mine"])
    assert "at equal sparsity: " not in versus(tmp_path / "both", ["Mine"], ["first:Mine", "second:Mine"])
