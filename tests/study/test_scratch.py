"""Runs that keep another run's zeros: lottery tickets and training from scratch."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import openwork as ow
from openwork.study.experiments.scratch import lottery_tickets, scratch
from openwork.study.runs.config import from_plain, override, to_plain
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare, restore
from openwork.study.runs.origin import Pretrained, Scratch
from openwork.study.runs.run import Run, with_prerequisites
from openwork.study.sweeps.sweep import Here, Options, sweep
from openwork.study.tasks.lenet import DigitsLeNet300100

TASK = DigitsLeNet300100(peak_learning_rate=5e-3)
SPARSE = Run(TASK, ow.GradualMagnitude(ow.Cubic(0.9, begin=5, end=20, every=5)), steps=30, seed=4)
DENSE = Run(TASK, None, steps=1, seed=4)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """The folder of the sparse run, and its finalized weights."""
    directory = tmp_path_factory.mktemp("runs")
    execute(SPARSE, directory)
    return directory, load_file(directory / SPARSE.id / "model.safetensors")


def beginning(run: Run, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """The first layer as the run begins."""
    return prepare(run, torch.device("cpu"), zeros=weights).model.fc1.weight.detach()


def test_a_lottery_ticket_begins_with_the_initial_weights_and_the_final_zeros(masked):
    _, weights = masked
    initial = prepare(DENSE, torch.device("cpu")).model.fc1.weight.detach()
    for ticket in lottery_tickets(SPARSE, 2):
        assert torch.equal(beginning(ticket, weights), initial * (weights["fc1.weight"] != 0))


def test_scratch_begins_with_weights_of_its_own(masked):
    _, weights = masked
    first, second = (beginning(run, weights) for run in scratch(SPARSE, 2))
    assert torch.equal(first != 0, weights["fc1.weight"] != 0)
    assert not torch.equal(first, second)
    other = prepare(replace(DENSE, seed=5), torch.device("cpu")).model.fc1.weight.detach()
    assert torch.equal(first, other * (weights["fc1.weight"] != 0))


def test_augmented_weights_are_divided_by_the_root_of_the_density(masked):
    _, weights = masked
    (plain,), (scaled,) = scratch(SPARSE, 1), scratch(SPARSE, 1, augmented=True)
    density = float((weights["fc1.weight"] != 0).float().mean())
    assert density == pytest.approx(0.1, abs=1e-4)
    torch.testing.assert_close(beginning(scaled, weights), beginning(plain, weights) / density**0.5)


def test_the_zeros_stay_to_the_end_and_in_the_checkpoint(masked):
    directory, weights = masked
    (run,) = scratch(SPARSE, 1, budget=2)
    result = execute(run, directory, evaluations=2)
    final = load_file(directory / run.id / "model.safetensors")
    for layer in ("fc1.weight", "fc2.weight", "fc3.weight"):
        assert torch.equal(final[layer] != 0, weights[layer] != 0)
    assert (result.name, result.step) == ("Scratch", 60)
    assert torch.equal(restore(directory / run.id).finalized_copy().fc1.weight, final["fc1.weight"])


def test_names_and_settings_tell_them_apart():
    ticket, scratch_e = lottery_tickets(SPARSE, 1)[0], scratch(SPARSE, 1)[0]
    (augmented,) = scratch(SPARSE, 1, augmented=True)
    assert [run.name for run in (ticket, scratch_e, augmented)] == ["LotteryTicket", "Scratch", "Scratch"]
    assert "origin=LotteryTicket(GradualMagnitude(" in ticket.settings
    assert "seed=4" in ticket.settings
    assert augmented.settings == scratch_e.settings.removesuffix(")") + ", augmented=True)"
    assert from_plain(to_plain(ticket)) == ticket
    assert with_prerequisites([ticket]) == [SPARSE, ticket]


def test_a_sweep_trains_the_masked_run_first(tmp_path):
    ended = sweep(lottery_tickets(SPARSE, 1), tmp_path, Here(tmp_path, Options(evaluations=1)))
    assert [outcome.state for outcome in ended.outcomes.values()] == ["finished", "finished"]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="a lottery ticket needs a sparse run, got dense of LeNet-300-100, digits 8x8"):
        lottery_tickets(DENSE)
    with pytest.raises(ValueError, match="a run that keeps zeros has no technique"):
        replace(SPARSE, origin=Scratch(SPARSE))
    with pytest.raises(ValueError, match="Run has no field 'augmented'"):
        override(DENSE, ["augmented=True"])
    with pytest.raises(ValueError, match=r"do not fit the model: fc1\.weight is not there in its shape"):
        prepare(scratch(SPARSE, 1)[0], torch.device("cpu"), zeros={"fc1.weight": torch.ones(2)})


def test_a_ticket_of_a_pretrained_run_begins_with_the_pre_training_of_that_run():
    pretrained = replace(SPARSE, origin=Pretrained(DENSE))
    for ticket in lottery_tickets(pretrained, 2):
        assert ticket.name == "LotteryTicket"
        assert ticket.first_weights == pretrained.first_weights == replace(DENSE, seed=4)
        assert with_prerequisites([ticket]) == [replace(DENSE, seed=4), pretrained, ticket]
    (own,) = scratch(pretrained, 1)
    assert (own.first_weights, own.kept_zeros) == (None, pretrained)
