"""Iterative magnitude pruning: densities, masks within masks, and what is rewound to the bit."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

import openwork as ow
from openwork.study.experiments.imp import iterative_pruning
from openwork.study.runs.config import from_plain, to_plain
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare
from openwork.study.runs.origin import LotteryTicket, Retrained, Rewound, Scratch
from openwork.study.runs.run import Run, with_prerequisites
from openwork.study.tasks.cifar10 import Cifar10SmallResNet
from openwork.study.tasks.lenet import DigitsLeNet300100
from tests.helpers import raises

DENSE = Run(DigitsLeNet300100(peak_learning_rate=5e-3), None, steps=20, seed=4)
CPU = torch.device("cpu")
LAYERS = ("fc1.weight", "fc2.weight", "fc3.weight")
WEIGHTS = 50_200


def counts(rounds):
    """How many weights each of so many rounds keeps."""
    found = [WEIGHTS]
    for _ in range(rounds):
        found.append(found[-1] - math.ceil(found[-1] / 5))
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that executes a run, and gives its finalized weights."""
    folder = tmp_path_factory.mktemp("runs")

    def weights(run):
        execute(run, folder, evaluations=1)
        return load_file(folder / run.id / "model.safetensors")

    weights.folder = folder
    return weights


@pytest.mark.parametrize(("step", "rewind"), [(0, "weights"), (5, "weights"), (5, "learning rate")])
def test_imp_density_is_a_power_of_four_fifths_with_what_is_pruned_rounded_up(trained, step, rewind):
    runs = iterative_pruning(DENSE, 3, step=step, rewind=rewind)
    masks = [torch.cat([trained(run)[name].flatten() for name in LAYERS]) != 0 for run in runs]
    assert [int(mask.sum()) for mask in masks] == counts(3) == [50_200, 40_160, 32_128, 25_702]
    assert all(not (later & ~earlier).any() for earlier, later in pairwise(masks))
    assert [run.steps for run in runs] == [20, *[20 - step] * 3]


def test_imp_density_of_the_lottery_ticket_s_levels():
    kept = counts(21)
    percent = [100 * kept[level] / WEIGHTS for level in (1, 2, 3, 7, 10, 14, 21)]
    assert percent == pytest.approx([80, 64, 51.2, 21, 10.7, 4.4, 0.92], abs=0.05)


def test_imp_prunes_the_smallest_of_all_tensors_together(trained):
    dense, first = iterative_pruning(DENSE, 1)
    weights, kept = trained(dense), trained(first)
    magnitudes = torch.cat([weights[name].abs().flatten() for name in LAYERS])
    mask = torch.cat([kept[name].flatten() for name in LAYERS]) != 0
    assert magnitudes[mask].min() >= magnitudes[~mask].max()
    assert len({float((kept[name] != 0).float().mean()) for name in LAYERS}) == 3


def beginning(run, trained):
    """The state of a run's model before its first step."""
    weights = trained(run.first_weights) if run.first_weights else None
    return prepare(run, CPU, weights, trained(run.kept_zeros)).model.state_dict()


def test_rewind_bits_of_the_weights_are_those_of_the_step_in_every_round(trained):
    runs = iterative_pruning(DENSE, 3, step=5)
    then = trained(Rewound(DENSE, step=5).weights)
    for run in runs[1:]:
        first, final = beginning(run, trained), trained(run)
        for name, tensor in then.items():
            assert torch.equal(first[name], tensor * (final[name] != 0) if name in LAYERS else tensor), name


def test_rewind_bits_of_the_first_step_are_those_of_the_seed_in_every_round(trained):
    initial = prepare(DENSE, CPU).model.state_dict()
    for run in iterative_pruning(DENSE, 3)[1:]:
        first, final = beginning(run, trained), trained(run)
        assert all(torch.equal(first[name], initial[name] * (final[name] != 0)) for name in LAYERS)


def test_the_tickets_of_a_ticket_begin_with_the_weights_of_the_first_run_whatever_their_seeds():
    ticket = replace(DENSE, origin=LotteryTicket(DENSE, pruned=0.2), seed=7)
    again = replace(DENSE, origin=LotteryTicket(ticket, pruned=0.2), seed=8)
    assert (ticket.origin.initial_seed, again.origin.initial_seed) == (4, 4)
    scratch = replace(DENSE, origin=Scratch(ticket), seed=9)
    assert replace(DENSE, origin=LotteryTicket(scratch), seed=10).origin.initial_seed == 9


