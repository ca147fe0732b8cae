"""Training steps that a CUDA graph repeats: what may be captured, and what counts."""

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.masks import gradients
from openwork.kernels.masks import mask_
from tests.helpers import raises

EVERY_2 = ow.Cubic(0.75, begin=0, end=8, every=2)


@pytest.fixture
def capture(monkeypatch):
    """A function that runs a step as if a CUDA graph captured it; but it computes, as a replay does."""

    def run(step):
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_initialized", lambda: True)
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            step()

    return run


def training(technique, *, lr=0.1):
    """(layer, sparsifier, a function that makes a step)."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 4, bias=False)
    sparsifier = ow.sparsify(layer, technique)
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9, weight_decay=0.01)
    sparsifier.attach(optimizer)
    inputs = torch.randn(6, 8)

    def step():
        optimizer.zero_grad()
        layer(inputs).square().mean().backward()
        optimizer.step()

    return layer, sparsifier, step


@pytest.mark.parametrize("hidden", ["frozen", "trained", "lost"])
def test_replayed_steps_that_are_counted_equal_steps_without_a_graph(capture, hidden):
    technique = ow.GradualMagnitude(EVERY_2, hidden=hidden)
    layer, sparsifier, step = training(technique)
    other, counted, alone = training(technique)
    for _ in range(3):  # before a capture, as torch demands
        step(), alone()
    for number in range(3, 10):
        capture(step)
        assert sparsifier.steps == number  # a capture, and so a replay, counts nothing
        sparsifier.step()
        alone()
        assert sparsifier.steps == counted.steps
        assert torch.equal(layer.weight, other.weight)
    for key, value in counted.state_dict()["hidden"].items():
        assert torch.equal(sparsifier.state_dict()["hidden"][key], value)
    step(), alone()  # and on without a graph
    assert torch.equal(layer.weight, other.weight)
    assert int((sparsifier.finalize().weight == 0).sum()) == 24


def test_all_gradients_are_masked_together_at_the_end_of_the_backward_pass(capture, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.75)))
    launches = []
    monkeypatch.setattr(
        gradients, "mask_", lambda tensors, masks: launches.append(len(tensors)) or mask_(tensors, masks)
    )

    def backward():
        model(torch.randn(6, 8)).square().mean().backward()

    capture(lambda: (backward(), backward()))  # the second adds to the gradients of the first
    assert launches == [3, 3]
    for name, mask in sparsifier.masks().items():
        assert not model.get_parameter(name).grad[~mask].any()
        assert model.get_parameter(name).grad[mask].any()
    model.zero_grad()
    backward()
    assert launches == [3, 3, 3]


def test_a_backward_pass_that_fails_in_a_capture_leaves_the_next_one_right(capture):
    layer, sparsifier, _ = training(ow.GradualMagnitude(ow.OneShot(0.75)))

    def fail(gradient):
        raise RuntimeError("no")

    inputs = torch.randn(6, 8, requires_grad=True)
    handle = inputs.register_hook(fail)
    with pytest.raises(RuntimeError, match="no"):
        capture(lambda: layer(inputs).sum().backward())
    handle.remove()
    layer.zero_grad()
    capture(lambda: layer(inputs).sum().backward())
    assert not layer.weight.grad[~sparsifier.masks()["weight"]].any()
    assert layer.weight.grad.any()


def test_masks_change_in_place_so_that_a_graph_follows():
    _, sparsifier, step = training(ow.GradualMagnitude(EVERY_2))
    mask = sparsifier.mechanism.weights[0].mask
    for _ in range(8):
        step()
    assert sparsifier.mechanism.weights[0].mask is mask
    assert int(mask.sum()) == 8


@pytest.mark.parametrize("hidden", ["frozen", "trained", "lost"])
def test_a_loaded_state_comes_into_the_tensors_that_a_graph_knows(hidden):
    _, sparsifier, step = training(ow.GradualMagnitude(EVERY_2, hidden=hidden))
    _, other, other_step = training(ow.GradualMagnitude(EVERY_2, hidden=hidden))
    [step() for _ in range(3)], [other_step() for _ in range(5)]
    (weight,) = sparsifier.mechanism.weights
    mask, values = weight.mask, weight.hidden
    saved = other.state_dict()
    sparsifier.load_state_dict(saved)
    assert weight.mask is mask
    assert weight.hidden is values
    assert torch.equal(mask, saved["masks"]["weight"])
    assert hidden == "lost" or torch.equal(values, saved["hidden"]["weight"])
    values = None if values is None else values.clone()
    [other_step() for _ in range(3)]  # the state's tensors are its own
    assert hidden == "lost" or torch.equal(weight.hidden, values)


def test_a_step_before_the_first_masks_is_not_captured(capture):
    _, _, step = training(ow.GradualMagnitude(ow.OneShot(0.5, at=3)))
    step()
    with raises(ValueError, "GradualMagnitude has masked nothing yet", "after the first masks", "at=3"):
        capture(step)


def test_the_first_step_of_an_attached_optimizer_is_not_captured(capture):
    _, _, step = training(ow.GradualMagnitude(ow.OneShot(0.5)))
    with raises(ValueError, "first step of SGD under masks clears its state", "make a step before"):
        capture(step)
    step()
    capture(step)


RIGL = ow.RigL(ow.Constant(0.5, every=3, stop=9))


def test_a_step_whose_gradients_are_evidence_is_not_captured(capture):
    _, sparsifier, step = training(RIGL)
    step(), step()
    assert RIGL.schedule.due(sparsifier.steps + 1)
    with raises(ValueError, "RigL reads dense gradients at this step", "schedule.due"):
        capture(step)


def test_a_graph_does_not_make_the_step_whose_gradients_are_evidence(capture):
    _, sparsifier, step = training(RIGL)
    step()
    capture(step)
    sparsifier.step()
    with raises(ValueError, "RigL reads dense gradients at step 3, which the CUDA graph has masked", "schedule.due"):
        sparsifier.step()
    assert sparsifier.steps == 3
    sparsifier.step()  # the steps after it are steps like others
    assert sparsifier.steps == 4


def test_evidence_is_dense_where_a_graph_holds_the_backward_pass_alone(capture):
    torch.manual_seed(0)
    layer = nn.Linear(8, 4, bias=False)
    sparsifier = ow.sparsify(layer, RIGL)
    sparsifier.attach(torch.optim.SGD(layer.parameters(), lr=0.1))
    capture(lambda: layer(torch.randn(6, 8)).square().mean().backward())
    assert (layer.weight.grad != 0).all()


def test_gradients_in_a_graph_of_the_backward_pass_alone_are_masked(capture):
    layer, sparsifier, step = training(ow.GradualMagnitude(ow.OneShot(0.5)))
    step()
    capture(lambda: layer(torch.randn(6, 8)).square().mean().backward())
    assert (layer.weight.grad[~sparsifier.masks()["weight"]] == 0).all()


@pytest.mark.parametrize("hidden", ["frozen", "trained", "lost"])
def test_what_other_code_writes_between_replays_is_masked_when_the_step_is_counted(capture, hidden):
    layer, sparsifier, step = training(ow.GradualMagnitude(ow.OneShot(0.5), hidden=hidden), lr=0.0)
    step()
    capture(step)
    sparsifier.step()
    with torch.no_grad():
        layer.weight.fill_(7.0)
    capture(step)
    sparsifier.step()
    mask = sparsifier.masks()["weight"]
    assert (layer.weight[mask] == 7).all()
    assert (layer.weight[~mask] == 0).all()


def test_step_is_refused_while_steps_count_themselves(capture):
    _, sparsifier, step = training(ow.GradualMagnitude(ow.OneShot(0.5)))
    step()
    with raises(ValueError, "counted already", "leave step"):
        sparsifier.step()
    capture(step)
    sparsifier.step()
    sparsifier.detach()
    sparsifier.attach(torch.optim.SGD(sparsifier.model.parameters(), lr=0.1))
    with raises(ValueError, "counted already", "leave step"):  # another optimizer, which no graph holds
        sparsifier.step()


def test_random_weights_count_replayed_steps_too(capture):
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    sparsifier = ow.sparsify(layer, ow.L0(ow.Linear(1e-3, begin=0, end=4)))
    optimizer = torch.optim.SGD([*layer.parameters()], lr=0.1)
    sparsifier.attach(optimizer)

    def step():
        (layer(torch.randn(6, 8)).square().mean() + sparsifier.penalty()).backward()
        optimizer.step()

    step()
    capture(step)
    assert sparsifier.steps == 1
    sparsifier.step()
    assert sparsifier.steps == 2
    assert float(sparsifier.mechanism._coefficient) == pytest.approx(5e-4)


def test_the_first_step_under_masks_is_not_captured(capture):
    _, sparsifier, step = training(ow.GradualMagnitude(ow.OneShot(0.5, at=2)))
    step(), step()
    assert sparsifier.sparsity() == 0.5
    with raises(ValueError, "first step of SGD under masks", "make a step before"):
        capture(step)
    step()
    capture(step)
