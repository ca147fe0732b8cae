"""A call that raises leaves model, optimizer and sparsifier as they were, bit for bit."""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from openwork.core.masks.check import DivergedError
from tests.core.everything import Everything
from tests.helpers import conv_net, image_batches, train_step

HALF = ow.OneShot(0.5)
RAMP = ow.Cubic(0.8, end=8, every=2)


def used_net():
    """A model in the middle of things: gradients, statistics, a frozen weight, layers in evaluation mode."""
    torch.manual_seed(0)
    model = nn.Sequential(conv_net(), nn.BatchNorm1d(5))
    model(torch.randn(4, 2, 6, 6)).square().sum().backward()
    model[0][5].requires_grad_(False)
    model[0][3].eval()
    return model


def refused(error, model, call, *others, match=None):
    """The call raises and changes nothing."""
    everything = Everything(model, *others)
    with pytest.raises(error, match=match):
        call()
    everything.assert_unchanged()


@dataclass(frozen=True)
class Faulty(ow.MaskTechnique):
    """Fails in the way it is told to, at steps from ``since`` on."""

    how: str = "raises"
    since: int = 0

    def scores(self, view):
        if view.step < self.since or view.name.endswith("0.weight"):  # the first layer is fine
            return view.weight.abs()
        if self.how == "raises":
            raise KeyError("lost")
        if self.how == "shape":
            return view.weight.abs().flatten()
        return torch.full_like(view.weight, math.nan)


@dataclass(frozen=True)
class Missing(ow.Unstructured):
    """Keeps one weight more than it should."""

    def mask(self, scores, keep, generator):
        return super().mask(scores, keep + 1, generator)


@dataclass(frozen=True)
class Flat(ow.Unstructured):
    def mask(self, scores, keep, generator):
        return super().mask(scores, keep, generator).flatten()


@dataclass(frozen=True)
class BadCoefficient(ow.Schedule):
    final: float = 0.1

    def __call__(self, step):
        raise KeyError("lost")

    def due(self, step):
        return False


def backward(model):
    model(torch.randn(4, 2, 6, 6)).square().sum().backward()


def backward_then_fail(model):
    backward(model)
    raise KeyError("lost")


@pytest.mark.parametrize(
    ("error", "technique", "settings"),
    [
        (TypeError, ow.GradualMagnitude, {}),
        (ValueError, ow.GradualMagnitude(HALF), {"select": ow.matching("nothing")}),
        (ValueError, ow.GradualMagnitude(HALF, pattern=ow.NM(2, 4)), {"select": ow.matching("0.0.*")}),
        (ValueError, ow.GradualMagnitude(ow.OneShot(0.99), pattern=ow.Rows()), {}),
        (ValueError, ow.GradualMagnitude(HALF, allocation=ow.PerLayer({"none": 0.5})), {}),
        (RuntimeError, ow.GradualMagnitude(HALF, pattern=Missing()), {}),
        (RuntimeError, ow.GradualMagnitude(HALF, pattern=Flat()), {}),
        (KeyError, Faulty(HALF), {}),
        (TypeError, Faulty(HALF, how="shape"), {}),
        (DivergedError, Faulty(HALF, how="nan"), {}),
        (ValueError, ow.SNIP(HALF), {}),
        (ValueError, ow.SNIP(HALF), {"calibrate": backward}),  # a weight is frozen
        (KeyError, ow.SNIP(HALF), {"calibrate": backward_then_fail, "select": ow.matching("0.3.*")}),
        (ValueError, ow.Wanda(HALF), {"calibrate": lambda model: model[0][0](torch.ones(1, 2, 6, 6))}),
        (
            ValueError,
            ow.RigL(ow.Constant(0.5, every=1, stop=4)),
            {"keep_zeros": True, "calibrate": None, "zeros": True},
        ),
        (ValueError, ow.L0(ow.Constant(0.1)), {"keep_zeros": True}),
        (KeyError, ow.VariationalDropout(BadCoefficient()), {}),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, ow.MaskTechnique) else None,
)
def test_sparsify(error, technique, settings):
    model = used_net()
    if settings.pop("zeros", False):
        with torch.no_grad():
            model[0][3].weight.zero_()
    refused(error, model, lambda: ow.sparsify(model, technique, **settings))