def test_rewind_bits_of_batch_norms_are_those_of_the_other_run_too():
    run = Run(Cifar10SmallResNet(depth=8, channels=2), None, steps=10)
    then = prepare(replace(run, seed=3), CPU).model.state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, buffer in then.items():
        if "running" in name:
            buffer.copy_(torch.rand(buffer.shape, generator=generator))
    final = prepare(replace(run, seed=5), CPU).model.state_dict()
    live = prepare(replace(run, origin=Rewound(run, step=4, pruned=0.5)), CPU, then, final)
    selected = {weight.name for weight in live.sparsifier.weights}
    assert 0.49 < live.sparsity() < 0.51
    for name, tensor in live.model.state_dict().items():
        mask = tensor != 0 if name in selected else torch.ones_like(tensor)
        assert torch.equal(tensor, then[name] * mask), name
    assert any("running_var" in name for name in then)


def rates(run):
    return [run.task.learning_rate(step / run.steps) for step in range(run.steps)]


@pytest.mark.parametrize("rewind", ["weights", "learning rate"])
@pytest.mark.parametrize("step", [1, 5, 13])
def test_the_learning_rates_of_a_round_are_those_of_the_dense_run_from_the_step_on(rewind, step):
    runs = iterative_pruning(DENSE, 2, step=step, rewind=rewind)
    whole = rates(DENSE)
    for run in runs[1:]:
        assert rates(run)[0] == whole[step]
        assert rates(run) == pytest.approx(whole[step:], rel=1e-12)
    part = replace(runs[1], task=runs[1].task.first(0.5))
    assert part.task.learning_rate(1.0) == pytest.approx(runs[1].task.learning_rate(0.5), rel=1e-12)
    assert runs[1].task.rest(0.5).learning_rate(0.0) == pytest.approx(runs[1].task.learning_rate(0.5), rel=1e-12)


def test_rewinding_the_learning_rate_goes_on_with_the_final_weights(trained):
    for run in iterative_pruning(DENSE, 2, step=5, rewind="learning rate")[1:]:
        before, first, final = trained(run.origin.run), beginning(run, trained), trained(run)
        assert all(torch.equal(first[name], before[name] * (final[name] != 0)) for name in LAYERS)


def test_rounds_are_runs_of_their_own_that_are_trained_one_after_the_other(trained):
    runs = iterative_pruning(DENSE, 2, step=5)
    assert [run.id for run in with_prerequisites(runs[-1:]) if run.steps != 5] == [run.id for run in runs]
    assert all(from_plain(to_plain(run)) == run for run in runs)
    assert (
        len({run.id for way in ("weights", "learning rate") for run in iterative_pruning(DENSE, 2, step=5, rewind=way)})
        == 5
    )
    rewound = iterative_pruning(DENSE, 1, step=5, rewind="learning rate")
    kept = [execute(run, trained.folder).kept_zeros for run in (runs[1], rewound[1])]
    assert [(each.kind, each.pruned) for each in kept] == [("Rewound", 0.2), ("Retrained", 0.2)]


@pytest.mark.parametrize(
    ("step", "rewind", "name"),
    [(0, "weights", "LotteryTicket"), (5, "weights", "Rewound"), (5, "learning rate", "Retrained")],
)
def test_all_rounds_are_one_technique(step, rewind, name):
    runs = iterative_pruning(DENSE, 3, step=step, rewind=rewind)
    assert [run.name for run in runs] == ["dense", name, name, name]


def test_a_ticket_of_a_run_that_began_elsewhere_is_a_ticket():
    for origin in (Scratch(DENSE), Retrained(DENSE)):
        assert replace(DENSE, origin=LotteryTicket(replace(DENSE, origin=origin))).name == "LotteryTicket"


def test_what_is_no_round_is_refused():
    with raises(ValueError, "iterative pruning begins with a dense run, got GradualMagnitude of LeNet-300-100"):
        iterative_pruning(replace(DENSE, technique=ow.GradualMagnitude(ow.OneShot(0.5))), 1)
    with raises(ValueError, "step must be in [0, 20), the steps of the dense run, got 20"):
        iterative_pruning(DENSE, 1, step=20)
    with raises(ValueError, "rewind must be 'weights' or 'learning rate', got 'all'"):
        iterative_pruning(DENSE, 1, rewind="all")
    with raises(ValueError, "pruned must be in [0, 1), the fraction of the weights that are left, got 1.0"):
        Retrained(DENSE, pruned=1.0)
    with raises(ValueError, "behind must be in [0, 0.5), where the training ends, got 0.5"):
        DigitsLeNet300100(beginning=0.5, behind=0.5)
