"""The runs of results/mnist/PLAN.md: as many tuning runs for each technique, and what differs is what the plan says."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import openwork as ow
from openwork.study.experiments import mnist, section6, tournament
from openwork.study.runs.run import with_prerequisites
from openwork.study.runs.unfinished import unfinished_schedules

HEAD = "technique,level,setting\n"


@pytest.fixture
def chosen(tmp_path):
    """A file of choices: each technique's third setting, or fourth, at two levels."""
    lines = [f'"{name}",{level},{number}\n' for name in tournament.ENTRANTS for level, number in ((0.9, 2), (0.99, 3))]
    (tmp_path / "chosen.csv").write_text(HEAD + "".join(lines), encoding="utf-8")
    return tmp_path / "chosen.csv"


def total(run):
    """The steps of a network, with those of what it starts from."""
    return run.steps + sum(total(each) for each in run.prerequisites)


def test_every_technique_has_60_tuning_runs_and_all_differ():
    runs = tournament.trials()
    assert set(Counter(name for name, _, _ in runs).values()) == {60}
    assert len({run.id for run in runs.values()}) == 60 * len(tournament.ENTRANTS) == 900
    told = Counter((name, level) for name, level, _ in runs if level)
    assert set(told.values()) == {15}
    assert {level for _, level in told} == {0.75, 0.95, 0.985, 0.995}


def test_every_network_has_12_000_steps(chosen):
    runs = [*tournament.trials().values(), *tournament.finals(chosen).values()]
    assert {total(run) for run in runs} == {12_000}
    assert unfinished_schedules(with_prerequisites(runs)) == []


def test_tuning_never_reads_the_test_set_and_final_runs_train_on_all_images(chosen):
    tuning = with_prerequisites(tournament.tuning())
    assert {(run.task.held_out, run.task.judged_on) for run in tuning} == {(10_000, "validation")}
    final = with_prerequisites(tournament.finals(chosen).values())
    assert {(run.task.held_out, run.task.judged_on) for run in final} == {(0, "test")}


def test_a_technique_that_is_told_its_sparsity_ends_with_it():
    for (name, level, _), run in tournament.trials().items():
        if level:
            assert run.technique.schedule.final == level, name


def test_the_final_runs_have_the_chosen_settings_and_20_seeds(chosen):
    runs = tournament.finals(chosen)
    assert set(Counter(key[:2] for key in runs).values()) == {20}
    one = runs["magnitude, global ranking", 0.99, 7]
    # The fourth setting: the first rate, pruning from 25 to 50 % of the steps.
    assert one.technique == ow.GradualMagnitude(ow.Cubic(0.99, begin=3_000, end=6_000), allocation=ow.GlobalRanking())
    assert (one.seed, one.task.peak_learning_rate) == (7, 1e-3)
    other = tournament.finals_of_lenet5(chosen)["magnitude, global ranking", 0.99, 7]
    assert replace(other, task=one.task) == one


def test_a_penalty_keeps_its_product_with_the_number_of_images(chosen):
    tuned = tournament.trials()["L0", 0.0, 2].technique.coefficient.final
    final = tournament.finals(chosen)["L0", 0.9, 0].technique.coefficient.final
    assert tuned * 50_000 == pytest.approx(final * 60_000) == pytest.approx(0.3)


def test_levels_without_a_choice_have_no_runs(tmp_path):
    (tmp_path / "chosen.csv").write_text(HEAD + "SET,0.9,0\n")
    assert {key[:2] for key in tournament.finals(tmp_path / "chosen.csv")} == {("SET", 0.9)}
    with pytest.raises(FileNotFoundError, match=r"chosen\.csv"):
        tournament.finals(Path("nowhere", "chosen.csv"))


def test_section_6_has_five_replicas_of_ten_kinds_of_twenty_masks():
    runs = section6.networks()
    counts = Counter(kind for kind, *_ in runs)
    assert counts.pop("magnitude") == 20
    assert (len(counts), set(counts.values())) == (10, {100})
    assert len({run.id for run in runs.values()}) == len(section6.section6()) == 1_020
    assert {run.steps for (kind, *_), run in runs.items() if kind.startswith("scratch-b")} == {24_000}


def test_in_section_6_kinds_are_paired_by_seed_and_begin_before_pruning():
    runs = section6.networks()
    for level, mask, replica in ((0.8, 0, 0), (0.98, 4, 3)):
        kinds = [run for key, run in runs.items() if key[0] != "magnitude" and key[1:] == (level, mask, replica)]
        assert len({run.seed for run in kinds}) == 1
        assert {run.kept_zeros.id for run in kinds} == {runs["magnitude", level, mask, 0].id}
        begin = runs["magnitude", level, mask, 0].technique.schedule.begin
        assert max(run.first_weights.steps for run in kinds if run.first_weights) <= begin
    assert len({run.seed for (kind, *_), run in runs.items() if kind == "scratch-e"}) == 25


def test_the_recipes_are_two_by_two_and_one_of_them_is_the_earlier_schedule():
    small = mnist.recipes()
    assert len({run.id for run in small.values()}) == 80
    assert small[False, False, 0] == mnist.variational_dropout()
    assert {run.technique.train_clip for key, run in small.items() if key[0]} == {True}
    assert {run.task.lasagne for key, run in small.items() if key[1]} == {True}
    assert len(mnist.sparsevd()) == 80 + 40
