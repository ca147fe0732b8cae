"""Runs that cannot be trained as one model are said in one sentence and come out as they do alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import openwork as ow
from openwork.study.fleet import fleet
from openwork.study.results.store import read_result
from openwork.study.runs import record as run_record
from openwork.study.runs.run import Run
from openwork.study.sweeps.fleet import Fleets
from openwork.study.sweeps.sweep import Here, Options, Sweep, sweep
from openwork.study.tasks.lenet import DigitsLeNet300100
from tests.study import alonelab, faultlab, fleetlab
from tests.study.tinylab import PRUNE, Diverging, Failing, Still, Tiny

OPTIONS = Options(evaluations=2)


def both(runs: list[Run], folder: Path, width: int | None = None) -> tuple[Sweep, list[str]]:
    """The sweep as fleets, with what it said, after comparing all with a sweep that trains each run alone."""
    said: list[str] = []
    together = sweep(runs, folder / "together", Fleets(folder / "together", OPTIONS, width, say=said.append))
    alone = sweep(runs, folder / "alone", Here(folder / "alone", OPTIONS))
    assert together.outcomes.keys() == alone.outcomes.keys()
    for id, outcome in together.outcomes.items():
        wanted = alone.outcomes[id]
        assert (outcome.state, outcome.reason) == (wanted.state, wanted.reason)
        if outcome.state == "finished":
            ours, theirs = (read_result(f / id / "result.json") for f in (together.directory, alone.directory))
            assert ours.step == theirs.step
            assert ours.sparsity == theirs.sparsity
            assert ours.after == pytest.approx(theirs.after, rel=1e-3)
            weights, expected = (load_file(f / id / "model.safetensors") for f in (together.directory, alone.directory))
            for name, tensor in expected.items():
                torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=2e-5)
        assert not (together.directory / id / "lock").exists()
    return together, said


def widths(ended: Sweep) -> list[int | None]:
    return [outcome.result.environment.fleet for outcome in ended.outcomes.values() if outcome.result]


def of(task: type[Tiny], technique: ow.MaskTechnique | None = PRUNE) -> list[Run]:
    return [Run(task(), technique, steps=12, seed=seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (alonelab.Asking, "RuntimeError: vmap: It looks like you're calling .item() on a Tensor"),
        (alonelab.Branching, "data-dependent control flow"),
        (alonelab.Drawing, "called random operation"),
        (alonelab.Dropping, "called random operation"),
        (alonelab.Lstm, "Batching rule not implemented for aten::lstm.input"),
        (alonelab.Gru, "Batching rule not implemented for aten::gru.input"),
        (alonelab.InParts, "tiny divides its batches into parts, which cannot be stacked"),
        (alonelab.InSharedParts, "tiny divides its batches into parts, which cannot be stacked"),
        (alonelab.NotElementwise, "tiny trains with Adafactor, which is none of torch's elementwise optimizers"),
        (alonelab.LateBuffer, "the model of tiny registers a buffer when it is first called; register it in __init__"),
        (alonelab.OfAnyWidth, "model 1 has other tensors than the first one; train it alone"),
        (alonelab.ScaledBySeed, "scale of model 1 is not that of the first one"),
        (alonelab.ScaledByIterator, "alone comes to another loss: perhaps its task, model or technique uses a number"),
        (alonelab.HookedGradients, "the model of tiny has hooks at its parameters, which see one run each"),
        (alonelab.HookedOutputs, "tiny registers hooks at tensors that it computes, which see one run each"),
        (alonelab.HookedOptimizer, "the optimizer of tiny has hooks, which see one run each"),
    ],
)
def test_what_cannot_be_stacked_is_said_once_and_trained_alone(task, reason, tmp_path):
    ended, said = both(of(task), tmp_path)
    assert widths(ended) == [None] * 3
    (sentence,) = said
    assert sentence.startswith("3 runs of GradualMagnitude are trained one by one: ")
    assert reason in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "task", [faultlab.WithoutData, faultlab.WithoutMetric, faultlab.Ending, faultlab.Closure, Failing]
)
def test_what_fails_alone_fails_in_a_fleet_for_the_same_reason(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended, said = both(of(task), tmp_path)
    assert ended.count("failed") == 3
    assert len(said) == 1


@pytest.mark.parametrize(
    "task", [faultlab.Refusing, fleetlab.Spare, fleetlab.OfItsOwnOrder, fleetlab.Centered, Diverging]
)
def test_what_is_odd_but_a_function_of_tensors_is_stacked(task, tmp_path):
    ended, said = both(of(task), tmp_path)
    assert widths(ended) == [3, 3, 3]
    assert not said


@pytest.mark.parametrize("part", ["0", "2", "2.weight", "2.bias", "none"])
@pytest.mark.parametrize(
    "technique",
    [
        PRUNE,
        ow.RigL(ow.Constant(0.5, every=2, stop=10)),
        ow.ACDC(ow.Phases(0.5, begin=2, end=9, sparse=2, dense=2)),
        ow.VariationalDropout(ow.Constant(1e-3)),
    ],
    ids=lambda technique: type(technique).__name__,
)
def test_weights_that_are_frozen_or_have_no_gradient_are_pruned_as_alone(part, technique, tmp_path):
    runs = [Run(fleetlab.Frozen(part=part), technique, steps=12, seed=seed) for seed in range(3)]
    ended, said = both(runs, tmp_path)
    assert widths(ended) == [3, 3, 3]
    assert not said


@pytest.mark.parametrize(
    "tasks",
    [
        [alonelab.OfGivenWidth(hidden=hidden) for hidden in (2, 3)],
        [alonelab.Smoothed(smoothing=smoothing) for smoothing in (0.0, 0.1, 0.2)],
    ],
    ids=["of a shape", "of a loss"],
)
def test_a_number_that_a_task_calls_varying_and_that_is_not_is_found(tasks, tmp_path):
    ended, said = both([Run(task, PRUNE, steps=12) for task in tasks], tmp_path)
    assert set(widths(ended)) == {None}
    assert len(said) == 1


def test_scores_drawn_from_torchs_generator_are_found_although_their_step_is_right(tmp_path):
    ended, (sentence,) = both(of(Tiny, alonelab.Jitter(ow.OneShot(0.5, at=3))), tmp_path)
    assert widths(ended) == [None] * 3
    assert "tiny or Jitter draws from torch's generator" in sentence


@pytest.mark.parametrize(
    ("task", "technique"),
    [
        (faultlab.DyingIfMasked(), alonelab.Jitter(ow.OneShot(0.5, at=3))),
        (Still(), alonelab.Hazard(ow.OneShot(0.5, at=3))),
    ],
    ids=["by its loss", "by its update"],
)
def test_no_run_is_recorded_as_diverged_by_numbers_that_it_would_not_draw_alone(task, technique, tmp_path, monkeypatch):
    recorded: list[bool] = []
    real = run_record.record
    monkeypatch.setattr(fleet, "record", lambda *arguments, **named: recorded.append(True) or real(*arguments, **named))
    ended, (sentence,) = both([Run(task, technique, steps=12, seed=seed) for seed in range(8)], tmp_path)
    assert "draws from torch's generator" in sentence
    assert 0 < ended.count("diverged") < 8
    assert not recorded


def test_noise_in_an_evaluation_is_found(tmp_path):
    ended, (sentence,) = both(of(Tiny, ow.VariationalDropout(ow.Constant(1e-3))), tmp_path)  # it forgets model.eval()
    assert widths(ended) == [None] * 3
    assert "tiny or VariationalDropout draws from torch's generator" in sentence


def test_a_technique_of_a_users_own_python_is_asked_for_each_run(tmp_path):
    powers = [fleetlab.Powered(ow.OneShot(0.5, at=5), power=power) for power in (0.25, 1.0, 4.0)]
    ended, said = both([Run(Tiny(), technique, steps=12) for technique in powers], tmp_path)
    assert widths(ended) == [3, 3, 3]
    assert not said


@pytest.mark.parametrize("orders", [(None, 1, 2), (3, 3, 3), (0, 0, 1)])
def test_each_run_sees_the_batches_of_its_own_task(orders, tmp_path):
    tasks = [fleetlab.OfItsOwnOrder(order=order) for order in orders]
    ended, _ = both([Run(task, PRUNE, steps=12, seed=seed) for seed, task in enumerate(tasks)], tmp_path)
    assert widths(ended) == [3, 3, 3]


@pytest.mark.parametrize("orders", [(None, 1, 2), (3, 3, 3)])
def test_images_come_in_the_order_of_each_task(orders, tmp_path):
    tasks = [DigitsLeNet300100(peak_learning_rate=1e-2, order=order) for order in orders]
    ended, _ = both([Run(task, None, steps=4, seed=seed) for seed, task in enumerate(tasks)], tmp_path)
    assert widths(ended) == [3, 3, 3]


def test_a_subclass_that_evaluates_in_its_own_way_does_so_in_a_fleet(tmp_path):
    runs = [Run(fleetlab.OfMoreMetrics(), None, steps=2, seed=seed) for seed in range(2)]
    ended, _ = both(runs, tmp_path)
    assert [outcome.result.after["twice"] for outcome in ended.outcomes.values()] == [2.0, 2.0]


def test_other_steps_techniques_and_settings_are_other_fleets_and_a_single_run_is_alone(tmp_path):
    run = Run(Tiny(), PRUNE, steps=12)
    runs = [
        run,
        replace(run, seed=1),
        replace(run, technique=ow.GradualMagnitude(ow.OneShot(0.75, at=4)), seed=2),  # of the first fleet
        replace(run, steps=13),
        replace(run, steps=13, seed=1),
        replace(run, technique=replace(PRUNE, hidden="lost")),
        replace(run, technique=replace(PRUNE, hidden="lost"), seed=1),
        replace(run, technique=ow.RandomPruning(ow.OneShot(0.5, at=5))),
        replace(run, technique=None),
    ]
    ended, said = both(runs, tmp_path)
    assert widths(ended) == [3, 3, 3, 2, 2, 2, 2, None, None]
    assert not said


def test_a_width_of_three_makes_of_eight_runs_fleets_of_three_three_and_two(tmp_path):
    ended, _ = both([Run(Tiny(), PRUNE, steps=12, seed=seed) for seed in range(8)], tmp_path, width=3)
    assert sorted(widths(ended)) == [2, 2, 3, 3, 3, 3, 3, 3]
