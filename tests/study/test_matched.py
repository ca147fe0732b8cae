"""Two sweeps side by side: the same settings are compared seed by seed, and what only one has is listed."""

import csv
import json
import re
from dataclasses import asdict

import pytest
from typer.testing import CliRunner

from openwork.cli import app
from openwork.study.evaluation.metric import ACCURACY, Metric
from openwork.study.report.both import both
from openwork.study.report.versus import answer, write_versus
from openwork.study.results.matched import match, write_matched
from tests.cli.folders import openwork
from tests.study.studies import diverged, results, row, study

NOISE = (0.0, 0.001, -0.001)


def sweep(name="A", accuracy=0.9, sparsities=(0.5, 0.9), seeds=(0, 1, 2), noise=NOISE, **changes):
    """The rows of one technique; ``changes`` are to the descriptions of all its runs."""
    rows = [row(name, f"s={s}", seed, s, accuracy + noise[seed]) for s in sparsities for seed in seeds]
    for one in rows:
        one["run"] = {**one["run"], "task": {"title": "digits"}} | changes
    return rows


def matched(first, second, **more):
    return match(results(first), results(second), (0.5, 0.8, 0.9), **more)


def verdicts(found):
    return {(one[0].name, one[0].sparsity): compared.verdict for one, _, compared in found.cells}


def test_equal_settings_are_compared_by_the_seeds_that_both_have():
    found = matched(sweep(), sweep(accuracy=0.95, seeds=(1, 2), noise=NOISE[::-1]))
    _, (one, other, compared) = found.cells
    assert (one[0].sparsity, len(one), len(other), compared.value.seeds) == (0.9, 3, 2, (1, 2))
    # Seed 1: 0.951 - 0.901; seed 2: 0.95 - 0.899; of two cells the smaller p is doubled.
    assert compared.value.mean == pytest.approx(0.0505)
    assert compared.p == pytest.approx(2 * compared.value.p)
    assert verdicts(found) == {("A", 0.5): "better", ("A", 0.9): "better"}


def test_a_sweep_of_which_nothing_is_drawn_is_in_no_legend():
    charts = [
        both(list(map(results, sides)), ACCURACY, names=["A"], labels=("old", "new"), task="digits").to_dict()
        for sides in ((sweep(), sweep()), (sweep(), [row("dense")]))
    ]
    for chart, labels in zip(charts, (["old", "new"], ["old"]), strict=True):
        (dash,) = [layer["encoding"]["strokeDash"] for layer in chart["layer"] if "strokeDash" in layer["encoding"]]
        assert dash["legend"]["values"] == labels
        assert dash["scale"]["domain"] == ["old", "new"]  # the second is dashed whatever the first has


def test_what_only_one_sweep_has_is_listed():
    found = matched([*sweep(), *sweep("B")], [*sweep(sparsities=(0.9, 0.95)), *sweep("C")])
    names = [[(group[0].name, group[0].sparsity) for group in groups] for groups in found.only]
    assert names == [[("A", 0.5), ("B", 0.5), ("B", 0.9)], [("A", 0.95), ("C", 0.5), ("C", 0.9)]]
    assert list(verdicts(found)) == [("A", 0.9)]


def test_what_all_runs_of_both_differ_in_is_named_and_keeps_no_settings_apart():
    longer = sweep(steps=20, task={"title": "digits", "width": 8})
    found = matched(sweep(), [{**one, "task": "digits, width 8"} for one in longer])
    assert found.changed == {"steps": ("10", "20"), "task.width": ("default", "8")}
    assert verdicts(found) == {("A", 0.5): "equal", ("A", 0.9): "equal"}


@pytest.mark.parametrize(
    "second",
    [
        [*sweep(steps=20), *sweep("B", steps=30)],  # not one value
        sweep(technique={"type": "A", "final": 0.99}),  # the technique's own
    ],
)
def test_what_differs_otherwise_makes_other_settings(second):
    found = matched([*sweep(), *sweep("B")], second)
    assert (found.changed, found.cells) == ({}, ())
    assert len(found.only[0]) == 4


def test_techniques_are_compared_at_equal_sparsity_though_no_setting_is_the_same():
    found = matched(sweep(sparsities=(0.5, 0.95)), sweep(accuracy=0.95, sparsities=(0.4, 0.9), noise=NOISE[::-1]))
    assert found.cells == ()
    assert {place: one.verdict for place, one in found.levels.items()} == {
        (0.5, "A"): "better",
        (0.8, "A"): "better",
        (0.9, "A"): "better",
    }
    assert answer(found, ("old", "new")) == (
        "new against old at equal sparsity: better in 3 of 3 (largest shown: A at 50.0 %, +5.00 points, "
        "+4.75 to +5.25, n = 3)."
    )


