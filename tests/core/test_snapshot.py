"""Forward passes of openwork's own leave no trace in a model: no rescaled row, no count."""

import pytest
import torch
from torch import nn

import openwork as ow
from tests.core.everything import Everything


class Leaves(nn.Module):
    """A model whose forward rescales rows of its embedding, and counts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.look, self.norm, self.out = nn.Embedding(9, 8, max_norm=0.5), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, ids):
        self.calls += 1
        return self.out(self.norm(self.look(ids)))


IDS = torch.arange(8)
WANDA = ow.Wanda(ow.OneShot(0.5))
USES = {
    "report": lambda model: ow.report(model, example=IDS),
    "accelerate": lambda model: ow.accelerate(model, IDS, rounds=4),
    "shrink": lambda model: ow.shrink(model, IDS),
    "sensitivity": lambda model: ow.sensitivity(model, lambda each: each(IDS).detach().sum(), sparsities=(0.5,)),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_changes_nothing_leaves_no_trace(use):
    model = Leaves()
    everything = Everything(model)
    use(model)
    everything.assert_unchanged()


CHANGES = {
    "prune": lambda model: ow.prune(model, WANDA, batches=[IDS], select="out"),
    "sparsify": lambda model: ow.sparsify(model, WANDA, select="out", calibrate=lambda each: each(IDS)).finalize(),
    "recalibrate_batchnorm": lambda model: ow.recalibrate_batchnorm(model, [IDS]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_other_parts_leaves_no_trace_in_these(change):
    model = Leaves()
    rows = model.look.weight.detach().clone()
    change(model)
    assert torch.equal(model.look.weight, rows)
    assert int(model.calls) == 0


def test_a_look_up_that_rescales_is_no_product():
    assert ow.report(Leaves(), example=IDS).flops.uncounted == {}


def jitted():
    return torch.jit.trace(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval(), torch.ones(2, 4))


def expanded():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model.register_buffer("repeated", torch.zeros(1).expand(5))
    return model


def inferred():
    model = nn.Sequential(nn.Linear(4, 4))
    with torch.inference_mode():
        model.append(nn.BatchNorm1d(4))
    return model


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("make", [jitted, expanded, inferred])
def test_models_whose_buffers_cannot_be_written_are_run_all_the_same(make):
    model = make()
    assert ow.report(model, example=torch.ones(2, 4)).flops is not None
    if make is expanded:
        assert ow.recalibrate_batchnorm(model, [torch.ones(2, 4)]) == 1


def test_a_batch_norm_that_replaces_its_statistics_has_new_ones():
    class Replacing(nn.BatchNorm1d):
        def forward(self, x):
            if self.training:
                self.running_mean = x.mean(0)
            return x - self.running_mean

    model = nn.Sequential(Replacing(3))
    held = model[0].running_mean
    ow.recalibrate_batchnorm(model, [torch.full((4, 3), 7.0)])
    assert model[0].running_mean.tolist() == [7.0] * 3
    assert model[0].running_mean is held


PAIRS = {
    "report": lambda model: ow.report(model, example=torch.ones(2, 4)),
    "shrink": lambda model: ow.shrink(model, torch.ones(2, 4)),
    "permute": lambda model: ow.permute(model, torch.ones(2, 4), ow.Wanda(ow.OneShot(0.5), pattern=ow.NM(2, 4)),
                                        calibrate=lambda each: each(torch.ones(2, 4)), seconds=0.1),
}  # fmt: skip


@pytest.mark.parametrize("use", PAIRS.values(), ids=PAIRS)
def test_of_a_model_on_a_cpu_no_gpu_is_asked_for_its_generator(use, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: pytest.fail("began a CUDA context"))
    use(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)))
