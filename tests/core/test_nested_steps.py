"""Steps within steps, steps that fail, and optimizers that are copied: every completed step is followed once."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.ownership import holder

EVERY_STEP = ow.GradualMagnitude(ow.Constant(0.5, every=1))


class Nested(torch.optim.SGD):
    """Adds 1 to every weight, masked ones too, around a step of SGD; fails where it is told to."""

    fails = ""

    def step(self, closure=None):
        if self.fails == "before":
            raise MemoryError
        loss = super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            parameter.data.add_(1.0)
        if self.fails == "after":
            raise MemoryError
        return loss


def started(kind=Nested, technique=EVERY_STEP):
    torch.optim.SGD([torch.zeros(1)])  # from now on torch runs the hooks of SGD's own step, too
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    optimizer = kind(layer.parameters(), lr=0.1)
    return layer, ow.sparsify(layer, technique).attach(optimizer), optimizer


def step(layer, optimizer):
    optimizer.zero_grad()
    layer.weight.sum().backward()
    optimizer.step()


def gradient_is_masked(layer) -> bool:
    layer.weight.grad = None
    layer.weight.sum().backward()
    return torch.equal(layer.weight.grad != 0, layer.weight != 0)


@pytest.mark.parametrize("kind", [torch.optim.SGD, Nested])
def test_a_closure_that_fails_is_no_step_and_the_next_one_is(kind):
    layer, sparsifier, optimizer = started(kind)

    def fails():
        raise MemoryError

    with pytest.raises(MemoryError) as kept:  # whose traceback keeps the failed call alive
        optimizer.step(fails)
    assert (sparsifier.steps, layer.weight.tolist()) == (0, [[0.0, 0.0, 3.0, 4.0]])
    for number in (1, 2):
        step(layer, optimizer)
        assert sparsifier.steps == number
        assert layer.weight[0, :2].tolist() == [0.0, 0.0]
    assert kept.type is MemoryError


@pytest.mark.parametrize("where", ["before", "after"])
def test_after_a_failure_inside_the_optimizer_the_next_steps_are_followed(where):
    layer, sparsifier, optimizer = started()
    optimizer.fails = where
    with pytest.raises(MemoryError) as kept:
        step(layer, optimizer)
    optimizer.fails = ""
    for number in (1, 2, 3):
        step(layer, optimizer)
        assert sparsifier.steps == number
    assert layer.weight[0, :2].tolist() == [0.0, 0.0]
    assert kept.type is MemoryError


def test_an_optimizer_may_try_its_closure_again_after_it_has_failed():
    class TriesAgain(torch.optim.SGD):
        def step(self, closure):
            try:
                closure()
            except MemoryError:
                closure()
            super().step()

    layer, sparsifier, optimizer = started(TriesAgain)
    fails = iter([True, False])

    def closure():
        if next(fails):
            raise MemoryError
        layer.weight.sum().backward()

    optimizer.step(closure)
    assert (sparsifier.steps, layer.weight[0, :2].tolist()) == (1, [0.0, 0.0])


@pytest.mark.parametrize("kind", [torch.optim.SGD, Nested])
def test_two_sparsifiers_follow_one_optimizer(kind):
    torch.optim.SGD([torch.zeros(1)])
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    one = ow.sparsify(model, EVERY_STEP, select=ow.matching("0.*"))
    two = ow.sparsify(model, ow.RandomPruning(ow.OneShot(0.5)), select=ow.matching("1.*"))
    optimizer = kind(model.parameters(), lr=0.1)
    one.attach(optimizer)
    two.attach(optimizer)

    def closure():
        optimizer.zero_grad()
        model(torch.ones(3, 4)).sum().backward()

    for number in range(1, 5):
        if number % 2:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        assert one.steps == two.steps == number
        assert [int((layer.weight == 0).sum()) for layer in model] == [8, 8]
    one.detach()
    step(model[1], optimizer)
    assert (one.steps, two.steps) == (4, 5)


def test_a_copy_of_an_attached_optimizer_is_followed_by_nobody():
    layer, sparsifier, optimizer = started(torch.optim.SGD)
    step(layer, optimizer)
    twin, twin_optimizer = copy.deepcopy((layer, optimizer))
    assert twin_optimizer.param_groups[0]["params"][0] is twin.weight
    pickled = pickle.loads(pickle.dumps(optimizer))
    for other in (twin_optimizer, pickled):
        weight = other.param_groups[0]["params"][0]
        weight.grad = torch.ones_like(weight)
        other.step()
        assert (weight != 0).all()  # plain steps
    assert (sparsifier.steps, int((layer.weight == 0).sum())) == (1, 2)


def test_a_weight_can_be_sparsified_again_when_nobody_has_its_sparsifier_any_more():
    layer, sparsifier, optimizer = started()
    with pytest.raises(ValueError, match="is being sparsified by GradualMagnitude"):
        ow.sparsify(layer, EVERY_STEP)
    del sparsifier, optimizer
    gc.collect()
    assert not gradient_is_masked(layer)
    ow.sparsify(layer, ow.GradualMagnitude(ow.OneShot(0.75)))
    assert layer.weight.tolist() == [[0.0, 0.0, 0.0, 4.0]]
    assert len(layer.weight._post_accumulate_grad_hooks) == 1
    assert holder(layer, "weight") is None  # nobody has kept this one, either


def test_a_frozen_weight_has_its_gradient_masked_once_it_is_trained():
    layer = nn.Linear(4, 1, bias=False).requires_grad_(False)
    sparsifier = ow.sparsify(layer, EVERY_STEP)
    assert not layer.weight.requires_grad
    layer.requires_grad_(True)
    assert gradient_is_masked(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    layer.requires_grad_(False)
    layer.requires_grad_(True)
    assert gradient_is_masked(layer)
