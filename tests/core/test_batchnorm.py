import pytest
import torch
from torch import nn

import openwork as ow


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 2)
    )


def test_statistics_become_the_means_over_the_batches():
    model = network()
    batches = [torch.randn(5, 2, 6, 6) * scale for scale in (1.0, 2.0, 3.0)]
    outputs = [model[0](batch).transpose(0, 1).flatten(1) for batch in batches]
    assert ow.recalibrate_batchnorm(model, iter(batches)) == 3
    norm = model[1]
    torch.testing.assert_close(norm.running_mean, torch.stack([o.mean(1) for o in outputs]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([o.var(1) for o in outputs]).mean(0))


def test_nothing_else_changes():
    model = network().train()
    model[3].eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    ow.recalibrate_batchnorm(model, [torch.randn(5, 2, 6, 6)])
    assert [m.training for m in model] == [True, True, True, False, True, True]
    assert model[1].momentum == 0.1
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


class Scaling(nn.Module):
    def forward(self, x):
        return x.sub_(1).div_(2)


def test_batches_that_the_model_writes_to_stay_what_they_are():
    model, batch = nn.Sequential(Scaling(), network()), torch.randn(5, 2, 6, 6)
    before = batch.clone()
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.5)), batches=[batch])
    assert torch.equal(batch, before)
    statistics = model[1][1].running_mean.clone()
    ow.recalibrate_batchnorm(model, [{"input": batch}])
    assert torch.equal(batch, before)
    assert torch.equal(model[1][1].running_mean, statistics)


def test_recalibration_repairs_a_pruned_model():
    model = network()
    x = 3 * torch.randn(256, 2, 6, 6) + 1
    ow.recalibrate_batchnorm(model, [x])
    ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.7)), select=ow.weights_of(nn.Conv2d)).finalize()

    def off_balance() -> float:
        hidden = model.eval()[:2](x).detach()
        return float(hidden.mean((0, 2, 3)).abs().max() + (hidden.std((0, 2, 3)) - 1).abs().max())

    broken = off_balance()
    ow.recalibrate_batchnorm(model, [x])
    assert broken > 0.1
    assert off_balance() < 0.01


def test_a_model_without_batch_norm_and_no_batches_are_errors():
    with pytest.raises(ValueError, match="the model has no BatchNorm with running statistics"):
        ow.recalibrate_batchnorm(nn.Linear(2, 2), [torch.randn(1, 2)])
    model = network()
    model[1].running_mean.fill_(7.0)
    with pytest.raises(ValueError, match="there is no batch to take statistics from"):
        ow.recalibrate_batchnorm(model, [])
    assert model[1].running_mean.tolist() == [7.0, 7.0, 7.0]


def test_an_error_in_the_model_restores_its_flags():
    model = network().train()
    with pytest.raises(RuntimeError):
        ow.recalibrate_batchnorm(model, [torch.randn(5, 9, 6, 6)])
    assert model[1].momentum == 0.1
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_statistics_that_are_not_finite_are_refused(value):
    model = network()
    with pytest.raises(ValueError, match="the batches make the statistics of 1 NaN or infinite; check their inputs"):
        ow.recalibrate_batchnorm(model, [torch.full((5, 2, 6, 6), value)])
    assert model[1].running_var.tolist() == [1.0, 1.0, 1.0]