@pytest.mark.parametrize("lost", [[], [row("A", "s=0.1", 2, 0.1)], [diverged("A", "s=0.9", 2)]])
def test_frontiers_are_not_compared_by_the_seeds_that_reached_a_level_in_both_while_others_did_not(lost):
    # Of a seed that only one sweep has nothing is known; one that both have and one lost would have counted.
    found = matched(sweep(), [*sweep(accuracy=0.95, seeds=(0, 1)), *lost])
    assert {level: one.value.n for (level, _), one in found.levels.items()} == (
        {} if lost else {0.5: 2, 0.8: 2, 0.9: 2}
    )


def test_with_a_margin_settings_are_shown_to_be_as_good():
    second = sweep(accuracy=0.9001, noise=NOISE[::-1])
    assert set(verdicts(matched(sweep(), second)).values()) == {"undecided"}
    assert set(verdicts(matched(sweep(), second, margin=0.02)).values()) == {"as good as"}
    with pytest.raises(ValueError, match="margin must be below 1"):
        matched(sweep(), second, margin=2.0)


def test_a_diverged_run_counts_with_the_worst_score_and_one_that_diverged_in_both_with_none():
    exploded = {**diverged("A", "s=0.9", 0), "run": sweep()[3]["run"]}
    found = matched(sweep(seeds=(0,)), [*sweep(seeds=(0,), sparsities=(0.5,)), exploded])
    assert {one[0].settings: compared.value.mean for one, _, compared in found.cells} == {"s=0.5": 0.0, "s=0.9": -0.9}
    (cell,) = matched([exploded, *sweep("B")], [exploded, *sweep("C")]).cells
    assert (cell[2].value, cell[2].verdict) == (None, "undecided")


def squared_errors(name, settings, values, steps):
    """A setting by the squared errors of its seeds; None diverged."""
    metric = asdict(Metric("mse", higher_is_better=False))
    rows = []
    for seed, value in values.items():
        one = diverged(name, settings, seed) if value is None else row(name, settings, seed)
        after = None if value is None else {"mse": value}
        rows.append({**one, "metric": metric, "before": after, "after": after, "run": {**one["run"], "steps": steps}})
    return rows


def test_without_bounds_a_diverged_run_counts_as_the_worst_run_of_the_task_in_both_sweeps():
    # The worst of its own setting would be 1.0, and two sweeps of which one has lost everything equal.
    first = [*squared_errors("A", "a", {0: 1.0, 1: 1.0}, 10), *squared_errors("B", "b", {0: 2.0}, 10)]
    second = [*squared_errors("A", "a", {0: None, 1: None}, 20), *squared_errors("B", "b", {0: 5.0}, 20)]
    a, b = matched(first, second).cells
    assert [(cell[2].value.mean, cell[2].verdict) for cell in (a, b)] == [(-4.0, "undecided"), (-3.0, "undecided")]


def test_the_means_beside_a_difference_are_those_of_the_seeds_that_were_compared(tmp_path):
    # Of all of its seeds, 2 and 4 too, the second sweep has another mean.
    first = squared_errors("A", "a", {0: 1.0, 1: 2.0, 3: 3.0}, 10)
    second = squared_errors("A", "a", {0: 0.5, 1: 1.5, 2: 9.0, 3: None, 4: 0.1}, 20)
    write_matched([(("digits", "digits"), matched(first, second))], tmp_path / "c")
    with (tmp_path / "c").open(newline="") as file:
        (cell,) = csv.DictReader(file)
    # The diverged run of seed 3 counts as 9: (1 + 2 + 3) / 3 and (0.5 + 1.5 + 9) / 3.
    found = [float(cell[key]) for key in ("value", "value_second", "difference", "n")]
    assert found == pytest.approx([2, 11 / 3, 11 / 3 - 2, 3])
    old, new = study(tmp_path / "old", first), study(tmp_path / "new", second)
    text = write_versus((old, new), tmp_path / "page").read_text()
    assert ['"score":[2.0]' in text, '"others":[3.66666667]' in text] == [True, True]


def test_where_all_common_seeds_diverged_nothing_is_said_of_the_others(tmp_path):
    first = squared_errors("A", "a", {0: None, 1: 2.0}, 10)
    second = squared_errors("A", "a", {0: None, 2: 7.0}, 20)
    write_matched([(("digits", "digits"), matched(first, second))], tmp_path / "c")
    with (tmp_path / "c").open(newline="") as file:
        (cell,) = csv.DictReader(file)
    assert cell["value"] == cell["value_second"] == ""


def test_sweeps_without_anything_in_common_say_so():
    found = matched(sweep(), sweep("B"))
    assert (
        answer(found, ("old", "new")) == "old and new have no setting, and no technique at equal sparsity, in common."
    )


