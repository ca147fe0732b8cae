"""Two sparsifiers on one model: each ends its own weights, and a copy or a file of either has plain ones alone."""

import copy
import pickle

import pytest
import torch
from torch import nn

import openwork as ow
from tests.processes import python

PRUNE = ow.GradualMagnitude(ow.OneShot(0.5))
DROPOUT = ow.VariationalDropout(ow.Constant(1e-3), log_sigma2=-2.0)
GATES = ow.L0(ow.Constant(1e-3), dropout=0.5)
PAIRS = pytest.mark.parametrize(
    "techniques",
    [(PRUNE, GATES), (GATES, PRUNE), (DROPOUT, GATES), (PRUNE, PRUNE)],
    ids=lambda pair: "-".join(type(one).__name__ for one in pair),
)
X = torch.ones(3, 16)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def pair(techniques):
    model = network()
    return model, [ow.sparsify(model, one, select=name) for one, name in zip(techniques, ("0", "2"), strict=True)]


@PAIRS
@pytest.mark.parametrize("which", [0, 1])
def test_a_file_of_either_holds_the_weights_of_evaluation_and_loads_into_the_plain_model(techniques, which, tmp_path):
    model, sparsifiers = pair(techniques)
    expected = model.eval()(X)
    ow.save(sparsifiers[which], tmp_path / "model.safetensors")
    program = """
import sys, torch, openwork as ow
from tests.core.test_two_sparsifiers import X, network
model = network()
model.load_state_dict(ow.load(sys.argv[1]))
torch.save(model(X), sys.argv[2])
"""
    python(tmp_path, program, tmp_path / "model.safetensors", tmp_path / "outputs.pt")
    torch.testing.assert_close(torch.load(tmp_path / "outputs.pt"), expected)


@PAIRS
@pytest.mark.parametrize("first", [0, 1])
def test_finalize_leaves_the_weights_of_the_other_to_it(techniques, first):
    model, sparsifiers = pair(techniques)
    expected = model.eval()(X)
    other, keys = sparsifiers[1 - first], ("0.", "2.")[1 - first]
    before = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(keys)}
    kind, sparsity = type(model[2 - 2 * first]), other.sparsity()
    sparsifiers[first].finalize()
    after = {name: value for name, value in model.state_dict().items() if name.startswith(keys)}
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert type(model[2 - 2 * first]) is kind
    assert other.sparsity() == sparsity
    other.finalize()
    assert [type(module) for module in model] == [type(module) for module in network()]
    assert model.state_dict().keys() == network().state_dict().keys()
    torch.testing.assert_close(model(X), expected)


@PAIRS
@pytest.mark.parametrize("which", [0, 1])
def test_a_report_on_either_counts_its_zeros(techniques, which):
    _, sparsifiers = pair(techniques)
    (layer,) = ow.report(sparsifiers[which]).layers
    assert layer.sparsity == sparsifiers[which].sparsity()


def test_two_may_share_one_module():
    torch.manual_seed(0)
    lstm, x = nn.LSTM(4, 4), torch.ones(2, 3, 4)
    first = ow.sparsify(lstm, DROPOUT, select="weight_ih*")
    second = ow.sparsify(lstm, GATES, select="weight_hh*")
    assert type(lstm).__name__ == "ReparameterizedLSTM"
    expected = lstm.eval()(x)[0]
    for twin in (copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm)), first.finalized_copy(), first.finalize()):
        torch.testing.assert_close(twin(x)[0], expected)
    assert [name for name in lstm.state_dict() if "reparam" in name] == ["reparam.weight_hh_l0.log_alpha"]
    assert not torch.equal(lstm.train()(x)[0], lstm(x)[0])
    second.finalize()
    assert type(lstm) is nn.LSTM
    torch.testing.assert_close(lstm(x)[0], expected)
