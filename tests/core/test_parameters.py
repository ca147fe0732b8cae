"""A user's techniques whose weights are computed from learned parameters."""

import logging
import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import openwork as ow


class Halved(ow.ReparameterizedWeight):
    """Half of the weight times a learned scale; small ones are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def sample(self, weight, generator=None):
        return 0.5 * self.scale * weight

    def effective(self, weight):
        return torch.where(weight.abs() < 1, 0.0, 0.5 * self.scale * weight)


@dataclass(frozen=True)
class Halving(ow.Reparameterization):
    penalised: ClassVar[bool] = False

    def distribution(self, weight, generator):
        return Halved()


def test_weights_that_are_computed_but_not_penalised_need_no_coefficient():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[4.0, 0.5]]))
    sparsifier = ow.sparsify(layer, Halving())
    assert float(sparsifier.penalty()) == 0
    assert layer(torch.ones(1, 2)).item() == 2.25
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    (layer(torch.ones(1, 2)).sum() + sparsifier.penalty()).backward()
    optimizer.step()  # the scale's gradient is 2.25, the weights' 0.5
    assert sparsifier.masks()["weight"].tolist() == [[True, False]]
    torch.testing.assert_close(sparsifier.finalize().weight.data, torch.tensor([[0.5 * 0.775 * 3.95, 0.0]]))


@pytest.mark.parametrize("kind", [ow.VariationalDropout, ow.L0, ow.GroupL0, ow.SoftWeightSharing])
def test_weights_that_are_penalised_need_a_coefficient(kind):
    with pytest.raises(TypeError, match=rf"^{kind.__name__} needs a coefficient, such as Constant\(1e-4\)$"):
        kind()


def test_weights_without_a_penalty_decay_like_others():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    sparsifier = ow.sparsify(model, Halving())
    (decayed,) = sparsifier.parameter_groups(0.1)
    assert decayed["weight_decay"] == 0.1
    assert len(decayed["params"]) == len(list(model.parameters())) == 5  # two weights, a bias and two scales


def test_the_gradient_of_a_penalty_that_does_not_exist_can_come_from_the_optimizer_hook():
    layer = nn.Linear(2, 1, bias=False)
    sparsifier, parameter = ow.sparsify(layer, Halving()), next(layer.parameters())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    sparsifier.attach(optimizer, penalty_gradient=True)
    before = parameter.detach().clone()
    layer(torch.ones(1, 2)).sum().backward()  # the gradient of both weights is 0.5
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), before - 0.25)
    assert sparsifier.steps == 1


def test_the_penalty_of_frozen_layers_whose_gradient_the_optimizer_hook_takes_moves_nothing():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    sparsifier = ow.sparsify(model, ow.L0(ow.Constant(1.0)), select="0")
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    sparsifier.attach(optimizer, penalty_gradient=True)
    before = {name: tensor.clone() for name, tensor in model[0].state_dict().items()}
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model[0].state_dict().items())


def trained_with_hooks(hook, *, steps_in_backward):
    """The weights after two steps whose optimizers add the penalty, with a user's post-accumulate hook on each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    sparsifier = ow.sparsify(model, ow.L0(ow.Constant(1.0)))
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    sparsifier.attach(*reversed(optimizers.values()), penalty_gradient=True)

    def step(parameter):
        hook(parameter)
        if steps_in_backward:
            optimizers[parameter].step()
            optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    for _ in range(2):
        model(torch.ones(2, 4)).square().sum().backward()
        for optimizer in () if steps_in_backward else reversed(optimizers.values()):
            optimizer.step()
            optimizer.zero_grad()
    assert sparsifier.steps == 2
    return [p.detach() for p in model.parameters()]


def test_post_accumulate_hooks_of_others_run_once_where_the_optimizer_takes_the_penalty():
    called = []
    trained_with_hooks(called.append, steps_in_backward=False)
    assert len(called) == 2 * 6  # two steps; two weights, two biases, two log_alpha


def test_optimizers_that_step_in_the_backward_pass_take_the_penalty_once():
    fused = trained_with_hooks(lambda p: None, steps_in_backward=True)
    plain = trained_with_hooks(lambda p: None, steps_in_backward=False)
    assert all(torch.equal(*pair) for pair in zip(fused, plain, strict=True))


class Pulled(Halved):
    def penalty(self, weight):
        return weight.abs().sum()


@dataclass(frozen=True)
class Pulling(Halving):
    penalised: ClassVar[bool] = True
    prior: ClassVar[bool] = False

    def distribution(self, weight, generator):
        return Pulled()


def test_weights_whose_penalty_is_no_prior_decay_and_what_is_learned_besides_does_not():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    decayed, others = ow.sparsify(model, Pulling(ow.Constant(0.1))).parameter_groups(0.1)
    assert [len(group["params"]) for group in (decayed, others)] == [3, 2]  # two weights and a bias; two scales
    assert all(parameter.shape == () for parameter in others["params"])


class Following(Halved):
    def __init__(self):
        super().__init__()
        self.seen = []

    def follow(self, weight, step, coefficient):
        self.seen.append((step, float(coefficient), weight.sum().item(), self.layout.shape))


@dataclass(frozen=True)
class Follower(Pulling):
    def distribution(self, weight, generator):
        return Following()


def test_a_distribution_follows_every_step_with_the_weight_the_coefficient_to_come_and_the_layout():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[4.0, 0.5]]))
    sparsifier = ow.sparsify(layer, Follower(ow.Linear(1.0, end=4)))
    parameter, optimizer = next(layer.parameters()), torch.optim.SGD(layer.parameters(), lr=1.0)
    sparsifier.attach(optimizer)
    for _ in range(2):
        parameter.grad = torch.ones(1, 2)
        optimizer.step()
    seen = sparsifier.mechanism.distributions[0].seen
    assert seen == [(0, 0.0, 4.5, (1, 1, 2)), (1, 0.25, 2.5, (1, 1, 2)), (2, 0.5, 0.5, (1, 1, 2))]
    sparsifier.load_state_dict(sparsifier.state_dict())
    assert seen[3:] == seen[2:3]


@pytest.mark.parametrize(
    ("technique", "said"),
    [
        (
            ow.GroupL0(ow.Constant(1.0)),
            r"GroupL0 .* by 50\.\d % of their norm .*, those of \d.weight by (50|49)\.\d %$",
        ),
        (ow.GroupL0(ow.Constant(1.0), dropout=0.05), r"GroupL0 .* by 0\.0 % .*, those of \d.weight by 0\.0 %$"),
        (ow.L0(ow.Constant(1.0)), r"L0 .* by 2\.0 % .*, those of \d.weight by 2\.\d %$"),
        (ow.SoftWeightSharing(ow.Constant(1.0)), r"SoftWeightSharing .* by 100\.0 % .* those of 0.weight by 100\.0 %$"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_logger_says_what_a_trained_model_computes_now(technique, said, dtype, caplog):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 2)).to(dtype)
    with caplog.at_level(logging.INFO, logger="openwork"):
        ow.sparsify(model, technique)
    (found,) = (text for text in caplog.messages if ": selected " not in text)
    assert re.search(said, found)
    caplog.clear()
    ow.sparsify(nn.Linear(2, 2), technique)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
