"""What masking adds to memory, and how few operations a step: exact numbers."""

import gc

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.kernels import masks, paths

WEIGHTS = 64 * 96 + 32 * 64
HIDDEN = {"lost": 0, "frozen": 4, "trained": 4}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 64, bias=False), nn.ReLU(), nn.Linear(64, 32, bias=False))


@pytest.fixture(scope="module", autouse=True)
def nothing_older():
    """Takes what other tests have left, a million objects, out of what is looked through."""
    gc.collect()
    gc.freeze()


def held() -> int:
    """The bytes of all tensors that these tests have made."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        # Those of other kinds stand for tensors in what other tests have compiled; `isinstance` asks the object.
        if type(thing) in (torch.Tensor, nn.Parameter) and not thing.is_sparse:
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("hidden", HIDDEN)
def test_masks_take_one_byte_a_weight_and_hidden_values_one_copy(hidden):
    model = network()
    before = held()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9), hidden=hidden))
    assert held() - before == (1 + HIDDEN[hidden]) * WEIGHTS
    sparsifier.finalize()
    assert held() == before


@pytest.mark.parametrize("hidden", HIDDEN)
def test_updates_and_steps_keep_nothing_besides(hidden):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = held()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.Cubic(0.9, begin=2, end=6, every=2), hidden=hidden))
    assert held() - before == WEIGHTS  # nothing is hidden yet
    sparsifier.attach(optimizer)
    for _ in range(6):
        model(torch.randn(4, 96)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert held() - before == (1 + (HIDDEN[hidden] if sparsifier.sparsity() else 0)) * WEIGHTS
    assert sparsifier.sparsity() == pytest.approx(0.9, abs=1e-3)


def test_zeros_that_stay_take_another_byte():
    model = network()
    nn.init.sparse_(model[0].weight, 0.5)
    before = held()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9), hidden="lost"), keep_zeros=True)
    assert held() - before == 2 * WEIGHTS
    assert sparsifier.sparsity() == pytest.approx(0.9, abs=1e-3)


def test_regrowing_keeps_no_gradient_between_updates():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = held()
    sparsifier = ow.sparsify(model, ow.RigL(ow.Constant(0.8, every=2, stop=8)))
    sparsifier.attach(optimizer)
    bytes_a_weight = 1 + HIDDEN[sparsifier.technique.hidden]
    for _ in range(5):
        model(torch.randn(4, 96)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert held() - before == bytes_a_weight * WEIGHTS


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 8), (torch.bfloat16, 2)], ids=str)
def test_hidden_values_have_the_weights_dtype(dtype, size):
    model = network().to(dtype)
    before = held()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    assert held() - before == (1 + size) * WEIGHTS
    model.float()
    sparsifier.sparsity()
    assert all(weight.hidden.dtype == torch.float32 for weight in sparsifier.mechanism.weights)
    assert all(weight.mask.dtype == torch.bool for weight in sparsifier.mechanism.weights)


def test_what_is_told_of_masks_is_a_copy():
    sparsifier = ow.sparsify(network(), ow.GradualMagnitude(ow.OneShot(0.9)))
    own = sparsifier.mechanism.weights[0].mask
    for told in (sparsifier.masks()["0.weight"], sparsifier.state_dict()["masks"]["0.weight"]):
        assert told.dtype == torch.bool
        told.zero_()
    view = sparsifier.mechanism.weights[0].view(step=0, seed=0)
    view.mask.zero_()
    assert int(own.sum()) == 614


class Elsewhere(torch.optim.SGD):
    """Not one of the exact classes whose zeros stay by themselves."""


@pytest.mark.parametrize(
    ("optimizer", "hidden", "expected"),
    [
        (torch.optim.SGD, "frozen", ["mask 2"]),  # all gradients at the end of the backward pass
        (torch.optim.SGD, "lost", ["mask 2"]),
        (torch.optim.SGD, "trained", ["mask 2", "hide 2"]),
        (Elsewhere, "frozen", ["mask 2", "mask 2"]),
        (Elsewhere, "trained", ["mask 2", "hide 2"]),
    ],
)
def test_a_step_masks_all_gradients_at_once_and_then_all_parameters(monkeypatch, optimizer, hidden, expected):
    model = network()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.9), hidden=hidden))
    optimizer = optimizer(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier.attach(optimizer)

    def step():
        model(torch.randn(4, 96)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    calls = []
    monkeypatch.setattr(masks, "path", lambda device, dtype: paths.Path("Triton", ""))
    monkeypatch.setattr(masks, "SMALL", 0)
    monkeypatch.setattr(masks, "_on_cpu", lambda tensors: False)
    for name in ("mask", "hide", "restore", "remember"):
        monkeypatch.setattr(masks, f"_{name}", lambda *lists, name=name: calls.append(f"{name} {len(lists[0])}"))
    step()
    assert calls == expected
