"""Masks reach any parameter of any module."""

import copy
import pickle

import pytest
import torch
from torch import nn

import openwork as ow
from tests.layers import LAYERS, example, matrices

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.mark.parametrize("hidden", ["frozen", "trained"])
@pytest.mark.parametrize("name", LAYERS)
def test_masks_work_on_every_layer(name, hidden):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model = make()
    dense = copy.deepcopy(model)
    schedule = ow.Cubic(0.75, begin=1, end=4, every=1)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(schedule, hidden=hidden), select=matrices)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sparsifier.attach(optimizer)
    for _ in range(6):
        model(example(shape)).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        for weight in sparsifier.weights:
            zeros = int((weight.parameter == 0).sum())
            assert zeros == int((~sparsifier.masks()[weight.name]).sum()), weight.name
    for weight in sparsifier.weights:
        n = weight.parameter.numel()
        assert int((weight.parameter == 0).sum()) == n - int(0.25 * n), weight.name
    x = example(shape)
    model.eval(), dense.eval()
    with torch.no_grad():
        expected = model(x)  # the encoder layer's evaluation fast path, among others
        plain = sparsifier.finalize()
        dense.load_state_dict(plain.state_dict())
        torch.testing.assert_close(plain(x), expected)
        torch.testing.assert_close(dense(x), expected)


# With this little noise, or gates this open, training computes what the plain layer does.
QUIET = [ow.VariationalDropout(ow.Constant(1e-2), log_sigma2=-30.0, clip=40.0), ow.L0(ow.Constant(1e-2), dropout=1e-12)]
NOISY = [ow.VariationalDropout(ow.Constant(1e-2), log_sigma2=-3.0), ow.L0(ow.Constant(1e-2), dropout=0.8)]


def label(technique) -> str:
    return type(technique).__name__


@pytest.mark.parametrize("technique", QUIET, ids=label)
@pytest.mark.parametrize("name", LAYERS)
def test_a_random_weight_without_noise_is_the_plain_layer(name, technique):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model = make()
    dense, x = copy.deepcopy(model), example(shape)
    ow.sparsify(model, technique, select=matrices)
    torch.testing.assert_close(model(x), dense(x), atol=1e-3, rtol=1e-3)  # eps = 1e-8 stays under the root


@pytest.mark.parametrize("technique", NOISY, ids=label)
@pytest.mark.parametrize("name", LAYERS)
def test_random_weights_train_on_every_layer(name, technique):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model = make()
    dense = copy.deepcopy(model)
    sparsifier = ow.sparsify(model, technique, select=matrices)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sparsifier.attach(optimizer)
    assert not torch.equal(model(example(shape)), model(example(shape)))  # another draw
    for _ in range(4):
        (model(example(shape)).square().mean() + sparsifier.penalty()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    twin = copy.deepcopy(model)
    if name != "weight norm":  # which torch does not pickle
        twin = pickle.loads(pickle.dumps(twin))
    x = example(shape)
    model.eval(), dense.eval(), twin.eval()
    with torch.no_grad():
        expected = model(x)  # the encoder layer's evaluation fast path, among others
        torch.testing.assert_close(twin(x), expected)
        plain = sparsifier.finalize()
        assert [type(module) for module in plain.modules()] == [type(module) for module in dense.modules()]
        dense.load_state_dict(plain.state_dict())
        torch.testing.assert_close(plain(x), expected)
        torch.testing.assert_close(dense(x), expected)
