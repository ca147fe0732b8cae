"""A state that does not fit is refused in one sentence, and nothing has been taken over."""

import copy

import pytest
import torch

import openwork as ow
from tests.core.everything import Everything
from tests.helpers import conv_net, image_batches, raises, train_step

RAMP = ow.Cubic(0.8, end=8, every=2)
TECHNIQUES = {
    "frozen": ow.GradualMagnitude(RAMP),
    "trained": ow.GradualMagnitude(RAMP, hidden="trained"),
    "lost": ow.GradualMagnitude(RAMP, hidden="lost"),
    "evidence": ow.Movement(RAMP),
    "dropout": ow.VariationalDropout(ow.Constant(1e-3)),
    "L0": ow.L0(ow.Constant(1e-3)),
}


def started(technique):
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier.attach(optimizer)
    for _, batch in zip(range(3), image_batches(), strict=False):
        train_step(model, sparsifier, optimizer, batch)
    return model, sparsifier, optimizer


def drop(*path):
    def damage(state):
        *way, last = path
        for key in way:
            state = state[key]
        del state[last]

    return damage


def put(value, *path):
    def damage(state):
        *way, last = path
        for key in way:
            state = state[key]
        state[last] = value

    return damage


FOREIGN = "not a sparsifier's state_dict"
SAVED = "pass what Sparsifier.state_dict() returned"
EVERYWHERE = [
    (drop("format"), FOREIGN),
    (drop("technique"), FOREIGN),
    (drop("steps"), FOREIGN),
    (put(2, "format"), "has format 2, this version reads"),
    (put("Other", "technique"), "was saved by Other and this sparsifier runs"),
    (put(None, "steps"), "the state's steps must be a whole number >= 0, got None; " + SAVED),
    (put("3", "steps"), "the state's steps must be a whole number >= 0, got '3'; " + SAVED),
    (put(-1, "steps"), "the state's steps must be a whole number >= 0, got -1; " + SAVED),
    (put(2.5, "seed"), "the state's seed must be a whole number, got 2.5; " + SAVED),
    (drop("seed"), "the state's seed must be a whole number, got None; " + SAVED),
]
MASKS = [
    (drop("masks"), "the state holds no masks"),
    (drop("hidden"), "the state holds no masks"),
    (drop("allowed"), "the state holds no masks"),
    (drop("evidence"), "the state holds no masks"),
    (drop("masks", "3.weight"), "masks do not fit the model: 3.weight is absent in the state and (10, 64) here"),
    (drop("allowed", "0.weight"), "allowed do not fit the model: 0.weight is absent"),
    (put(torch.ones(1).bool(), "masks", "9.weight"), "9.weight is (1,) in the state and not selected here"),
    (put(torch.ones(3, 3).bool(), "masks", "5.weight"), "5.weight is (3, 3) in the state and (5, 10) here"),
    (put(torch.ones(5, 10), "masks", "5.weight"), "masks must be bool, and that of 5.weight is torch.float32"),
    (put(torch.ones(5, 10), "allowed", "5.weight"), "allowed must be bool, and that of 5.weight is torch.float32"),
    (put(None, "masks", "5.weight"), "the state's masks are no tensors by name; " + SAVED),
    (put([1], "masks"), "the state's masks are no tensors by name; " + SAVED),
    (put(None, "hidden"), "the state's hidden are no tensors by name; " + SAVED),
    (put(None, "evidence"), "the state's evidence are no tensors by name; " + SAVED),
    (put({"a": 1}, "evidence", "5.weight"), "the state's evidence are no tensors by name; " + SAVED),
    (put({"a": torch.ones(1)}, "evidence", "5.weight"), "evidence do not fit the model: 5.weight"),
]
HIDDEN = [
    (put({}, "hidden"), "the state holds no hidden values and this technique remembers them"),
    (drop("hidden", "3.weight"), "hidden do not fit the model: 3.weight is absent"),
]
CASES = [
    *((name, *case) for name in TECHNIQUES for case in EVERYWHERE),
    *((name, *case) for name in ("frozen", "trained", "lost", "evidence") for case in MASKS),
    *((name, *case) for name in ("frozen", "trained", "evidence") for case in HIDDEN),
    (
        "lost",
        put({"3.weight": torch.ones(10, 64)}, "hidden"),
        "the state holds hidden values and this technique forgets",
    ),
    ("evidence", drop("evidence", "0.weight"), "evidence do not fit the model: 0.weight movement is absent"),
    ("evidence", put(torch.ones(1), "evidence", "0.weight", "movement"), "0.weight movement is (1,) in the state"),
]


@pytest.mark.parametrize(("name", "damage", "words"), CASES)
def test_a_damaged_state_is_refused_and_nothing_is_taken_over(name, damage, words):
    model, sparsifier, optimizer = started(TECHNIQUES[name])
    state = copy.deepcopy(sparsifier.state_dict())
    state["steps"] = 2
    damage(state)
    everything = Everything(model, sparsifier, optimizer)
    with raises(ValueError, words):
        sparsifier.load_state_dict(state)
    everything.assert_unchanged()
    train_step(model, sparsifier, optimizer, next(image_batches()))
    assert sparsifier.steps == 4


@pytest.mark.parametrize("state", [None, [], "x", {}])
def test_what_is_no_state_at_all_is_refused(state):
    _model, sparsifier, _ = started(TECHNIQUES["frozen"])
    with raises(ValueError, FOREIGN):
        sparsifier.load_state_dict(state)


def test_a_state_of_another_model_is_refused():
    model, sparsifier, optimizer = started(TECHNIQUES["frozen"])
    other = ow.sparsify(torch.nn.Linear(3, 3), TECHNIQUES["frozen"]).state_dict()
    everything = Everything(model, sparsifier, optimizer)
    with raises(ValueError, "masks do not fit the model: weight is (3, 3) in the state and not selected here"):
        sparsifier.load_state_dict(other)
    everything.assert_unchanged()
