"""Runs that keep zeros at drawn places, and runs whose weights are rewound to a step of the sparse run."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import openwork as ow
from openwork.study.models.lenet import LeNet5Caffe, LeNet300100, draw_as_lasagne
from openwork.study.runs.config import from_plain, to_plain
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare
from openwork.study.runs.origin import LotteryTicket, Pretrained, Rewound, Scratch
from openwork.study.runs.run import Run, with_prerequisites
from openwork.study.runs.unfinished import unfinished_schedules
from openwork.study.tasks.lenet import DigitsLeNet300100, MnistLeNet5Caffe
from openwork.study.training.loop import train
from tests.helpers import raises
from tests.study.tinylab import Tiny

TASK = DigitsLeNet300100(peak_learning_rate=5e-3)
SPARSE = Run(TASK, ow.GradualMagnitude(ow.Cubic(0.9, begin=10, end=20, every=5)), steps=30, seed=4)
LAYERS = ("fc1.weight", "fc2.weight", "fc3.weight")


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """The folder of the sparse run, and its finalized weights."""
    directory = tmp_path_factory.mktemp("runs")
    execute(SPARSE, directory)
    return directory, load_file(directory / SPARSE.id / "model.safetensors")


def kept(origin, seed=0):
    """A run that keeps the sparse run's zeros."""
    return replace(SPARSE, technique=None, origin=origin, seed=seed)


def weights_of(live):
    """The selected weights of a live run, by name."""
    return {name: tensor.detach().clone() for name, tensor in live.model.named_parameters() if name in LAYERS}


def beginning(run, zeros, weights=None):
    """The weights with which a run begins."""
    return weights_of(prepare(run, torch.device("cpu"), weights, zeros))


def trained(run, steps):
    """The weights of a run after its first steps."""
    live = prepare(run, torch.device("cpu"))
    optimizer = run.task.optimizer(live.model, live.sparsifier)
    if live.sparsifier:
        live.sparsifier.attach(optimizer)
    rest = {"steps": run.steps, "seed": run.seed, "start": 0, "every": steps, "device": live.device}
    step, _ = next(iter(train(run.task, live.model, optimizer, live.objective, **rest)))
    assert step == steps
    return weights_of(live)


def test_a_shuffled_ticket_has_the_initial_weights_at_as_many_drawn_places(masked):
    _, zeros = masked
    initial = beginning(replace(SPARSE, technique=None), None)
    first = beginning(kept(LotteryTicket(SPARSE, shuffled=True)), zeros)
    for name in LAYERS:
        assert int((first[name] != 0).sum()) == int((zeros[name] != 0).sum())
        assert torch.equal(first[name], initial[name] * (first[name] != 0))
    # 1,920 of 19,200 places each: 192 +- 12.5 in common by chance, within 6 sigma
    common = int(((first["fc1.weight"] != 0) & (zeros["fc1.weight"] != 0)).sum())
    assert abs(common - 192) < 75


def test_the_places_are_those_of_the_seed(masked):
    _, zeros = masked
    run = kept(Scratch(SPARSE, shuffled=True))
    one, same, other = (beginning(each, zeros)["fc1.weight"] != 0 for each in (run, run, replace(run, seed=1)))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    ticket = beginning(kept(LotteryTicket(SPARSE, shuffled=True)), zeros)["fc1.weight"] != 0
    assert torch.equal(one, ticket)


def test_shuffled_zeros_stay_to_the_end(masked):
    directory, zeros = masked
    run = kept(Scratch(SPARSE, augmented=True, shuffled=True))
    first = beginning(run, zeros)
    result = execute(run, directory, evaluations=2)
    final = load_file(directory / run.id / "model.safetensors")
    assert all(torch.equal(final[name] != 0, first[name] != 0) for name in LAYERS)
    assert (result.kept_zeros.shuffled, result.kept_zeros.augmented, result.dense) == (True, True, False)


