"""Optimizers that wrap others: each step is followed once, or they are refused by name; and attach is atomic."""

import itertools
from collections import OrderedDict

import pytest
import torch
from torch import nn

import openwork as ow

RAMP = ow.Cubic(0.75, begin=2, end=8, every=1)
STEPS = 12


class Wrapper(torch.optim.Optimizer):
    """Shares the parameters of the optimizer inside; a base for wrappers that do not call super().__init__()."""

    def __init__(self, inside):
        self.inside, self.state = inside, {}
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
        self._patch_step_function()

    @property
    def param_groups(self):
        return self.inside.param_groups

    def zero_grad(self, set_to_none=True):
        self.inside.zero_grad(set_to_none)

    def step(self, closure=None):
        return self.inside.step(closure)

    def parameters(self):
        return [parameter for group in self.param_groups for parameter in group["params"]]


class SlowWeights(Wrapper):
    """Lookahead: every third step ends halfway between slow weights and those of the optimizer inside."""

    count = 0

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in self.parameters():
            self.state.setdefault(parameter, {"slow": parameter.clone()})
        loss = self.inside.step(closure)
        self.count += 1
        for parameter in self.parameters() if self.count % 3 == 0 else []:
            slow = self.state[parameter]["slow"]
            parameter.copy_(slow.lerp_(parameter, 0.5))
        return loss


class TwoSteps(Wrapper):
    """SAM: steps from where the weights are, by the gradient of where the loss is higher."""

    @torch.no_grad()
    def first_step(self):
        for parameter in self.parameters():
            self.state[parameter] = {"before": parameter.clone()}
            parameter.add_(parameter.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for parameter in self.parameters():
            parameter.copy_(self.state[parameter].pop("before"))
        self.inside.step()
        self.zero_grad()

    def step(self, closure=None):
        self.first_step()
        with torch.enable_grad():
            loss = closure()
        self.second_step()
        return loss


class EveryOther(Wrapper):
    """Accumulates: only every second of its steps is one of the optimizer inside."""

    count = 0

    def step(self, closure=None):
        self.count += 1
        if self.count % 2 == 0:
            self.inside.step(closure)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=1e-2)


def backward(model, number):
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(number))
    loss = (model(x) - 1).square().mean()
    loss.backward()
    return loss


def plainly(model, optimizer, number):
    backward(model, number)
    optimizer.step()
    optimizer.zero_grad()


def with_closure(model, optimizer, number):
    backward(model, number)
    optimizer.step(lambda: backward(model, number))
    optimizer.zero_grad()


def in_two_steps(model, optimizer, number):
    backward(model, number)
    optimizer.first_step()
    backward(model, number)
    optimizer.second_step()


def real_sparsity(model):
    return (int((model[0].weight == 0).sum()) + int((model[2].weight == 0).sum())) / 96


def under_masks(sparsifier):
    masks = sparsifier.masks()
    return torch.cat([w.parameter.detach()[~masks[w.name]] for w in sparsifier.weights])


@pytest.mark.parametrize(
    ("wrap", "step"),
    [
        (SlowWeights, plainly),
        (SlowWeights, with_closure),
        (TwoSteps, with_closure),
        (TwoSteps, in_two_steps),
        (lambda inside: SlowWeights(SlowWeights(inside)), plainly),
        (lambda inside: SlowWeights(TwoSteps(inside)), with_closure),
    ],
)
def test_each_step_of_a_wrapper_is_counted_once_and_leaves_zeros(wrap, step):
    model = net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP))
    optimizer = wrap(adam(model))
    sparsifier.attach(optimizer)
    for number in range(1, STEPS + 1):
        step(model, optimizer, number)
        assert (under_masks(sparsifier) == 0).all()
        assert (sparsifier.steps, sparsifier.sparsity()) == (number, real_sparsity(model))
    assert sparsifier.sparsity() == 0.75


