"""At the end of a fleet its models leave the device some at a time, and are recorded as they would be from there."""

import gc
import json
import os
import signal
import weakref
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import openwork as ow
from openwork.core.masks.stacked import StackedMasks
from openwork.core.stacked import move
from openwork.study.fleet import fleet
from openwork.study.fleet.execute import execute_fleet
from openwork.study.fleet.stack import Stack, StackedModels
from openwork.study.runs.live import restore
from openwork.study.runs.run import Run
from openwork.study.tasks import classification
from openwork.study.tasks.lenet import DigitsLeNet300100
from tests.members import Member, Together, equal
from tests.study.small_fleets import MODELS, PRUNE, Small, runs
from tests.test_contract import TECHNIQUES, label

pytestmark = pytest.mark.filterwarnings("ignore:.* keeps no weight", "ignore:.* stopped at .* of a schedule")


class Operations(TorchDispatchMode):
    """Counts operations on tensors that do some work: views are Python's alone."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is not torch.ops.aten.detach.default
        return func(*args, **(kwargs or {}))


def finish_as_on_a_gpu(monkeypatch):
    """Lets models of a CPU leave it, two at a time, and asks about their masks together."""
    real = fleet.Fleet._finish

    def finish(self):
        self.leaves = True
        mechanism = self.training.stack.mechanism
        if isinstance(mechanism, StackedMasks):
            mechanism.many = True
        real(self)

    monkeypatch.setattr(fleet.Fleet, "_finish", finish)
    monkeypatch.setattr(fleet, "COPIES", 2)


def result(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "result.json").read_text())
    return {name: value for name, value in found.items() if name not in ("cost", "environment")}


@pytest.mark.parametrize("technique", [None, *[t for t in TECHNIQUES if not isinstance(t, ow.Wanda)]], ids=label)
def test_models_that_leave_the_device_are_recorded_as_they_were_there(technique, tmp_path, monkeypatch):
    check(runs(Small(), technique), tmp_path, monkeypatch)


@pytest.mark.parametrize("kind", sorted(MODELS.keys() - {"plain"}))
@pytest.mark.parametrize("technique", [None, PRUNE, ow.GradualMagnitude(PRUNE.schedule, hidden="trained")], ids=label)
def test_models_of_any_kind_leave_the_device(kind, technique, tmp_path, monkeypatch):
    check(runs(Small(kind), technique), tmp_path, monkeypatch)


@pytest.mark.parametrize("technique", [PRUNE, ow.GradualMagnitude(PRUNE.schedule, hidden="trained")], ids=label)
def test_models_that_leave_one_after_the_other_lie_where_others_lay_before(technique, tmp_path, monkeypatch):
    check(runs(Small(), technique, (0.01,) * 9), tmp_path, monkeypatch)


def test_a_process_that_is_killed_in_the_middle_of_a_file_leaves_none(tmp_path, monkeypatch):
    finish_as_on_a_gpu(monkeypatch)
    here, record = os.getpid(), fleet.record

    def killed(live, folder, *args, **kwargs):
        if os.getpid() != here:
            (folder / ".result.json.0123abcd").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return record(live, folder, *args, **kwargs)

    monkeypatch.setattr(fleet, "record", killed)
    found = execute_fleet(runs(Small(), PRUNE), tmp_path, evaluations=1)
    assert {each.status for each in found.values()} == {"finished"}
    assert not list(tmp_path.glob("*/.*"))


def check(every, folder, monkeypatch):
    execute_fleet(every, folder / "there", evaluations=1)
    finish_as_on_a_gpu(monkeypatch)
    execute_fleet(every, folder / "left", evaluations=1)
    for run in every:
        there, left = folder / "there" / run.id, folder / "left" / run.id
        assert result(there) == result(left)
        assert (there / "model.safetensors").read_bytes() == (left / "model.safetensors").read_bytes()
        states = [torch.load(each / "checkpoint.pt", weights_only=True) for each in (there, left)]
        for state in states:
            for row in state.pop("metrics"):
                assert row.pop("seconds") > 0
            assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in state["model"].values())
            if run.task.kind == "tied":
                assert state["model"]["first.weight"].data_ptr() == state["model"]["second.weight"].data_ptr()
        equal(*states)
        restore(left, trusted=("torch", "tests"))


def test_fewer_models_see_more_images_at_a_time(tmp_path, monkeypatch):
    seen: list[tuple[int, int]] = []
    real = classification.measure

    def measure(logits, data, *, batch_size=1000):
        found = real(logits, data, batch_size=batch_size)
        seen.append((found[0].numel(), batch_size))
        return found

    monkeypatch.setattr(classification, "measure", measure)
    finish_as_on_a_gpu(monkeypatch)
    every = [Run(DigitsLeNet300100(), PRUNE, 8, seed=seed) for seed in range(5)]
    execute_fleet(every, tmp_path, evaluations=1)
    alone, together = DigitsLeNet300100().batch_size, [pair for pair in seen if pair[0] > 1]
    assert together == [(5, alone), (5, alone), (2, 2 * alone), (2, 2 * alone)]
    assert seen[-1] == (1, 2 * alone)


@pytest.mark.parametrize("technique", [None, PRUNE], ids=label)
def test_finished_runs_that_do_not_fit_are_measured_fewer_at_a_time(technique, tmp_path, monkeypatch):
    every = runs(Small(), technique, (0.01,) * 5)
    execute_fleet(every, tmp_path / "whole", evaluations=1)
    seen: list[int] = []
    real, trained = fleet.final_metrics_of, fleet.Fleet.train

    def measure(task, models, device):
        seen.append(len(models.each))
        if isinstance(models, StackedModels) and not isinstance(models, Stack) and len(models.each) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(task, models, device)

    monkeypatch.setattr(fleet, "final_metrics_of", measure)
    monkeypatch.setattr(fleet.Fleet, "train", lambda self, progress: seen.append(0) or trained(self, progress))
    execute_fleet(every, tmp_path / "small", evaluations=1)
    assert seen == [0, 5, 5, 2, 2, 1]  # of one training: all before they are finalized, then a few at a time
    assert [result(tmp_path / "small" / run.id) for run in every] == [
        result(tmp_path / "whole" / run.id) for run in every
    ]


@pytest.mark.parametrize("technique", [PRUNE, ow.RigL(ow.Constant(0.8, every=3, stop=6))])
@pytest.mark.parametrize("keep_zeros", [False, True])
def test_operations_on_the_device_do_not_grow_with_the_members(technique, keep_zeros):
    counts = set()
    for members in (2, 7):
        together = Together(
            [Member(technique, seed, keep_zeros=keep_zeros, attach=False) for seed in range(members)], many=True
        ).train(4)
        sparsifiers = [member.sparsifier for member in together.members]
        alone = [sparsifier.finalized_copy().state_dict() for sparsifier in sparsifiers]
        states = [member.state() for member in together.members]
        with Operations() as operations:
            copies = together.masks.finalized_copies(sparsifiers)
            together.masks.leave(range(members), torch.Tensor.cpu)
            for tensors in zip(*(member.model.parameters() for member in together.members), strict=True):
                move(tensors, torch.Tensor.cpu)
        counts.add(operations.count)
        for copy, expected, member, state in zip(copies, alone, together.members, states, strict=True):
            equal(copy.state_dict(), expected)
            equal(member.state(), state)
    assert len(counts) == 1


def test_a_finalized_copy_shares_no_memory_with_its_model():
    together = Together(
        [Member(ow.GradualMagnitude(PRUNE.schedule), seed, attach=False) for seed in range(2)], many=True
    )
    copies = together.masks.finalized_copies([member.sparsifier for member in together.members])
    for copy, member in zip(copies, together.members, strict=True):
        for own, other in zip(copy.parameters(), member.model.parameters(), strict=True):
            assert own is not other
            assert own.requires_grad
            assert own.untyped_storage().data_ptr() != other.untyped_storage().data_ptr()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_as_it_was(tmp_path, monkeypatch, enabled):
    every = runs(Small(), PRUNE)
    during: list[tuple[bool, bool]] = []
    real = fleet.Fleet.train

    def train(self, progress):
        during.append((gc.isenabled(), gc.get_freeze_count() > 0))
        real(self, progress)

    monkeypatch.setattr(fleet.Fleet, "train", train)
    if not enabled:
        gc.disable()
    try:
        execute_fleet(every, tmp_path, evaluations=1)
        assert during == [(enabled, True)]
        assert (gc.isenabled(), gc.get_freeze_count()) == (enabled, 0)
    finally:
        gc.enable()


def test_no_garbage_of_before_is_kept_while_a_fleet_is_trained(tmp_path, monkeypatch):
    class Cyclic:
        def __init__(self) -> None:
            self.itself = self

    garbage = weakref.ref(Cyclic())  # as models of an earlier fleet that refer to themselves
    during: list[object] = []
    real = fleet.Fleet.train

    def train(self, progress):
        during.append(garbage())
        real(self, progress)

    monkeypatch.setattr(fleet.Fleet, "train", train)
    gc.disable()
    try:
        execute_fleet(runs(Small(), PRUNE), tmp_path, evaluations=1)
    finally:
        gc.enable()
    assert during == [None]
