"""Several optimizers at once, optimizers with closures, and those that are refused."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from tests.helpers import conv_net, image_batches

RAMP = ow.Cubic(0.8, begin=1, end=5, every=1)
HIDDEN = pytest.mark.parametrize("hidden", ["frozen", "trained", "lost"])


def under_masks(sparsifier) -> torch.Tensor:
    masks = sparsifier.state_dict()["masks"]
    return torch.cat([w.parameter.detach()[~masks[w.name]] for w in sparsifier.weights])


def adam_and_sgd(model):
    """Each owns a part of conv_net: the convolution, and the two linear layers."""
    first = torch.optim.Adam(model[0].parameters(), lr=1e-2)
    return first, torch.optim.SGD([*model[3].parameters(), *model[5].parameters()], lr=1e-2, momentum=0.9)


def backward(model, batch, *optimizers):
    for optimizer in optimizers:
        optimizer.zero_grad()
    F.cross_entropy(model(batch[0]), batch[1]).backward()


@HIDDEN
def test_weights_are_zero_after_the_step_of_each_of_two_optimizers(hidden):
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP, hidden=hidden))
    one, two = adam_and_sgd(model)
    sparsifier.attach(one, two)
    for batch in itertools.islice(image_batches(), 8):
        backward(model, batch, one, two)
        for optimizer in (one, two):
            optimizer.step()
            assert (under_masks(sparsifier) == 0).all()
    assert sparsifier.steps == 8  # not 16
    assert [float(v) for v in sparsifier.layer_sparsity().values()] == [58 / 72, 512 / 640, 40 / 50]


@HIDDEN
def test_muon_for_the_matrices_and_adamw_for_the_rest(hidden):
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP, hidden=hidden))
    matrices = [p for p in model.parameters() if p.dim() == 2]
    muon = torch.optim.Muon(matrices, lr=1e-2)
    adamw = torch.optim.AdamW([p for p in model.parameters() if p.dim() != 2], lr=1e-2)
    sparsifier.attach(muon, adamw)
    for batch in itertools.islice(image_batches(), 8):
        backward(model, batch, muon, adamw)
        muon.step()
        assert (under_masks(sparsifier) == 0).all()
        adamw.step()
        assert (under_masks(sparsifier) == 0).all()
    assert sparsifier.sparsity() == pytest.approx(0.8, abs=2e-3)


def test_factored_optimizer_state_is_left_alone():
    model = nn.Linear(6, 4, bias=False)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.75, at=1)))
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    model(torch.ones(1, 6)).sum().backward()  # every gradient is 1
    optimizer.step()
    state = optimizer.state[model.weight]
    assert (state["row_var"].shape, state["col_var"].shape) == ((4, 1), (1, 6))
    assert (state["row_var"] > 0).all()
    assert (state["col_var"] > 0).all()
    assert int((model.weight == 0).sum()) == 18


@HIDDEN
def test_two_optimizers_of_a_kind_equal_one(hidden):
    def trained(several: bool):
        torch.manual_seed(0)
        model = conv_net()
        sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.Cubic(0.8, end=6, every=2), hidden=hidden))
        parts = [[*model[0].parameters()], [*model[3:].parameters()]] if several else [[*model.parameters()]]
        optimizers = [torch.optim.Adam(part, lr=1e-2, weight_decay=0.1) for part in parts]
        sparsifier.attach(*optimizers)
        for batch in itertools.islice(image_batches(), 9):
            backward(model, batch, *optimizers)
            for optimizer in optimizers:
                optimizer.step()
        hidden_values = sparsifier.state_dict()["hidden"]
        return [*model.parameters(), *(hidden_values[name][model.get_parameter(name) == 0] for name in hidden_values)]

    for several, one in zip(trained(True), trained(False), strict=True):
        assert torch.equal(several, one)


@HIDDEN
@pytest.mark.parametrize(("every", "steps"), [((1, 2), 4), ((2, 1), 8)])
def test_the_last_optimizers_steps_are_counted(hidden, every, steps):
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.Cubic(0.8, end=4, every=1), hidden=hidden))
    optimizers = adam_and_sgd(model)
    sparsifier.attach(*optimizers)
    for number, batch in enumerate(itertools.islice(image_batches(), 8), 1):
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        for optimizer, period in zip(optimizers, every, strict=True):
            if number % period == 0:
                optimizer.step()
                optimizer.zero_grad()
            assert (under_masks(sparsifier) == 0).all()
    assert sparsifier.steps == steps
    assert sparsifier.sparsity() == pytest.approx(0.8, abs=2e-3)


def test_each_optimizers_state_is_cleared_under_new_masks():
    model = nn.ModuleList([nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)])
    for layer in model:
        layer.weight = nn.Parameter(torch.tensor([[1.0, 8.0]]))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9) for layer in model]
    ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5, at=1))).attach(*optimizers)
    for layer, optimizer in zip(model, optimizers, strict=True):
        layer.weight.sum().backward()
        optimizer.step()
    for layer, optimizer in zip(model, optimizers, strict=True):
        assert optimizer.state[layer.weight]["momentum_buffer"].tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("technique", [ow.VariationalDropout(ow.Constant(0.1)), ow.L0(ow.Constant(0.1))], ids=repr)
def test_each_optimizer_adds_the_penalty_gradient_of_its_own_parameters_once(technique):
    def trained(inside: bool):
        torch.manual_seed(0)
        model = conv_net()
        sparsifier = ow.sparsify(model, technique)
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[:3], model[3:])]
        sparsifier.attach(*optimizers, penalty_gradient=inside)
        for x, y in itertools.islice(image_batches(), 4):
            loss = F.cross_entropy(model(x), y)
            (loss if inside else loss + sparsifier.penalty()).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        return model.parameters()

    for inside, outside in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(inside, outside, atol=1e-6, rtol=1e-5)


def test_every_weight_has_one_owner():
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP))
    one, two = adam_and_sgd(model)
    with pytest.raises(ValueError, match=r"the optimizer does not own 3\.weight, 5\.weight; create it after"):
        sparsifier.attach(one)
    with pytest.raises(ValueError, match=r"two of the optimizers own 0\.weight; give each weight to one"):
        sparsifier.attach(one, two, torch.optim.SGD(model[0].parameters()))
    sparsifier.attach(one, two)
    with pytest.raises(ValueError, match="attached already; call detach"):
        sparsifier.attach(one, two)


@HIDDEN
def test_a_closure_gives_the_same_weights_as_a_call_before_the_step(hidden):
    def trained(closures: bool):
        torch.manual_seed(0)
        model = conv_net()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        ow.sparsify(model, ow.GradualMagnitude(RAMP, hidden=hidden)).attach(optimizer)
        for number, batch in enumerate(itertools.islice(image_batches(), 8)):
            if not closures:
                backward(model, batch, optimizer)
                optimizer.step()
            elif number % 2:
                optimizer.step(lambda batch=batch: backward(model, batch, optimizer))
            else:
                optimizer.step(closure=lambda batch=batch: backward(model, batch, optimizer))
        return model.parameters()

    for with_closures, without in zip(trained(True), trained(False), strict=True):
        assert torch.equal(with_closures, without)


@HIDDEN
def test_a_step_that_calls_the_base_classs_step_is_one_step(hidden):
    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            super().step()

    def trained(optimizer_class, learning_rate):
        torch.manual_seed(0)
        model = conv_net()
        optimizer = optimizer_class(model.parameters(), lr=learning_rate)
        sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP, hidden=hidden)).attach(optimizer)
        for batch in itertools.islice(image_batches(), 8):
            backward(model, batch, optimizer)
            optimizer.step()
        assert sparsifier.steps == 8
        return model.parameters()

    # SGD itself has been used, so that torch runs the hooks of its step as well
    for one, two in zip(trained(torch.optim.SGD, 0.2), trained(Twice, 0.1), strict=True):
        torch.testing.assert_close(one, two)


class CallsTheClosure(torch.optim.SGD):
    """Calls it this often in a step: twice as sharpness-aware minimisation does, or never."""

    times = 2

    def step(self, closure=None):
        for _ in range(self.times):
            closure()
        super().step()


def test_a_closure_that_would_see_hidden_values_is_refused():
    model = nn.Linear(2, 1, bias=False)
    optimizer = CallsTheClosure(model.parameters(), lr=0.1)
    ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5), hidden="trained")).attach(optimizer)
    with pytest.raises(ValueError, match="CallsTheClosure calls its closure again within one step"):
        optimizer.step(lambda: model.weight.sum().backward())
    optimizer.times = 0
    with pytest.raises(ValueError, match="CallsTheClosure ignored the closure"):
        optimizer.step(lambda: None)


def test_refused_optimizers_say_why():
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP))
    with pytest.raises(ValueError, match=r"LBFGS cannot be attached: one step evaluates .* take SGD or Adam"):
        sparsifier.attach(torch.optim.LBFGS(model.parameters()))
    with pytest.raises(ValueError, match="Adam has eps=0 and would turn every masked weight into 0 / 0 = NaN"):
        sparsifier.attach(torch.optim.Adam(model.parameters(), eps=0.0))

    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    with pytest.raises(TypeError, match=r"Wrapper runs no step hooks; attach the torch optimizer, .* \.optimizer"):
        sparsifier.attach(Wrapper(torch.optim.Adam(model.parameters())))


@pytest.mark.parametrize("technique", [ow.GradualMagnitude(RAMP), ow.L0(ow.Constant(0.1))], ids=["masks", "L0"])
def test_a_fused_optimizer_under_a_gradient_scaler_equals_a_plain_one(technique):
    def trained(fused: bool):
        torch.manual_seed(0)
        model = conv_net()
        sparsifier = ow.sparsify(model, technique)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=fused)
        sparsifier.attach(optimizer, penalty_gradient=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        for number, (x, y) in enumerate(itertools.islice(image_batches(), 9)):
            loss = F.cross_entropy(model(x), y)
            scaler.scale(loss * float("inf") if number in (2, 5) else loss).backward()
            scaler.step(optimizer)  # leaves unscaling and skipping to a fused optimizer
            scaler.update()
            optimizer.zero_grad()
        assert sparsifier.steps == 7
        return model.parameters()

    for fused, plain in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-4)


def test_sparse_gradients_keep_zeros_and_state_under_the_masks():
    torch.manual_seed(0)
    embedding = nn.Embedding(6, 4, sparse=True)
    sparsifier = ow.sparsify(embedding, ow.GradualMagnitude(ow.Cubic(0.5, end=4, every=2)))
    optimizer = torch.optim.SparseAdam(embedding.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    for _ in range(8):
        embedding(torch.tensor([0, 1, 1, 5])).square().sum().backward()
        embedding(torch.tensor([0, 2])).sum().backward()  # accumulates
        optimizer.step()
        optimizer.zero_grad()
    mask = sparsifier.state_dict()["masks"]["weight"]
    assert int(mask.sum()) == 12
    for tensor in (embedding.weight, *(v for v in optimizer.state[embedding.weight].values() if torch.is_tensor(v))):
        assert (tensor[~mask] == 0).all()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # torch's own, inside Adagrad
@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad"])
def test_other_optimizers_take_sparse_gradients_too(optimizer):
    embedding = nn.Embedding(6, 4, sparse=True)
    settings = {"momentum": 0.9} if optimizer == "SGD" else {}
    optimizer = getattr(torch.optim, optimizer)(embedding.parameters(), lr=0.1, **settings)
    sparsifier = ow.sparsify(embedding, ow.GradualMagnitude(ow.OneShot(0.5, at=2)))
    sparsifier.attach(optimizer)
    for _ in range(5):
        embedding(torch.tensor([0, 1, 1, 5])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert int((embedding.weight == 0).sum()) == 12
