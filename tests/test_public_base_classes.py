"""Each public base class has a subclass here, written with nothing but `import openwork as ow`, and at work."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import openwork as ow


@dataclass(frozen=True)
class Signs(ow.Evidence):
    """How often the gradient was positive less how often it was negative."""

    def begin(self, weight: Tensor) -> dict[str, Tensor]:
        return {"signs": torch.zeros_like(weight)}

    def gradient(self, kept: dict[str, Tensor], weight: Tensor, gradient: Tensor) -> None:
        kept["signs"] += gradient.sign()


@dataclass(frozen=True)
class Steady(ow.MaskTechnique):
    """Keeps the weights whose gradients had the same sign most often."""

    evidence: ClassVar[ow.Evidence] = Signs(gradients="every step")

    def scores(self, view: ow.View) -> Tensor:
        return view.evidence["signs"].abs() + view.uniform() / 2


@dataclass(frozen=True)
class Stairs(ow.Schedule):
    """One step down at a time: half of the way at step 2, all of it at step 4."""

    final: float

    def __call__(self, step: int) -> float:
        return self.final * min(step // 2, 2) / 2

    def due(self, step: int) -> bool:
        return step in (2, 4)


@dataclass(frozen=True)
class AtLeastTheMean(ow.Criterion):
    """Every tensor keeps the scores that reach the schedule's value times their mean."""

    def check(self, schedule, allocation):
        if schedule.final < 0:
            raise ValueError(f"a factor of the mean must be >= 0, got {schedule.final}; give final >= 0")

    def keep(self, scores, value, schedule, allocation, groups):
        return {name: int((score >= value * score.mean()).sum()) for name, score in scores.items()}


@dataclass(frozen=True)
class FirstTensorsMore(ow.Allocation):
    """The first tensor stays dense, the others are pruned."""

    def __call__(self, scores, sparsity, final, groups=None):
        first, *_ = scores
        return {name: s.numel() if name == first else int(s.numel() * (1 - sparsity)) for name, s in scores.items()}


@dataclass(frozen=True)
class LowerTriangle(ow.Pattern):
    """Zeros above the diagonal only: the kept ones of it have the best scores."""

    def misfit(self, shape):
        return "" if len(shape) == 2 and shape[0] == shape[1] else "it is not square"

    def group(self, shape):
        return 1

    def group_scores(self, scores):
        below = torch.ones_like(scores, dtype=torch.bool).tril()
        return torch.where(below, torch.inf, scores)

    def mask(self, scores, keep, generator):
        mask = torch.zeros(scores.numel(), dtype=torch.bool)
        mask[scores.flatten().topk(keep).indices] = True
        return mask.view_as(scores)


class Halved(ow.ReparameterizedWeight):
    """Half of the weight, with noise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))

    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.effective(weight) + 1e-3 * torch.randn(weight.shape, generator=generator)

    def effective(self, weight: Tensor) -> Tensor:
        return torch.where(weight.abs() < 1, 0.0, weight * self.log_scale.exp() / 2)

    def penalty(self, weight: Tensor) -> Tensor:
        return weight.square().sum()


@dataclass(frozen=True)
class Halve(ow.Reparameterization):
    def distribution(self, weight: Tensor, generator: torch.Generator) -> ow.ReparameterizedWeight:
        return Halved()


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))


def trained(technique: ow.MaskTechnique | ow.Reparameterization, steps: int = 5) -> ow.Sparsifier:
    model = net()
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier.attach(optimizer)
    for _ in range(steps):
        (model(torch.randn(8, 6)).square().sum() + sparsifier.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return sparsifier


def zeros(model: nn.Module) -> list[int]:
    return [int((p == 0).sum()) for p in model.parameters() if p.dim() == 2]


def test_a_technique_with_evidence_of_its_own_follows_a_schedule_of_its_own():
    assert zeros(trained(Steady(Stairs(0.5)), steps=1).model) == [0, 0, 0]
    assert zeros(trained(Steady(Stairs(0.5)), steps=3).model) == [9, 9, 3]
    sparsifier = trained(Steady(Stairs(0.5)))
    assert zeros(sparsifier.finalize()) == [18, 18, 6]


def test_evidence_of_ones_own_is_saved_with_the_state():
    technique = Steady(Stairs(0.5))
    one, two = trained(technique), ow.sparsify(net(), technique)
    two.load_state_dict(one.state_dict())
    saved = [sparsifier.state_dict()["evidence"]["2.weight"]["signs"] for sparsifier in (one, two)]
    assert torch.equal(*saved)
    assert saved[0].abs().max() > 1


def test_a_criterion_of_ones_own():
    model = nn.Linear(4, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -2.0, 3.0, 6.0]])
    ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(1.0), criterion=AtLeastTheMean())).finalize()
    assert model.weight.tolist() == [[0.0, 0.0, 3.0, 6.0]]
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        ow.GradualMagnitude(ow.OneShot(-1.0), criterion=AtLeastTheMean())


def test_an_allocation_of_ones_own():
    technique = ow.GradualMagnitude(ow.OneShot(0.5), allocation=FirstTensorsMore())
    assert zeros(trained(technique).finalize()) == [0, 18, 6]


def test_a_pattern_of_ones_own():
    technique = ow.GradualMagnitude(ow.OneShot(0.25), pattern=LowerTriangle())
    sparsifier = trained(technique)
    assert sparsifier.skipped == {"4.weight": "it is not square"}
    assert zeros(sparsifier.finalize())[:2] == [9, 9]
    assert all((sparsifier.model[place].weight.tril() != 0).sum() == 21 for place in (0, 2))


@pytest.mark.filterwarnings("ignore:.* keeps no weight")  # so small are these layers
def test_a_reparameterization_of_ones_own():
    technique = Halve(ow.Constant(1e-3))
    model = net()
    with torch.no_grad():
        model[0].weight[:3] = 2.0
    sparsifier = ow.sparsify(model, technique)
    squares = sum(float(weight.parameter.detach().square().sum()) for weight in sparsifier.weights)
    assert float(sparsifier.penalty().detach()) == pytest.approx(1e-3 * squares)
    assert sparsifier.layer_sparsity()["0.weight"] == 0.5
    plain = sparsifier.finalize()
    assert type(plain[0]) is nn.Linear
    assert plain[0].weight[:3].tolist() == [[1.0] * 6] * 3
    assert trained(technique).sparsity() > 0.9
