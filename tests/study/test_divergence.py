"""Runs whose losses, weights or metrics become NaN."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.study.results.store import collect
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100

TASK = DigitsLeNet300100(peak_learning_rate=5e-3)
PRUNE = ow.GradualMagnitude(ow.Cubic(0.9, begin=20, end=80, every=10))
TECHNIQUES = [
    None,
    PRUNE,
    ow.RandomPruning(PRUNE.schedule),
    ow.VariationalDropout(ow.Constant(1e-4)),
    ow.L0(ow.Constant(1e-3), dropout=0.9),
]


@dataclasses.dataclass(frozen=True)
class Exploding(DigitsLeNet300100):
    """Diverges at step 7."""

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        model.seen = getattr(model, "seen", 0) + 1
        loss = super().loss(model, batch)
        return loss * math.nan if model.seen >= 7 else loss


@dataclasses.dataclass(frozen=True)
class LastUpdate(DigitsLeNet300100):
    """The update of step 7 makes the weights NaN, after its loss."""

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        model.seen = getattr(model, "seen", 0) + 1
        loss = super().loss(model, batch)
        if model.seen == 7:
            loss.register_hook(lambda gradient: gradient * math.nan)
        return loss


@dataclasses.dataclass(frozen=True)
class LastTest(DigitsLeNet300100):
    """The test at the end finds a loss that is no number."""

    def test(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        return {**self.evaluate(model, device), "loss": math.nan}


def test_a_diverged_run_is_recorded_with_its_step(tmp_path):
    run = Run(Exploding(), None, steps=40)
    result = execute(run, tmp_path, evaluations=8)
    assert (result.status, result.step, result.after) == ("diverged", 10, None)
    assert execute(run, tmp_path) == result


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("task", [LastUpdate(), LastTest()], ids=lambda t: type(t).__name__)
def test_nan_after_the_last_loss_is_no_finished_run(tmp_path, task, technique):
    run = Run(task, technique, steps=7)
    result = execute(run, tmp_path, evaluations=1)
    assert (result.status, result.step, result.after) == ("diverged", 7, None)
    assert not (tmp_path / run.id / "model.safetensors").exists()
    for path in (tmp_path / run.id).glob("*.json*"):
        assert "NaN" not in path.read_text()
    (first,), differences = collect([tmp_path, tmp_path])
    assert (first.status, differences) == ("diverged", [])


def test_a_mask_update_that_meets_nan_ends_the_run_as_diverged(tmp_path):
    pruning = ow.GradualMagnitude(ow.Cubic(0.5, end=20, every=1))
    run = Run(DigitsLeNet300100(peak_learning_rate=1e30), pruning, steps=40)
    result = execute(run, tmp_path)
    assert result.status == "diverged"
    assert 1 <= result.step < 20  # not the next evaluation, at which a dense run would notice
    assert execute(run, tmp_path) == result
