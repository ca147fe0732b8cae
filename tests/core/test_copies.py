"""Copies of models and sparsifiers, and weights without elements."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm

import openwork as ow
from tests.helpers import raises

pytestmark = pytest.mark.filterwarnings("ignore:.*_norm.* is deprecated")


@pytest.mark.parametrize("technique", [ow.GradualMagnitude(ow.OneShot(0.5)), ow.L0(ow.Constant(0.1))], ids=repr)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, pickle.dumps])
def test_a_sparsifier_is_not_copied(technique, duplicate):
    model = nn.Linear(4, 4)
    sparsifier = ow.sparsify(model, technique)
    sparsifier.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    with raises(TypeError, "a sparsifier cannot be copied or pickled", "load state_dict(), or take finalized_copy()"):
        duplicate(sparsifier)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_weights_without_elements():
    with raises(ValueError, "weight: it has no weights"):
        ow.sparsify(nn.Linear(0, 4), ow.GradualMagnitude(ow.OneShot(0.5)))
    both = nn.Sequential(nn.Linear(0, 4), nn.Linear(4, 4))
    sparsifier = ow.sparsify(both, ow.GradualMagnitude(ow.OneShot(0.5)))
    assert sparsifier.layer_sparsity() == {"1.weight": 0.5}
    assert sparsifier.skipped == {"0.weight": "it has no weights"}


X = torch.randn(5, 6)
TECHNIQUES = [
    ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.Rows()),
    ow.VariationalDropout(ow.Constant(0.1), log_sigma2=-1.0),
]
COMPUTED = {
    "weight_norm": lambda layer: weight_norm(layer),
    "spectral_norm": lambda layer: spectral_norm(layer),
    "torch.nn.utils.prune": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    "kept outputs": lambda layer: layer.register_forward_hook(lambda own, x, y: setattr(own, "kept", {"y": [y.T]})),
}


def with_computed(kind):
    """A model whose second layer holds a tensor with a graph after a forward pass."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    COMPUTED[kind](model[2])
    return model


computed = pytest.mark.parametrize("kind", COMPUTED)


@computed
@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: type(technique).__name__)
def test_a_model_that_holds_computed_tensors_has_a_finalized_copy(technique, kind):
    model = with_computed(kind)
    sparsifier = ow.sparsify(model, technique)
    model(X)
    with pytest.raises(RuntimeError, match="deepcopy protocol"):
        copy.deepcopy(model)
    copied = sparsifier.finalized_copy().eval()
    assert torch.equal(copied(X), model.eval()(X))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copied.train()(X).sum().backward()  # it is a model of its own
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.sub_(parameter.grad)
    copied(X)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@computed
def test_a_model_that_holds_computed_tensors_is_accelerated_and_shrunk(kind):
    model = with_computed(kind)
    ow.prune(model, TECHNIQUES[0], select="0")
    expected = model.eval()(X)
    accelerated = ow.accelerate(model, X)
    for found in (accelerated.model, accelerated.dense_copy()):
        torch.testing.assert_close(found(X), expected)
    if kind == "torch.nn.utils.prune":
        with raises(ValueError, "2.weight_orig is still masked by torch.nn.utils.prune"):
            ow.shrink(model, X)
    else:
        torch.testing.assert_close(ow.shrink(model, X).model(X), expected)


@pytest.mark.parametrize(
    ("held", "why"),
    [
        (lambda layer: layer.weight[:2], "an attribute of shape (2, 6) is a view of a leaf tensor"),
        (lambda layer: (each for each in ()), "cannot pickle 'generator' object"),
    ],
    ids=["a view", "a generator"],
)
def test_a_model_that_cannot_be_copied_says_why(held, why):
    for technique in TECHNIQUES:
        model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
        model.held = held(model[0])
        said = f"the model cannot be copied, as copy.deepcopy does not take the attribute held ({why}); take it out"
        sparsifier = ow.sparsify(model, technique)
        with raises(ValueError, said):
            sparsifier.finalized_copy()
        sparsifier.finalize()
        for call in (ow.accelerate, ow.shrink):
            with raises(ValueError, said):
                call(model, X)


class Stubborn(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("not me")


def with_lock(layer):
    layer.lock = threading.Lock()
    return layer


def with_buffer(layer):
    layer.register_buffer("first", layer.weight[:2], persistent=False)
    return layer


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (with_lock(nn.Linear(8, 8)), "the attribute 1.0.lock (cannot pickle '_thread.lock' object)"),
        (with_buffer(nn.Linear(8, 8)), "the attribute 1.0.first (an attribute of shape (2, 8) is a view"),
        (Stubborn(8, 8), "the module 1.0 (not me)"),
    ],
    ids=["a lock", "a view as buffer", "a module that refuses"],
)
@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: type(technique).__name__)
def test_a_model_that_cannot_be_copied_says_which_module_prevents_it(technique, layer, what):
    model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(layer, nn.ReLU()), nn.Linear(8, 4))
    sparsifier = ow.sparsify(model, technique, select="0")
    said = f"the model cannot be copied, as copy.deepcopy does not take {what}"
    with raises(ValueError, said, "; take it out meanwhile, or give it a __deepcopy__"):
        sparsifier.finalized_copy()
    sparsifier.finalize()
    for call in (ow.accelerate, ow.shrink):
        with raises(ValueError, said):
            call(model, X)


def test_a_model_that_refuses_itself_has_no_other_name():
    model = Stubborn(6, 4)
    with raises(ValueError, "the model cannot be copied (not me); give one that copy.deepcopy takes"):
        ow.sparsify(model, TECHNIQUES[0]).finalized_copy()


def test_a_lack_of_memory_is_no_fault_of_the_model():
    class Full(nn.Linear):
        def __deepcopy__(self, memo):
            raise torch.OutOfMemoryError("CUDA out of memory")

    sparsifier = ow.sparsify(Full(4, 4), TECHNIQUES[1])
    with pytest.raises(torch.OutOfMemoryError):
        sparsifier.finalized_copy()
