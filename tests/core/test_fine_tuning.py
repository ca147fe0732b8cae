"""Fine-tuning a pruned model with keep_zeros: whatever trains it, its zeros stay and its other weights move."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import openwork as ow

X = torch.randn(24, 16, generator=torch.Generator().manual_seed(1))
NOTHING_MORE = ow.GradualMagnitude(ow.Constant(0.0))


def pruned(pattern=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8))
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.5), pattern=pattern or ow.Unstructured()))
    return model


def zeros(model):
    return {name: parameter.detach() == 0 for name, parameter in model.named_parameters() if parameter.dim() > 1}


def train(model, optimizer, steps=6, *, accumulate=1, compiled=None):
    for step in range(steps):
        (compiled or model)(X[step % 3 :: 3]).square().mean().backward()
        if step % accumulate == accumulate - 1:
            optimizer.step()
            optimizer.zero_grad()


OPTIMIZERS = {
    "SGD with momentum and decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "SGD of Nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam with decay": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "AdamW, amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01, weight_decay=0.1, momentum_decay=0.01),
    "RMSprop with momentum": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.1, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_zeros_stay_and_the_others_move(kind, accumulate):
    model = pruned(ow.NM(2, 4))
    before, dense = zeros(model), {name: p.detach().clone() for name, p in model.named_parameters()}
    sparsifier = ow.sparsify(model, NOTHING_MORE, keep_zeros=True)
    optimizer = OPTIMIZERS[kind](model.parameters())
    sparsifier.attach(optimizer)
    train(model, optimizer, accumulate=accumulate)
    sparsifier.finalize()
    for name, parameter in model.named_parameters():
        if name in before:
            assert torch.equal(parameter == 0, before[name])
            assert (parameter[~before[name]] != dense[name][~before[name]]).all()


def test_without_keep_zeros_they_do_not_stay():
    model = pruned()
    before = zeros(model)
    train(model, OPTIMIZERS["AdamW"](model.parameters()))
    assert not any((zeros(model)[name] & before[name]).any() for name in before)


def test_moments_from_before_pruning_move_no_zero():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8))
    optimizer = OPTIMIZERS["Adam with decay"](model.parameters())
    train(model, optimizer)
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.8)))
    before = zeros(model)
    sparsifier = ow.sparsify(model, NOTHING_MORE, keep_zeros=True)
    sparsifier.attach(optimizer)
    train(model, optimizer)
    sparsifier.finalize()
    assert all(torch.equal(now, before[name]) for name, now in zeros(model).items())


@pytest.mark.parametrize("after", [False, True], ids=["copied before sparsify", "copied after"])
def test_an_average_of_the_weights_has_their_zeros(after):
    model = pruned()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    sparsifier = ow.sparsify(model, NOTHING_MORE, keep_zeros=True)
    if after:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    before, optimizer = zeros(model), OPTIMIZERS["AdamW"](model.parameters())
    sparsifier.attach(optimizer)
    for _ in range(4):
        train(model, optimizer, 2)
        average.update_parameters(model)
    assert all(torch.equal(now, before[name]) for name, now in zeros(average.module).items())
    assert not torch.equal(average.module[0].weight, model[0].weight)


def test_averages_that_take_the_place_of_the_weights_keep_the_zeros():
    model = pruned()
    sparsifier = ow.sparsify(model, NOTHING_MORE, keep_zeros=True)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    before, optimizer = zeros(model), OPTIMIZERS["AdamW"](model.parameters())
    sparsifier.attach(optimizer)
    train(model, optimizer)
    average.update_parameters(model)
    model.load_state_dict(average.module.state_dict())
    train(model, optimizer)
    sparsifier.finalize()
    assert all(torch.equal(now, before[name]) for name, now in zeros(model).items())


def test_a_traced_step_keeps_the_zeros():
    torch._dynamo.reset()
    model = pruned()
    before = zeros(model)
    sparsifier = ow.sparsify(model, NOTHING_MORE, keep_zeros=True)
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    sparsifier.attach(optimizer)
    train(model, optimizer, compiled=torch.compile(model, backend="aot_eager"))
    sparsifier.finalize()
    assert all(torch.equal(now, before[name]) for name, now in zeros(model).items())


@pytest.mark.slow
def test_a_compiled_step_keeps_the_zeros():
    torch._dynamo.reset()
    model = pruned()
    before = zeros(model)
    sparsifier = ow.sparsify(model, NOTHING_MORE, keep_zeros=True)
    optimizer = OPTIMIZERS["SGD with momentum and decay"](model.parameters())
    sparsifier.attach(optimizer)
    train(model, optimizer, compiled=torch.compile(model))
    sparsifier.finalize()
    assert all(torch.equal(now, before[name]) for name, now in zeros(model).items())


@pytest.mark.parametrize("kind", ["sparse file", "safetensors", "torch"])
def test_a_pruned_model_from_a_file_is_fine_tuned(kind, tmp_path):
    from safetensors.torch import load_file, save_file

    model, path = pruned(), tmp_path / ("model.pt" if kind == "torch" else "model.safetensors")
    before = zeros(model)
    if kind == "sparse file":
        ow.save(model, path)
    elif kind == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    loaded = {"sparse file": ow.load, "safetensors": load_file, "torch": torch.load}[kind](path)
    again = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8))
    again.load_state_dict(loaded)
    sparsifier = ow.sparsify(again, NOTHING_MORE, keep_zeros=True)
    optimizer = OPTIMIZERS["AdamW"](again.parameters())
    sparsifier.attach(optimizer)
    train(again, optimizer)
    assert sparsifier.sparsity() == 0.5
    sparsifier.finalize()
    assert all(torch.equal(now, before[name]) for name, now in zeros(again).items())


@pytest.mark.parametrize("freeze", ["0", "2"])
def test_frozen_layers_stay_as_they_are(freeze):
    model = pruned()
    model.get_submodule(freeze).requires_grad_(False)
    before, frozen = zeros(model), model.get_submodule(freeze).weight.detach().clone()
    sparsifier = ow.sparsify(model, NOTHING_MORE, keep_zeros=True)
    optimizer = OPTIMIZERS["AdamW"]([p for p in model.parameters() if p.requires_grad])
    sparsifier.attach(optimizer)
    train(model, optimizer)
    sparsifier.finalize()
    assert torch.equal(model.get_submodule(freeze).weight, frozen)
    assert all(torch.equal(now, before[name]) for name, now in zeros(model).items())