def test_sparsify_with_embeddings_that_cannot_be_random_variables():
    for options in ({"max_norm": 1.0}, {"sparse": True}):
        model = nn.Sequential(nn.Linear(3, 3), nn.Embedding(5, 3, **options))
        for technique in (ow.VariationalDropout(ow.Constant(0.1)), ow.L0(ow.Constant(0.1))):
            refused(ValueError, model, lambda m=model, t=technique: ow.sparsify(m, t), match="cannot be a random")


def test_sparsify_what_another_sparsifier_holds():
    for technique in (ow.GradualMagnitude(HALF), ow.VariationalDropout(ow.Constant(0.1))):
        model = conv_net()
        sparsifier = ow.sparsify(model, technique, select=ow.matching("5.*"))
        for other in (ow.GradualMagnitude(HALF), ow.L0(ow.Constant(0.1))):
            refused(ValueError, model, lambda m=model, o=other: ow.sparsify(m, o), sparsifier, match="already")


@pytest.mark.parametrize("technique", [ow.GradualMagnitude(RAMP), ow.L0(ow.Constant(0.1))], ids=["masks", "L0"])
def test_attach(technique):
    model = conv_net()
    sparsifier = ow.sparsify(model, technique)
    good = torch.optim.Adam(model.parameters())
    part = torch.optim.Adam(model[0].parameters())
    rest = torch.optim.Adam(model[3:].parameters())
    zero_eps = torch.optim.Adam(model[3:].parameters(), eps=0.0)
    lbfgs = torch.optim.LBFGS(model[3:].parameters())

    class Wrapper(torch.optim.Optimizer):
        def __init__(self):
            self.state, self.param_groups = {}, []

    everybody = sparsifier, good, part, rest, zero_eps, lbfgs
    calls = [(part,), (good, part), (part, lbfgs), (lbfgs,)]
    if isinstance(technique, ow.MaskTechnique):
        calls += [(zero_eps,), (part, zero_eps)]
    for optimizers in calls:
        refused(ValueError, model, lambda o=optimizers: sparsifier.attach(*o), *everybody)
    refused(TypeError, model, lambda: sparsifier.attach(part, Wrapper()), *everybody)
    if isinstance(technique, ow.MaskTechnique):
        weight = model[3].weight
        model[3].weight = nn.Parameter(torch.zeros(3, 3))
        replaced = torch.optim.Adam(model.parameters())
        refused(ValueError, model, lambda: sparsifier.attach(replaced), replaced, match="had the shape")
        model[3].weight = weight
    sparsifier.attach(part, rest)
    refused(ValueError, model, lambda: sparsifier.attach(good), *everybody, match="call detach")
    refused(ValueError, model, sparsifier.step, *everybody, match="leave step")


def prune_metrics(model, fails_at):
    """A metric that raises at its n-th call."""
    calls = iter(range(9))

    def evaluate(model):
        model.eval()
        if next(calls) == fails_at:
            raise KeyError("lost")
        return 0.5

    return evaluate


IMAGES = torch.arange(288.0).sin().view(4, 2, 6, 6)


def broken_batches():
    yield IMAGES
    raise KeyError("lost")


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_prune_with_a_metric_that_fails(fails_at):
    model = used_net()
    evaluate, batches = prune_metrics(model, fails_at), [IMAGES]
    refused(KeyError, model, lambda: ow.prune(model, ow.GradualMagnitude(HALF), evaluate, batches=batches))


@pytest.mark.parametrize(
    ("error", "batches"),
    [(KeyError, broken_batches), (ValueError, list), (RuntimeError, lambda: [IMAGES[:, :1]])],
)
def test_prune_and_recalibrate_with_batches_that_fail(error, batches):
    model = used_net()
    evaluate = prune_metrics(model, None)
    refused(error, model, lambda: ow.prune(model, ow.GradualMagnitude(HALF), evaluate, batches=batches()))
    refused(error, model, lambda: ow.recalibrate_batchnorm(model, batches()))


