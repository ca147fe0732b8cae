"""ResNet on CIFAR-10: its width, its learning rates, and the rate of what is learned beside the weights."""

import math
from dataclasses import replace

import pytest
import torch

import openwork as ow
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare
from openwork.study.runs.run import Run
from openwork.study.tasks import cifar10_resnet
from openwork.study.tasks.cifar10_resnet import Cifar10ResNet
from openwork.study.training.loop import train
from tests.study.test_fleet_networks import compare, splits

CPU = torch.device("cpu")
TINY = Cifar10ResNet(depth=18, width=0.05, batch_size=8)
L0 = ow.L0(ow.Constant(1e-3))


@pytest.fixture(autouse=True)
def images(monkeypatch):
    monkeypatch.setattr(cifar10_resnet, "_enlarged", lambda *_: splits(3, 32, 32))


def test_the_width_multiplies_the_channels_and_is_in_the_title():
    assert Cifar10ResNet(width=0.25).title == "ResNet-50 x 0.25, CIFAR-10"
    assert Cifar10ResNet().title == "ResNet-50, CIFAR-10"
    assert [TINY.model().conv1.out_channels, replace(TINY, width=0.1).model().conv1.out_channels] == [3, 6]
    with pytest.raises(ValueError, match=r"width must give the stem a channel, got 0\.001"):
        replace(TINY, width=0.001).model()
    with pytest.raises(ValueError, match="width of Cifar10ResNet must be more than 0, got 0"):
        Run(Cifar10ResNet(width=0.0), None, 1)


def test_the_rate_falls_at_milestones_or_along_half_a_cosine():
    steps = Cifar10ResNet(warm_up=0.1, milestones=(0.3, 0.6))
    assert [steps.learning_rate(p) for p in (0, 0.05, 0.2, 0.3, 0.6)] == pytest.approx([0, 0.05, 0.1, 0.01, 0.001])
    assert replace(steps, warm_up=0.0).learning_rate(0) == 0.1
    assert Cifar10ResNet().learning_rate(0.025) == pytest.approx(0.05 * (1 + math.cos(math.pi * 0.025)) / 2)


@pytest.mark.parametrize("milestones", [(0.5, 0.5), (0.6, 0.3), (0.0,), (1.0,), (30.0, 60.0), (math.nan,)])
def test_milestones_rise_within_the_training(milestones):
    with pytest.raises(ValueError, match=r"milestones must rise within \(0, 1\), as fractions of the steps, got"):
        Cifar10ResNet(milestones=milestones)


@pytest.mark.parametrize(
    ("field", "value"), [("warm_up", -0.1), ("learned_rate", -1.0), ("learned_rate", math.inf), ("width", -1.0)]
)
def test_numbers_out_of_their_range_are_refused_before_anything_begins(field, value):
    with pytest.raises(ValueError, match=f"{field} of Cifar10ResNet must be"):
        Run(replace(TINY, **{field: value}), None, 1)


def moved(rate: float) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the gates and the weights of the first layer have gone after a step."""
    live = prepare(Run(replace(TINY, learned_rate=rate, warm_up=0.0), L0, 1), CPU)
    optimizer = live.run.task.optimizer(live.model, live.sparsifier)
    live.sparsifier.attach(optimizer)
    before = [parameter.detach().clone() for parameter in live.model.parameters()]
    task = live.run.task
    next(train(task, live.model, optimizer, live.objective, steps=1, seed=0, start=0, every=1, device=CPU))
    names = [name for name, _ in live.model.named_parameters()]
    way = dict(zip(names, (a.detach() - b for a, b in zip(live.model.parameters(), before, strict=True)), strict=True))
    return way["conv1.reparam.weight.log_alpha"], way["conv1.weight"]


def test_gates_move_by_their_own_rate_and_weights_as_before():
    (gates, weights), (faster, same) = moved(1.0), moved(10.0)
    torch.testing.assert_close(faster, 10 * gates, rtol=1e-4, atol=3e-6)  # 10 roundings of a gate near 2.2
    assert torch.equal(weights, same)


def test_in_a_fleet_gates_have_their_own_rate_too(tmp_path):
    compare([Run(replace(TINY, learned_rate=20.0), L0, 2, seed) for seed in range(2)], tmp_path, steps=2, rtol=0.02)


def test_a_rate_of_what_is_not_learned_is_refused(tmp_path):
    pruned = Run(replace(TINY, learned_rate=10.0), ow.GradualMagnitude(ow.OneShot(0.5, at=1)), 1)
    with pytest.raises(ValueError, match="learned_rate is 10, and nothing is learned beside the weights; leave it out"):
        execute(pruned, tmp_path)
