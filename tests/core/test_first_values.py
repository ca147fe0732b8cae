"""What the first step says of weights that were written after `sparsify` had chosen masks."""

import warnings

import pytest
import torch
from torch import nn

import openwork as ow

MAGNITUDE = ow.GradualMagnitude(ow.OneShot(0.9))
OTHERS = "are not zero under the masks of sparsify, and .* are zero elsewhere"


def layers(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))


def sparse(technique, seed):
    model = layers(seed)
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    return model, sparsifier, optimizer


def step(model, optimizer):
    model(torch.randn(8, 20)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    "technique",
    [
        MAGNITUDE,
        ow.GradualMagnitude(ow.OneShot(0.5), allocation=ow.GlobalRanking()),
        ow.DynamicSurgery(ow.Constant(1.0, every=2)),
        ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.NM(2, 4)),
    ],
    ids=lambda technique: type(technique).__name__,
)
def test_a_sparse_checkpoint_without_its_masks_is_refused_and_nothing_changes(technique):
    saved = sparse(technique, 1)[0].state_dict()
    model, sparsifier, optimizer = sparse(technique, 0)
    model.load_state_dict(saved)
    with pytest.raises(ValueError, match=OTHERS):
        step(model, optimizer)
    assert sparsifier.steps == 0
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("sparsifier_first", [True, False])
def test_with_the_masks_of_its_sparsifier_it_trains_on_in_silence(sparsifier_first):
    first, other, _ = sparse(MAGNITUDE, 1)
    model, sparsifier, optimizer = sparse(MAGNITUDE, 0)
    parts = [(model, first.state_dict()), (sparsifier, other.state_dict())]
    for part, state in reversed(parts) if sparsifier_first else parts:
        part.load_state_dict(state)
    step(model, optimizer)
    # 0.1 * 1280 + 0.1 * 640 weights stay
    assert sparsifier.sparsity() == pytest.approx(0.9)


def test_dense_weights_that_are_loaded_after_sparsify_are_named_once():
    model, sparsifier, optimizer = sparse(MAGNITUDE, 0)
    model.load_state_dict(layers(1).state_dict())
    # 0.9 * (1280 + 640) weights lie under the masks
    with pytest.warns(UserWarning, match=r"1728 weights, 0\.weight among them, were written after sparsify"):
        step(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_state_dict(layers(2).state_dict())  # averaged or older weights, in training
        step(model, optimizer)
    assert sparsifier.sparsity() == pytest.approx(0.9)


def test_a_layer_that_begins_with_zeros_has_none_of_other_masks():
    model = layers(0)
    nn.init.zeros_(model[2].weight)
    sparsifier = ow.sparsify(model, ow.RandomPruning(ow.OneShot(0.5)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    with torch.no_grad():
        model[0].weight[:4].fill_(1)  # 80 weights; of the zeros of the last layer 320 are kept
    written = int((~sparsifier.masks()["0.weight"][:4]).sum())
    with pytest.warns(UserWarning, match=rf"{written} weights, 0\.weight among them, were written after sparsify"):
        step(model, optimizer)


def test_masks_that_are_chosen_later_see_the_weights_that_were_loaded():
    model, sparsifier, optimizer = sparse(ow.GradualMagnitude(ow.OneShot(0.9, at=1)), 0)
    model.load_state_dict(layers(1).state_dict())
    step(model, optimizer)
    assert sparsifier.sparsity() == pytest.approx(0.9)