def test_learned_sparsity_counts_the_steps_of_wrappers_too():
    model = net()
    sparsifier = ow.sparsify(model, ow.VariationalDropout(ow.Constant(1e-3)))
    optimizer = TwoSteps(adam(model))
    sparsifier.attach(optimizer)
    for number in range(STEPS):
        in_two_steps(model, optimizer, number)
    assert sparsifier.steps == STEPS


def test_evidence_is_the_gradient_of_the_inner_step():
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 1.0]]))
    sparsifier = ow.sparsify(model, ow.Movement(ow.OneShot(0.5, at=1)))
    optimizer = TwoSteps(torch.optim.SGD(model.parameters(), lr=0.1))
    sparsifier.attach(optimizer)
    model.weight.grad = torch.tensor([[9.0, 0.0]])  # by which the first weight would have the score -27
    optimizer.first_step()
    model.weight.grad = torch.tensor([[0.0, 9.0]])  # by which the second one has -9
    optimizer.second_step()
    assert sparsifier.masks()["weight"].tolist() == [[True, False]]


def test_slow_weights_are_masked_with_the_weights():
    model = net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.75, at=4)))
    optimizer = SlowWeights(adam(model))
    sparsifier.attach(optimizer)
    for number in range(5):
        plainly(model, optimizer, number)
    for weight in sparsifier.weights:
        masked = ~sparsifier.masks()[weight.name]
        assert (optimizer.state[weight.parameter]["slow"][masked] == 0).all()
        assert (optimizer.inside.state[weight.parameter]["exp_avg"][masked] == 0).all()


def test_a_call_of_a_wrapper_without_a_step_inside_is_no_step():
    model = net()
    optimizer = EveryOther(adam(model))
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP)).attach(optimizer)
    for number in range(8):
        plainly(model, optimizer, number)
    assert sparsifier.steps == 4


def test_an_optimizer_whose_wrapper_moves_masked_weights_is_refused_by_name():
    model = net()
    inside = adam(model)
    optimizer = SlowWeights(inside)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.75, at=1))).attach(inside)
    for number in range(3):
        plainly(model, optimizer, number)
    with pytest.raises(ValueError, match=r"Adam runs inside SlowWeights, .* detach\(\) and attach the SlowWeights"):
        plainly(model, optimizer, 3)
    sparsifier.detach()
    sparsifier.attach(optimizer)
    for number in range(4, 8):
        plainly(model, optimizer, number)
        assert (under_masks(sparsifier) == 0).all()


def test_an_optimizer_whose_wrapper_leaves_zeros_alone_may_be_attached_itself():
    model = net()
    inside = adam(model)
    optimizer = TwoSteps(inside)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP)).attach(inside)
    for number, step in zip(range(1, STEPS + 1), itertools.cycle([in_two_steps, with_closure]), strict=False):
        step(model, optimizer, number)
        assert (sparsifier.steps, bool((under_masks(sparsifier) == 0).all())) == (number, True)


def test_a_failed_step_of_a_wrapper_is_none_and_the_next_one_is():
    model = net()
    optimizer = SlowWeights(adam(model))
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP)).attach(optimizer)

    def fails():
        raise MemoryError

    with pytest.raises(MemoryError) as kept:  # whose traceback keeps the failed call alive
        optimizer.step(fails)
    plainly(model, optimizer, 0)
    with_closure(model, optimizer, 1)
    assert kept is not None
    assert sparsifier.steps == 2


def test_a_wrapper_that_fails_around_the_inner_step_does_not_hide_the_next_one():
    class Fails(Wrapper):
        fails = True

        def step(self, closure=None):
            super().step(closure)
            if self.fails:
                raise MemoryError

    model = net()
    optimizer = Fails(adam(model))
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP)).attach(optimizer)
    backward(model, 0)
    with pytest.raises(MemoryError) as kept:
        optimizer.step()
    optimizer.fails = False
    plainly(model, optimizer, 1)
    assert kept is not None
    assert sparsifier.steps == 1


