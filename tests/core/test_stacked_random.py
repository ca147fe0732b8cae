"""Random weights of models that are trained as one: each is trained as it would be alone."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import openwork as ow
from openwork.core.stacked import stack, stacked
from openwork.noise import keys
from tests.core.stacked_random_setup import STEPS, Convolutional, Fleet, Perceptron, batches, made, trained_alone

RAMP = {"begin": 5, "end": 20}
TECHNIQUES = {
    "variational dropout": [
        ow.VariationalDropout(ow.Linear(c, **RAMP), log_sigma2=s, threshold=t, clip=m)
        for c, s, t, m in ((1e-3, -6.0, 3.0, 8), (1e-2, -4.0, 3.0, 8), (1e-2, -2.0, 1.0, 4), (3e-2, -3.0, 0.0, 5.5))
    ],
    "variational dropout, clipped": [
        ow.VariationalDropout(ow.Constant(c), log_sigma2=-2.0, threshold=t, train_clip=True)
        for c, t in ((1e-4, 2.0), (1e-3, 2.0), (1e-3, 3.0), (3e-3, 4.0))
    ],
    "L0": [
        ow.L0(ow.Cubic(c, **RAMP), dropout=p, weight_decay=1e-3)
        for c, p in ((1e-4, 0.5), (1e-5, 0.9), (1e-4, 0.91), (1e-3, 0.92))
    ],
    "group L0": [
        ow.GroupL0(ow.Constant(c), dropout=p) for c, p in ((1e-4, 0.5), (1e-5, 0.9), (1e-4, 0.91), (1e-3, 0.92))
    ],
    "soft weight sharing": [ow.SoftWeightSharing(ow.Constant(c), components=4) for c in (1e-5, 1e-4, 1e-3, 1e-2)],
    "STR": [ow.STR(s) for s in (-4.0, -3.0, -2.0, -1.0)],
    "SR-STE": [ow.SRSTE(ow.Constant(c), pattern=ow.NM(1, 2)) for c in (0.0, 2e-4, 1e-2, 0.1)],
    "soft movement": [
        ow.SoftMovement(ow.Cubic(c, **RAMP), tau=t) for c, t in ((1e-3, 0.3), (1e-2, 0.45), (0.1, 0.5), (1.0, 0.55))
    ],
    "Top-KAST": [
        ow.TopKAST(ow.Constant(c), sparsity=0.8, backward_sparsity=0.5, every=4) for c in (0.0, 1e-4, 1e-2, 0.1)
    ],
}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def tolerance(request, monkeypatch):
    """Of what training ends with."""
    torch.set_default_dtype(request.param)
    yield dict.fromkeys(("rtol", "atol"), 1e-3 if request.param == torch.float32 else 1e-10)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", [Perceptron, Convolutional])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_models_that_are_trained_as_one_end_where_each_does_alone(kind, name, tolerance):
    # A mean near zero amplifies rounding, the more so at a high rate, where the last bits would decide.
    rate = 0.005 if name.startswith("variational dropout") else 0.02
    alone, losses = trained_alone(kind, TECHNIQUES[name], rate)
    fleet = Fleet(kind, TECHNIQUES[name])
    torch.testing.assert_close(fleet.train(rate), losses, **tolerance)
    zeros, expected = fleet.mechanism.zeros(), fleet.mechanism.expected_nonzero()
    for member, ((model, sparsifier), (ours, _)) in enumerate(zip(alone, fleet.members, strict=True)):
        theirs = dict(ours.named_parameters())
        for parameter, value in model.named_parameters():
            torch.testing.assert_close(theirs[parameter], value, **tolerance)
        mechanism = sparsifier._mechanism
        assert {weight: int(count[member]) for weight, count in zeros.items()} == mechanism.zeros()
        found = {weight: float(count[member]) for weight, count in expected.items()}
        assert found == pytest.approx(mechanism.expected_nonzero(), rel=1e-3)
    exact = name in ("SR-STE", "Top-KAST")  # which have as many zeros whatever their penalty
    assert len({float(x) for x in (losses if exact else sum(zeros.values()))}) > 1  # the numbers that differ matter


def test_finalized_models_are_those_of_trainings_alone():
    techniques = TECHNIQUES["variational dropout"]
    alone, _ = trained_alone(Perceptron, techniques, 0.005)
    fleet = Fleet(Perceptron, techniques)
    fleet.train(0.005)
    for (_, theirs), (_, ours) in zip(alone, fleet.members, strict=True):
        ours.count_to(STEPS)
        expected = theirs.finalized_copy().state_dict()
        for name, tensor in ours.finalized_copy().state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-3)
        assert ours.sparsity() == theirs.sparsity()


@pytest.mark.parametrize("name", TECHNIQUES)
def test_what_make_fx_traces_computes_the_gradients_of_other_tensors_and_keys(name):
    fleet = Fleet(Convolutional, TECHNIQUES[name])
    batch, other = list(batches())[:2]
    of_keys = [keys(torch.arange(4), step) for step in range(2)]
    traced = make_fx(lambda *arguments: fleet.gradients(*arguments))(
        fleet.parameters, fleet.mechanism.inputs, of_keys[0], batch
    )
    moved = {name: parameter + 0.1 for name, parameter in fleet.parameters.items()}
    inputs = {name: value + 0.1 for name, value in fleet.mechanism.inputs.items()}
    found, losses = traced(moved, inputs, of_keys[1], other)
    expected, expected_losses = fleet.gradients(moved, inputs, of_keys[1], other)
    torch.testing.assert_close(losses, expected_losses)
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_the_first_model_is_itself_again_after_it_has_computed_for_all(name):
    fleet = Fleet(Perceptron, TECHNIQUES[name])
    model, sparsifier = fleet.members[0]
    before = dict(model.named_parameters())
    technique, coefficient = sparsifier.technique, sparsifier._mechanism._coefficient
    x, y = next(batches())
    with pytest.raises(ValueError, match="batch"):  # a batch of another size than its labels
        fleet.gradients(fleet.parameters, fleet.mechanism.inputs, keys(torch.arange(4), 0), (x, y[:3]))
    fleet.train(0.02)
    fleet.mechanism.zeros()
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[name] is parameter for name, parameter in before.items())
    assert sparsifier._mechanism._coefficient is coefficient
    own = [d.technique for d in sparsifier._mechanism.distributions if hasattr(d, "technique")]
    assert all(each is technique for each in own)


def test_a_model_of_nan_does_not_disturb_the_others():
    name = "group L0"
    clean, spoiled = (Fleet(Convolutional, TECHNIQUES[name]) for _ in range(2))
    with torch.no_grad():
        spoiled.parameters["conv.weight"][1] = torch.nan
    found, expected = spoiled.train(0.02), clean.train(0.02)
    others = [0, 2, 3]
    assert found.isnan().tolist() == [False, True, False, False]
    assert torch.equal(found[others], expected[others])
    for name, parameter in clean.parameters.items():
        assert torch.equal(spoiled.parameters[name][others], parameter[others])
    counts = [fleet.mechanism.zeros()["fc.weight"][others].tolist() for fleet in (spoiled, clean)]
    assert counts[0] == counts[1]


class Counted(ow.Constant):
    """A schedule that counts its calls."""

    calls = 0

    def __call__(self, step):
        type(self).calls += 1
        return super().__call__(step)


def test_equal_schedules_are_asked_once_and_not_after_their_end():
    fleet = Fleet(Perceptron, [ow.L0(Counted(c)) for c in (0.1, 0.1, 0.2, 0.1)])
    Counted.calls = 0
    for step in range(1, 100):
        fleet.mechanism.update(step)
    assert Counted.calls <= 4  # two schedules, which are seen to stand still at their second step
    assert fleet.mechanism.inputs["coefficient"].tolist() == pytest.approx([0.1, 0.1, 0.2, 0.1])


@pytest.mark.parametrize(
    "schedule",
    [
        ow.Linear(1.0, begin=2, end=6),
        ow.Cubic(1.0, begin=0, end=5, initial=0.5),
        ow.AveragedCubic(1.0, begin=2, end=6),  # which still moves after its end
        ow.Constant(0.5),
        ow.Constant(0.5, every=2),
        ow.OneShot(1.0, at=4),
    ],
    ids=str,
)
def test_coefficients_are_those_of_each_model_at_each_step(schedule):
    schedules = [schedule, ow.Linear(2.0, end=9), schedule, ow.Constant(0.0)]
    fleet = Fleet(Perceptron, [ow.L0(each) for each in schedules])
    for step in range(1, 60):
        fleet.mechanism.update(step)
        expected = torch.tensor([each(step) for each in schedules])
        assert torch.equal(fleet.mechanism.inputs["coefficient"], expected), step
    for (_, sparsifier), value in zip(fleet.members, expected, strict=True):
        assert sparsifier._mechanism._coefficient == value


def test_counts_do_not_depend_on_how_many_weights_are_counted_at_once(monkeypatch):
    fleet = Fleet(Perceptron, TECHNIQUES["variational dropout"])
    fleet.train(0.02)
    at_once = fleet.mechanism.zeros(), fleet.mechanism.expected_nonzero()
    monkeypatch.setattr("openwork.core.parameters.stacked._AT_ONCE", 1500)  # two models of 656 weights
    for found, expected in zip((fleet.mechanism.zeros(), fleet.mechanism.expected_nonzero()), at_once, strict=True):
        assert {name: count.tolist() for name, count in found.items()} == {
            name: count.tolist() for name, count in expected.items()
        }


class Ranged(ow.ReparameterizedWeight):
    """A weight times a learned scale, which stays above a running mean of itself, and whose range differs."""

    def __init__(self, weight, technique):
        super().__init__()
        self.technique = technique
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("mean", torch.zeros(()))

    def sample(self, weight, generator=None):
        return weight * self.scale

    def effective(self, weight):
        return torch.where(weight.abs() < 0.05, 0.0, weight * self.scale)

    def follow(self, weight, step, coefficient):
        self.mean.lerp_(self.scale, 0.1)
        self.scale.clamp_(min=self.mean, max=torch.as_tensor(self.technique.most, dtype=self.scale.dtype))


@dataclass(frozen=True)
class Scaled(ow.Reparameterization):
    """A technique of a user: no penalty, a buffer, and a range that differs between models."""

    penalised: ClassVar[bool] = False
    varying: ClassVar[tuple[str, ...]] = ("coefficient", "most")
    most: float = field(default=1.0, kw_only=True)
    kind: str = field(default="", kw_only=True)

    def distribution(self, weight, generator):
        return Ranged(weight, self)


def test_a_users_technique_with_a_buffer_and_a_range_of_its_own_is_stacked():
    techniques = [Scaled(most=most) for most in (0.9, 1.05, 2.0, 1.0)]
    alone, losses = trained_alone(Perceptron, techniques, 0.02)
    fleet = Fleet(Perceptron, techniques)
    torch.testing.assert_close(fleet.train(0.02), losses)
    for (theirs, _), (ours, sparsifier) in zip(alone, fleet.members, strict=True):
        expected = theirs.state_dict()
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, expected[name])
        assert 0 < ours.fc1.reparam.weight.mean < ours.fc1.reparam.weight.scale <= sparsifier.technique.most


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(36, 5)


class Own(Ranged):
    def __init__(self, weight, technique):
        super().__init__(weight, technique)
        self.limit = float(weight.std())


class Bare(Ranged):
    def __init__(self, weight, technique):
        super().__init__(weight, technique)
        self.limit = weight.std()


class Drawing(Ranged):
    def sample(self, weight, generator=None):
        return weight + torch.randn_like(weight)


class Branching(Ranged):
    def cost(self, weight, coefficient):
        return weight.square().sum() if self.technique.most > 1 else weight.new_zeros(())


@dataclass(frozen=True)
class Holding(Scaled):
    def distribution(self, weight, generator):
        return {"own": Own, "bare": Bare, "drawing": Drawing, "branching": Branching}[self.kind](weight, self)


@pytest.mark.parametrize(
    ("kind", "techniques", "message"),
    [
        (Recurrent, [ow.L0(ow.Constant(0.1))] * 2, "cell.weight_ih is a random weight of a recurrent layer"),
        (Perceptron, [ow.VariationalDropout(ow.Constant(0.1), train_clip=c) for c in (0, 1)], "differs in train_clip"),
        (Perceptron, [ow.L0(ow.Constant(0.1), weight_decay=d) for d in (0.0, 0.1)], "L0 differs in weight_decay"),
        (Perceptron, [ow.SoftWeightSharing(ow.Constant(0.1), components=c) for c in (4, 5)], "differs in components"),
        (Perceptron, [ow.L0(ow.Constant(0.1)), ow.GroupL0(ow.Constant(0.1))], "the techniques of these, differ"),
        (Perceptron, [Holding(kind="own")] * 2, "Own.limit is a model's own"),
        (Perceptron, [Holding(kind="bare")] * 2, "Bare.limit is a model's own"),
        (Perceptron, [Holding(kind="drawing")] * 2, "random operation.*; draw by openwork.noise.normal or uniform"),
        (Perceptron, [Holding(kind="branching", most=m) for m in (0.5, 2.0)], "Holding cannot be .* control flow"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_stacked_is_refused_and_stays_as_it_was(kind, techniques, message):
    members = made(kind, techniques)
    coefficients = [sparsifier._mechanism._coefficient.data_ptr() for _, sparsifier in members]
    tensors = [{**dict(model.named_parameters()), **dict(model.named_buffers())} for model, _ in members]
    alike = [n for n, tensor in tensors[0].items() if n in tensors[1] and tensors[1][n].shape == tensor.shape]
    whole = {name: stacked([each[name] for each in tensors]) for name in alike}
    with pytest.raises(ValueError, match=f"{message}.*; train these models one by one$"):
        stack([sparsifier for _, sparsifier in members], whole)
    assert [sparsifier._mechanism._coefficient.data_ptr() for _, sparsifier in members] == coefficients


def test_models_with_other_random_weights_are_refused():
    models = [Perceptron(), Perceptron()]
    selected = ["fc1", "fc2"], ["fc1"]
    sparsifiers = [ow.sparsify(m, ow.L0(ow.Constant(0.1)), select=s) for m, s in zip(models, selected, strict=True)]
    with pytest.raises(ValueError, match="where their random weights, or the techniques of these, differ"):
        stack(sparsifiers, {})
