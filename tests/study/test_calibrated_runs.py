"""Runs of techniques that look at losses, outputs or inputs before training."""

import pytest
import torch
from torch.nn import functional as F

import openwork as ow
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare
from openwork.study.runs.run import Run
from tests.study.tinylab import Tiny

HALF = ow.OneShot(0.5)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "technique",
    [ow.SNIP(HALF), ow.SNIP(HALF, rounds=3), ow.FORCE(HALF), ow.GraSP(HALF), ow.SynFlow(HALF), ow.Wanda(HALF)],
    ids=lambda technique: type(technique).__name__,
)
def test_a_run_prunes_before_its_first_step_and_resumes(technique, tmp_path):
    run = Run(Tiny(), technique, steps=4)
    live = prepare(run, CPU)
    assert live.sparsifier.sparsity() == 0.5
    result = execute(run, tmp_path)
    assert result.sparsity == 0.5

    def stop(step):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(run, tmp_path / "again", evaluations=4, progress=stop)
    execute(run, tmp_path / "again", evaluations=4)
    files = [tmp_path / place / run.id / "model.safetensors" for place in ("", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_is_calibrated_with_its_first_training_batch():
    found = prepare(Run(Tiny(), ow.GraSP(HALF), steps=4, seed=3), CPU).sparsifier.masks()
    torch.manual_seed(3)
    model = Tiny().model()
    x, y = next(Tiny().batches(3, 0, CPU))
    sparsifier = ow.sparsify(model, ow.GraSP(HALF), seed=3, calibrate=lambda m: F.cross_entropy(m(x), y))
    assert torch.equal(found["weight"], sparsifier.masks()["weight"])


def test_synflow_in_a_run_reads_no_batch(monkeypatch):
    monkeypatch.setattr(Tiny, "batches", lambda *_: pytest.fail("SynFlow needs no data"))
    assert prepare(Run(Tiny(), ow.SynFlow(HALF), steps=4), CPU).sparsifier.sparsity() == 0.5