@pytest.mark.parametrize("step", [1, 9, 14])
def test_a_rewound_run_begins_with_the_weights_of_the_sparse_run_at_that_step(masked, step):
    directory, zeros = masked
    run = kept(Rewound(SPARSE, step))
    execute(run.first_weights, directory)
    then = load_file(directory / run.first_weights.id / "model.safetensors")
    there = trained(SPARSE, step)
    first = beginning(run, zeros, then)
    for name in LAYERS:
        assert torch.equal(then[name], there[name])
        assert torch.equal(first[name], there[name] * (zeros[name] != 0))


def test_late_in_training_the_learning_rates_are_those_of_the_whole():
    part = Rewound(SPARSE, 25).weights
    whole, own = ([run.task.learning_rate(step / run.steps) for step in range(25)] for run in (SPARSE, part))
    assert own == pytest.approx(whole, rel=1e-12)
    assert whole[24] == pytest.approx(5e-3 * (2 - 2 * 24 / 30))


def test_a_rewound_run_is_trained_after_both_that_it_needs(masked):
    directory, _ = masked
    run = kept(Rewound(SPARSE, 6), seed=3)
    assert [each.steps for each in with_prerequisites([run])] == [6, 30, 30]
    assert {Rewound(SPARSE, 6).weights.id} == {each.first_weights.id for each in (run, replace(run, seed=5))}
    result = execute(run, directory, evaluations=1)
    assert (result.name, result.kept_zeros.kind) == ("Rewound", "Rewound")
    assert result.settings.endswith("seed=4), step=6)")
    assert from_plain(to_plain(run)) == run


def test_of_a_pretrained_run_the_rewound_weights_come_from_its_pretraining():
    dense = Run(TASK, None, steps=5)
    pretrained = replace(SPARSE, origin=Pretrained(dense))
    first = Rewound(pretrained, 6).weights
    assert first.first_weights == replace(dense, seed=4)
    assert Rewound(first, 3).weights.task.beginning == pytest.approx(3 / 30)


def test_no_warning_says_that_a_beginning_is_too_short_for_its_schedule():
    assert unfinished_schedules([Rewound(SPARSE, 6).weights]) == []
    assert len(unfinished_schedules([replace(SPARSE, steps=6)])) == 1


@pytest.mark.parametrize("step", [0, 30, 31, -1, 2.0, True])
def test_a_step_that_the_run_does_not_have_is_refused(step):
    with raises(ValueError, "step must be in [1, 30), the steps of GradualMagnitude", f"got {step!r}"):
        Rewound(SPARSE, step)


def test_a_task_that_cannot_be_trained_in_part_is_refused():
    with raises(ValueError, "tiny", "cannot be trained in part; give its task a field `beginning`"):
        Rewound(Run(Tiny(), None, steps=3), 1)
    with raises(ValueError, "beginning must be in (0, 1]", "got 0"):
        DigitsLeNet300100(beginning=0)
    with raises(ValueError, "origin must be", "got Rewound(run=3, shuffled=False, pruned=0.0, step=1)"):
        replace(SPARSE, technique=None, origin=Rewound(3, 1))


def test_lasagne_draws_matrices_from_a_normal_and_kernels_from_glorot_s_uniform():
    torch.manual_seed(0)
    small, conv = draw_as_lasagne(LeNet300100()), draw_as_lasagne(LeNet5Caffe())
    # 235,200 draws: the standard error of the deviation is 0.01 / sqrt(2 n) = 1.5e-5
    assert float(small.fc1.weight.detach().std()) == pytest.approx(0.01, abs=6 * 1.5e-5)
    limit = (6 / (25 * (20 + 50))) ** 0.5
    assert 0.99 * limit < float(conv.conv2.weight.detach().abs().max()) <= limit
    assert all(not bias.any() for net in (small, conv) for name, bias in net.named_parameters() if "bias" in name)


def test_a_task_draws_as_lasagne_where_it_is_asked_to():
    torch.manual_seed(0)
    plain, drawn = MnistLeNet5Caffe().model(), MnistLeNet5Caffe(lasagne=True).model()
    assert plain.fc2.bias.any()
    assert not drawn.fc2.bias.any()
    live = prepare(Run(DigitsLeNet300100(lasagne=True), None, steps=1), torch.device("cpu"))
    assert float(live.model.fc1.weight.detach().abs().max()) < 0.06  # 6 sigma
