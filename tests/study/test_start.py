"""Runs that start from another run's weights."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import openwork as ow
from openwork.study.experiments.mnist import variational_dropout
from openwork.study.results.result import parsed
from openwork.study.runs.config import canonical, from_plain, override, to_plain
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare, restore
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run, with_prerequisites
from openwork.study.tasks.lenet import DigitsLeNet300100, MnistLeNet300100

TASK = DigitsLeNet300100(peak_learning_rate=5e-3)
DENSE = Run(TASK, None, steps=60)
SPARSE = Run(TASK, ow.VariationalDropout(ow.Constant(1e-4), log_sigma2=-15.0), steps=40, origin=Pretrained(DENSE))


@dataclasses.dataclass(frozen=True)
class Diverging(DigitsLeNet300100):
    """NaN from the first step on."""

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return super().loss(model, batch) * math.nan


def test_training_begins_with_the_finalized_weights_of_the_start(tmp_path):
    pruned = Run(TASK, ow.GradualMagnitude(ow.OneShot(0.9)), steps=20)
    execute(Run(TASK, None, steps=1, origin=Pretrained(pruned)), tmp_path)
    weights = load_file(tmp_path / pruned.id / "model.safetensors")
    live = prepare(SPARSE, torch.device("cpu"), weights)
    assert all(torch.equal(dict(live.model.named_parameters())[name], tensor) for name, tensor in weights.items())
    assert int((weights["fc1.weight"] == 0).sum()) == 17_280
    assert set(live.model.fc1.reparam.weight.log_sigma2.unique().tolist()) == {-15.0}


def test_a_start_is_trained_once_and_shared(tmp_path):
    other = dataclasses.replace(SPARSE, steps=5)
    execute(SPARSE, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {SPARSE.id, DENSE.id}
    path = tmp_path / DENSE.id / "result.json"
    dense = json.loads(path.read_text())
    assert parsed(dense) == execute(DENSE, tmp_path)
    path.write_text(json.dumps({**dense, "marker": 1}))
    execute(other, tmp_path)
    assert json.loads(path.read_text())["marker"] == 1


def test_a_pretrained_start_helps(tmp_path):
    short = dataclasses.replace(SPARSE, steps=5)
    scratch = dataclasses.replace(short, origin=None)
    helped, alone = (execute(run, tmp_path).after["accuracy"] for run in (short, scratch))
    assert helped > alone + 0.1


class StopError(Exception):
    """Raised in the middle of a run."""


def test_an_interrupted_run_with_a_start_ends_with_the_same_bits(tmp_path):
    whole = execute(SPARSE, tmp_path / "whole", evaluations=4)

    def stop(step):
        if step == 25:  # the last checkpoint is at 20
            raise StopError

    with pytest.raises(StopError):
        execute(SPARSE, tmp_path / "resumed", evaluations=4, progress=stop)
    torch.manual_seed(99)
    result = execute(SPARSE, tmp_path / "resumed", evaluations=4)
    assert result.after == whole.after
    tensors = [load_file(tmp_path / name / SPARSE.id / "model.safetensors") for name in ("whole", "resumed")]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())


def test_a_checkpoint_needs_its_start_no_more(tmp_path):
    result = execute(SPARSE, tmp_path)
    shutil.rmtree(tmp_path / DENSE.id)
    live = restore(tmp_path / SPARSE.id)
    assert live.run == SPARSE
    assert live.sparsity() == result.after["sparsity"]
    assert execute(SPARSE, tmp_path) == result
    assert not (tmp_path / DENSE.id).exists()


def test_the_start_is_part_of_the_identity_and_old_identities_stay():
    longer = dataclasses.replace(DENSE, steps=61)
    runs = [dataclasses.replace(SPARSE, origin=origin) for origin in (None, Pretrained(DENSE), Pretrained(longer))]
    assert len({run.id for run in runs}) == len({run.settings for run in runs}) == 3
    assert "origin" not in to_plain(runs[0])
    assert from_plain(to_plain(SPARSE)) == SPARSE
    assert canonical(from_plain(to_plain(SPARSE))) == canonical(SPARSE)
    assert variational_dropout().id == "1714a968763820ed"


def test_settings_say_the_start_and_no_seed():
    assert SPARSE.settings == (
        "coefficient=Constant(final=0.0001), log_sigma2=-15, steps=40, task.peak_learning_rate=0.005, "
        "origin=Pretrained(dense(steps=60, task.peak_learning_rate=0.005))"
    )
    assert dataclasses.replace(SPARSE, seed=3).settings == SPARSE.settings


def test_another_seed_is_another_start():
    run = override(SPARSE, ["seed=3"])
    assert (run.origin.run.seed, run.origin.run.id) == (3, dataclasses.replace(DENSE, seed=3).id)


def test_starts_come_before_the_runs_that_need_them_and_once():
    others = [dataclasses.replace(SPARSE, steps=steps) for steps in (5, 6)]
    twice = Run(TASK, None, steps=1, origin=Pretrained(others[1]))
    assert with_prerequisites([others[0], twice, DENSE]) == [DENSE, others[0], others[1], twice]


def test_a_start_that_cannot_be_used_is_an_error(tmp_path):
    diverged = Run(Diverging(), None, steps=4)
    run = dataclasses.replace(SPARSE, origin=Pretrained(diverged))
    with pytest.raises(ValueError, match=rf"needs {diverged.id}, which diverged at step 1; give it another"):
        execute(run, tmp_path)
    with pytest.raises(ValueError, match=r"do not fit the model: size mismatch for fc1.weight"):
        prepare(Run(MnistLeNet300100(), None, steps=1), torch.device("cpu"), TASK.model().state_dict())
    with pytest.raises(
        ValueError,
        match="origin must be Pretrained, LotteryTicket, Rewound, Retrained or Scratch of a Run, got 'dense'",
    ):
        override(DENSE, ["origin=dense"])
    with pytest.raises(ValueError, match=r"of a Run, got Pretrained\(run=3\)"):
        dataclasses.replace(DENSE, origin=Pretrained(3))
