"""Fleets on a CUDA device: stopped in the middle they go on, and their files are those of runs on a CPU."""

from pathlib import Path

import pytest
import torch

import openwork as ow
from openwork.study.fleet import fleet
from openwork.study.fleet.execute import execute_fleet
from openwork.study.runs.live import restore
from tests.study.small_fleets import PRUNE, STEPS, Small, runs

DEVICES = [
    pytest.param("cuda", marks=pytest.mark.gpu),
    "cpu",
]
TECHNIQUES = {
    "dense": None,
    "masks": PRUNE,
    "hidden values that are trained": ow.GradualMagnitude(PRUNE.schedule, hidden="trained"),
    "gradients as evidence": ow.RigL(ow.Constant(0.5, every=2, stop=6)),
    "variances": ow.VariationalDropout(ow.Constant(1e-3)),
}


def stop_after(step: int):
    """Stops what it is called by, as Ctrl-C does, when three runs have come to the step."""

    def progress(done: int) -> None:
        if done == 3 * step:
            raise KeyboardInterrupt

    return progress


def weights(wanted, folder: Path) -> list[torch.Tensor]:
    return [each for run in wanted for each in restore(folder / run.id, trusted=("tests", "torch")).model.parameters()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("kind", ["plain", "tied", "convolution"])
def test_a_fleet_that_was_stopped_goes_on_and_is_that_of_the_cpu(
    kind, technique, optimizer, device, tmp_path, monkeypatch
):
    monkeypatch.setattr(fleet, "CHECKPOINT_SECONDS", 0.0)
    wanted = runs(Small(kind, optimizers=optimizer), TECHNIQUES[technique], (0.01, 0.02, 0.01))
    alone = execute_fleet(wanted, tmp_path / "cpu", evaluations=STEPS // 2)
    with pytest.raises(KeyboardInterrupt):
        execute_fleet(wanted, tmp_path / "here", device=device, evaluations=4, progress=stop_after(5))
    found = execute_fleet(wanted, tmp_path / "here", device=device, evaluations=4)
    assert [found[run.id].status for run in wanted] == ["finished"] * 3
    assert [found[run.id].environment.fleet for run in wanted] == [3] * 3
    for run in wanted:
        assert found[run.id].sparsity == pytest.approx(alone[run.id].sparsity, abs=0.02)
    for one, other in zip(weights(wanted, tmp_path / "here"), weights(wanted, tmp_path / "cpu"), strict=True):
        assert one.device == other.device
        assert (one - other).abs().mean() < 1e-3 * other.abs().mean() + 1e-5