def test_what_is_not_decided_is_said_with_its_largest_difference():
    found = matched(sweep(seeds=(0,)), sweep(accuracy=0.8, seeds=(0,)))
    assert answer(found, ("old", "new")) == (
        "new against old at equal sparsity: not decided in 3 of 3 (largest, not decided: A at 50.0 %, −10.00 points, "
        "n = 1); setting by setting: not decided in 2 of 2 (largest, not decided: A at 50.0 %, −10.00 points, n = 1)."
    )
    same = answer(matched(sweep(), sweep()), ("old", "new"))
    assert same == "new against old at equal sparsity: equal in 3 of 3; setting by setting: equal in 2 of 2."


def test_every_cell_is_a_line_of_the_table(tmp_path):
    found = matched([*sweep(), *sweep("B", sparsities=(0.75,))], sweep(accuracy=0.95))
    write_matched([(("digits", "digits"), found)], tmp_path / "c")
    with (tmp_path / "c").open(newline="") as file:
        half, _, alone = csv.DictReader(file)
    assert [half[key] for key in ("task", "technique", "sparsity", "sparsity_second", "n", "verdict")] == [
        *("digits", "A", "0.5", "0.5", "3", "undecided")  # all seeds differ by the same
    ]
    assert [float(half[key]) for key in ("value", "value_second", "difference")] == pytest.approx([0.9, 0.95, 0.05])
    assert [alone[key] for key in ("technique", "sparsity", "sparsity_second", "verdict")] == [
        *("B", "0.75", "", "only in the first")
    ]


def of_task(task, steps, variant, *names, **changes):
    """A sweep whose rows say in their names and settings what all of them have."""
    rows = [one for name in names for one in sweep(name, sparsities=(0.5,), steps=steps, **changes)]
    for one in rows:
        one |= {"task": task, "settings": f"{one['settings']}, steps={steps}", "name": one["name"] + variant}
    return rows


def test_a_line_of_the_table_is_named_by_what_either_sweep_calls_it(tmp_path):
    first = of_task("digits", 10, "", "A", "B")
    second = of_task("digits, width 8", 20, ", extended", "A", "C", accuracy=0.95, noise=NOISE[::-1])
    old, new = study(tmp_path / "old", first), study(tmp_path / "new", second)
    text = write_versus((old, new), tmp_path / "page").read_text()
    with (tmp_path / "page" / "comparison.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [[line[key] for key in ("task", "technique", "settings", "settings_second")] for line in lines] == [
        ["digits → digits, width 8", "A → A, extended", "s=0.5, steps=10", "s=0.5, steps=20"],
        ["digits", "B", "s=0.5, steps=10", ""],
        ["digits, width 8", "C, extended", "", "s=0.5, steps=20"],
    ]
    assert "<h2>digits → digits, width 8</h2>" in text
    assert "(largest shown: A → A, extended at 50.0 %" in text.replace("\u00a0", " ")
    assert '"settings, old"' in text


def test_openwork_report_compares_two_folders(tmp_path):
    old = study(tmp_path / "old", [*sweep(), *sweep("B", sparsities=(0.75,)), row(task="words")])
    new = study(tmp_path / "new", sweep(accuracy=0.95, noise=NOISE[::-1], steps=20))
    command = ["report", str(old), str(new), "--out", str(tmp_path / "page"), "--margin", "0.5", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page" / "index.html").read_text()
    page = str(tmp_path / "page" / "index.html")
    assert json.loads(done.stdout) == {"format": 1, "command": "report", "report": page}
    assert (tmp_path / "page" / "comparison.csv").exists()
    body = text.partition("<body>")[2].replace("\u00a0", " ")
    assert "new against old at equal sparsity: better in 3 of 3 (largest shown: A at " in body
    assert "only one has the task: words." in body
    assert "old and new differ, wherever a run has it, in: steps 10 → 20." in body
    assert ["<h3>Only in old</h3>" in body, "<h3>Only in new</h3>" in body] == [True, False]
    charts = json.loads(re.search(r"^const charts = (.*);$", text, re.M).group(1))
    assert list(charts) == ["both", "differences"]


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (("old", "old"), "was given twice; give two folders"),
        (("old", "new", "old"), "got 3; give one or two"),
        (("old", "empty"), "no finished run in"),
        (("old", "other"), "have no task in common"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence_and_writes_nothing(tmp_path, monkeypatch, capsys, folders, sentence):
    study(tmp_path / "old", [*sweep(), row("B", task="words")])
    study(tmp_path / "new", sweep())
    study(tmp_path / "empty", [diverged()])
    study(tmp_path / "other", [row(task="sounds")])
    out = tmp_path / "page"
    assert openwork(monkeypatch, "report", *(tmp_path / name for name in folders), "--out", out) == 2
    said = capsys.readouterr().err
    assert (said.startswith("error: "), sentence in said, said.count("\n")) == (True, True, 1)
    assert not out.exists()