def test_a_state_that_the_optimizer_inside_loads_is_masked_at_the_next_step():
    model = net()
    optimizer = SlowWeights(adam(model))
    plainly(model, optimizer, 0)
    dense = {"slow": optimizer.state, "inside": optimizer.inside.state_dict()}
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.75))).attach(optimizer)
    plainly(model, optimizer, 1)
    optimizer.inside.load_state_dict(dense["inside"])
    plainly(model, optimizer, 2)
    masked = ~sparsifier.masks()["0.weight"]
    assert (optimizer.inside.state[model[0].weight]["exp_avg"][masked] == 0).all()


@pytest.mark.parametrize("wrap", [SlowWeights, TwoSteps])
def test_hidden_values_that_a_wrapper_would_see_are_refused(wrap):
    model = net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP, hidden="trained"))
    with pytest.raises(ValueError, match=r"reads and writes weights around the step of Adam, .* take hidden='frozen'"):
        sparsifier.attach(wrap(adam(model)))
    sparsifier.attach(adam(model))


def test_an_optimizer_that_steps_inside_backward_is_refused():
    class Fused(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

    model = net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP))
    with pytest.raises(ValueError, match=r"Fused has no step\(\) and moves weights inside backward\(\)"):
        sparsifier.attach(Fused(model.parameters()))


class Unhooked(Wrapper):
    """Has the dictionaries of hooks, but a step that runs none."""

    def __init__(self, inside):
        self.inside, self.state = inside, {}
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = OrderedDict(), OrderedDict()


class HalfHooked(torch.optim.SGD):
    """Takes one hook and refuses the next."""

    def register_step_post_hook(self, hook):
        raise RuntimeError("no more hooks")


@pytest.mark.parametrize(
    ("second", "error"),
    [
        (lambda layer: Unhooked(torch.optim.SGD(layer.parameters())), TypeError),
        (lambda layer: HalfHooked(layer.parameters()), RuntimeError),
        (lambda layer: torch.optim.LBFGS(layer.parameters()), ValueError),
        (lambda layer: torch.optim.Adam(layer.parameters(), eps=0.0), ValueError),
        (lambda layer: SlowWeights(torch.optim.LBFGS(layer.parameters())), ValueError),
        (lambda layer: torch.optim.lr_scheduler.LinearLR(torch.optim.SGD(layer.parameters())), TypeError),
        (lambda layer: torch.optim.SGD([torch.zeros(1, requires_grad=True)]), ValueError),
        (lambda layer: layer.parameters(), TypeError),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_attach_that_fails_leaves_nothing_attached(second, error, first):
    model = net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP))
    one, two = (torch.optim.SGD(model[place].parameters(), lr=0.1) for place in (0, 2))
    bad = second(model[0 if first else 2])
    with pytest.raises(error):
        sparsifier.attach(*((bad, two) if first else (one, bad)))
    for optimizer in (one, two):
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
        assert not optimizer._optimizer_load_state_dict_post_hooks
    sparsifier.attach(one, two)
    for number in range(1, STEPS + 1):
        backward(model, number)
        for optimizer in (one, two):
            optimizer.step()
            optimizer.zero_grad()
        assert sparsifier.steps == number
    assert real_sparsity(model) == 0.75


def test_a_mechanism_that_refuses_leaves_nothing_attached(monkeypatch):
    model = net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(RAMP))
    optimizer = adam(model)

    def refuse(optimizers):
        raise ValueError("not today")

    with monkeypatch.context() as patch:
        patch.setattr(sparsifier._mechanism, "attached", refuse)
        with pytest.raises(ValueError, match="not today"):
            sparsifier.attach(optimizer)
    sparsifier.attach(optimizer)
    for number in range(3):
        plainly(model, optimizer, number)
    assert sparsifier.steps == 3
