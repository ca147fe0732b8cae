"""Runs that are trained as one model are the runs that they would be alone."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import openwork as ow
from openwork.study.fleet.execute import execute_fleet
from openwork.study.results.history import read_metrics
from openwork.study.results.store import read_result
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100
from tests.test_contract import TECHNIQUES, label

pytestmark = pytest.mark.filterwarnings("ignore:.* keeps no weight", "ignore:.* stopped at .* of a schedule")


@dataclass(frozen=True)
class Narrow(DigitsLeNet300100):
    """64-32-16-10: techniques that look at every weight do so in a twentieth of the time."""

    def model(self):
        layers = nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)
        return nn.Sequential(nn.Flatten(), *layers)


DIGITS = DigitsLeNet300100(peak_learning_rate=1e-2, batch_size=32, held_out=100)
NARROW = Narrow(peak_learning_rate=1e-2, batch_size=32, held_out=100)
STEPS = 24
SEEDS_AND_RATES = [(0, 1e-2), (5, 1e-2), (3, 3e-3)]
RANDOM = [t for t in TECHNIQUES if type(t) in (ow.VariationalDropout, ow.L0)]
REGROWING = next(t for t in TECHNIQUES if isinstance(t, ow.RigL))
# Products of stacked matrices are summed in another order; the largest difference seen in 24 steps was 3e-6.
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


def fleet(runs: list[Run], folder: Path, **options) -> dict[str, object]:
    return execute_fleet(runs, folder, evaluations=2, **options)


def compare(run: Run, together: Path, alone: Path) -> None:
    """Checks that the run's directories hold the same, up to the rounding of sums."""
    ours, theirs = (read_result(folder / run.id / "result.json") for folder in (together, alone))
    assert (ours.status, ours.step, ours.settings) == (theirs.status, theirs.step, theirs.settings)
    assert ours.sparsity == theirs.sparsity
    assert [layer.nonzero for layer in ours.layers] == [layer.nonzero for layer in theirs.layers]
    for name, value in theirs.after.items():
        assert ours.after[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
    weights, expected = (load_file(folder / run.id / "model.safetensors") for folder in (together, alone))
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(weights[name] == 0, tensor == 0), name
        torch.testing.assert_close(weights[name], tensor, **TOLERANCE)
    rows, wanted = (
        [json.loads(line) for line in (folder / run.id / "metrics.jsonl").read_text().splitlines()]
        for folder in (together, alone)
    )
    assert [row.keys() for row in rows] == [row.keys() for row in wanted]
    for row, other in zip(rows, wanted, strict=True):
        assert (row["step"], row.get("layers")) == (other["step"], other.get("layers"))
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert row["penalty"] == pytest.approx(other["penalty"], rel=1e-4)


@pytest.mark.parametrize("technique", [None, *[t for t in TECHNIQUES if not isinstance(t, ow.Wanda)]], ids=label)
def test_a_run_in_a_fleet_is_the_run_alone(technique, tmp_path):
    runs = [Run(replace(NARROW, peak_learning_rate=rate), technique, STEPS, seed) for seed, rate in SEEDS_AND_RATES]
    found = fleet(runs, tmp_path / "together")
    for run in runs:
        assert found[run.id].environment.fleet == 3
        execute(run, tmp_path / "alone", evaluations=2)
        compare(run, tmp_path / "together", tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("technique", [t for t in TECHNIQUES if type(t) in (ow.SET, ow.VariationalDropout)], ids=label)
def test_a_compiled_fleet_ends_as_an_eager_one(technique, tmp_path):
    runs = [Run(DIGITS, technique, STEPS, seed) for seed in (0, 1)]
    fleet(runs, tmp_path / "compiled", compile=True)
    fleet(runs, tmp_path / "eager")
    for run in runs:
        weights, expected = (load_file(tmp_path / way / run.id / "model.safetensors") for way in ("compiled", "eager"))
        for name, tensor in expected.items():
            assert torch.equal(weights[name] == 0, tensor == 0), name
            # Compiled kernels have exponentials and logarithms of their own; 5e-5 was seen.
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=5e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"precision": "tf32"}, {"precision": "bf16"}, {"compile": True}], ids=str)
@pytest.mark.parametrize("technique", [None, TECHNIQUES[0], TECHNIQUES[1], *RANDOM, REGROWING], ids=label)
def test_a_fleet_on_a_gpu_comes_to_the_losses_of_its_runs_alone(technique, options, tmp_path):
    runs = [Run(replace(DIGITS, peak_learning_rate=rate), technique, STEPS, seed) for seed, rate in SEEDS_AND_RATES]
    found = fleet(runs, tmp_path / "together", device="cuda", **options)
    for run in runs:
        alone = execute(run, tmp_path / "alone", device="cuda", evaluations=2)
        assert found[run.id].environment.fleet == 3
        assert found[run.id].sparsity == pytest.approx(alone.sparsity, abs=0.01)
        last = [read_metrics(tmp_path / way / run.id)[-1] for way in ("together", "alone")]
        assert last[0].measured["train_loss"] == pytest.approx(last[1].measured["train_loss"], rel=0.05)