def test_prune_with_a_technique_that_does_not_fit():
    model = used_net()
    evaluate = prune_metrics(model, None)
    for error, technique, words in [
        (ValueError, ow.GradualMagnitude(RAMP), "does not reach a sparsity at once"),
        (ValueError, ow.Wanda(HALF), "pass calibrate="),
        (TypeError, ow.L0(ow.Constant(0.1)), "prune takes a technique with masks"),
        (TypeError, ow.GradualMagnitude, "prune takes a technique with masks"),
        (DivergedError, Faulty(HALF, how="nan"), "are NaN"),
    ]:
        refused(error, model, lambda t=technique: ow.prune(model, t, evaluate), match=words)


def test_prune_can_calibrate():
    model = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    inputs = torch.tensor([[1.0, 4.0, 3.0, 2.0]])
    result = ow.prune(
        *(model, ow.Wanda(HALF), lambda model: float(model.weight.detach().sum())),
        calibrate=lambda model: model(inputs),
    )
    assert (result.before, result.after, result.sparsity) == (8.0, 4.0, 0.5)
    assert model.weight.tolist() == [[0.0, 1.0, 1.0, 0.0]] * 2


UPDATES = [
    *(Faulty(ow.Constant(0.5, every=1), how=how, since=3, hidden=hidden) for how in ("raises", "shape", "nan")
      for hidden in ("frozen", "trained", "lost")),
]  # fmt: skip


@pytest.mark.parametrize("technique", UPDATES, ids=lambda t: f"{t.how}-{t.hidden}")
def test_an_update_inside_a_step_that_raises_leaves_masks_in_force_and_counts_the_step(technique):
    def started(technique):
        torch.manual_seed(0)
        model = conv_net()
        sparsifier = ow.sparsify(model, technique)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        return model, sparsifier.attach(optimizer), optimizer

    batches = [batch for batch, _ in zip(image_batches(), range(8), strict=False)]
    model, sparsifier, optimizer = started(technique)
    # The same technique without updates after the second step: what a failing one must amount to.
    twin = started(ow.GradualMagnitude(ow.Constant(0.5, every=1, stop=2), hidden=technique.hidden))
    for number, batch in enumerate(batches, 1):
        train_step(*twin, batch)
        if number < 3:
            train_step(model, sparsifier, optimizer, batch)
            continue
        with pytest.raises((KeyError, TypeError, DivergedError)):
            train_step(model, sparsifier, optimizer, batch)
        optimizer.zero_grad()
        assert sparsifier.steps == number
        states = sparsifier.state_dict(), twin[1].state_dict()
        for one, two in zip(model.parameters(), twin[0].parameters(), strict=True):
            assert torch.equal(one, two)
        for name, mask in states[0]["masks"].items():
            assert torch.equal(mask, states[1]["masks"][name])
            assert (model.get_parameter(name)[~mask] == 0).all()
            if technique.hidden != "lost":
                assert torch.equal(states[0]["hidden"][name][~mask], states[1]["hidden"][name][~mask])


def test_a_gradient_that_evidence_refuses_is_no_step():
    @dataclass(frozen=True)
    class Refuses(ow.Evidence):
        def gradient(self, kept, weight, gradient):
            raise KeyError("lost")

    class Broken(ow.Movement):
        evidence = Refuses(gradients="every step")

        def scores(self, view):
            return view.weight.abs()

    model = conv_net()
    optimizer = torch.optim.Adam(model.parameters())
    sparsifier = ow.sparsify(model, Broken(RAMP)).attach(optimizer)
    F.cross_entropy(model(next(image_batches())[0]), torch.zeros(8, dtype=torch.long)).backward()
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError):
        optimizer.step()
    assert sparsifier.steps == 0
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
