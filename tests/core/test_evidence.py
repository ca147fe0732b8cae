"""Evidence is the gradient that the optimizer takes: accumulated, unscaled, clipped, and of real steps only."""

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from tests.helpers import conv_net, image_batches, train_step

SEEN: list[torch.Tensor] = []
EVERY = ow.Constant(0.5, every=1)


@dataclass(frozen=True)
class Notes(ow.Evidence):
    """Notes every gradient that it is shown."""

    def gradient(self, kept, weight, gradient):
        SEEN.append(gradient.clone())
        super().gradient(kept, weight, gradient)


@dataclass(frozen=True)
class ByGradient(ow.MaskTechnique):
    """Keeps where the gradient is largest at updates, before training the largest weights."""

    evidence: ClassVar[ow.Evidence] = Notes(gradients="at updates")
    regrows: ClassVar[bool] = True  # so that no calibration is needed

    def scores(self, view):
        return view.weight.abs()

    def growth(self, view):
        return view.evidence["gradient"].abs()

    def exchange(self, step):
        return 1.0


@dataclass(frozen=True)
class EveryStep(ByGradient):
    evidence: ClassVar[ow.Evidence] = Notes(gradients="every step")


@pytest.fixture(autouse=True)
def _nothing_seen():
    SEEN.clear()


def layer_of(*weights):
    layer = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    return layer


def started(technique, *weights, optimizer=torch.optim.SGD, **settings):
    layer = layer_of(*weights)
    sparsifier = ow.sparsify(layer, technique)
    optimizer = optimizer(layer.parameters(), lr=0.1, **settings)
    return layer, sparsifier.attach(optimizer), optimizer


def seen():
    return [gradient.flatten().tolist() for gradient in SEEN]


def dense(weight, *gradient):
    (weight * torch.tensor([gradient])).sum().backward()


@dataclass(frozen=True)
class Late(ow.Schedule):
    """Half, from the beginning; updates after steps 2 and 4."""

    final: float = field(default=0.5, init=False)

    def __call__(self, step):
        return self.final

    @property
    def last(self):
        return 4

    def due(self, step):
        return step in (0, 2, 4)


@pytest.mark.parametrize("technique", [ow.RigL(ow.Constant(0.75, every=2, stop=20)), ow.SNIP(ow.OneShot(0.75, at=2))])
def test_micro_batches_give_the_masks_of_one_big_batch(technique):
    def trained(parts):
        torch.manual_seed(0)
        model = conv_net().double()
        sparsifier = ow.sparsify(model, technique)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsifier.attach(optimizer)
        for x, y in itertools.islice(image_batches(), 6):
            for part, target in zip(x.double().chunk(parts), y.chunk(parts), strict=True):
                (F.cross_entropy(model(part), target) / parts).backward()
            optimizer.step()
            optimizer.zero_grad()
        return sparsifier

    whole, accumulated = trained(1), trained(4)
    for name, mask in whole.masks().items():
        assert torch.equal(accumulated.masks()[name], mask)
        weights = whole.model.get_parameter(name), accumulated.model.get_parameter(name)
        torch.testing.assert_close(*weights)


def test_gradients_are_dense_in_the_steps_that_evidence_asks_for_and_masked_in_the_others():
    layer, sparsifier, optimizer = started(ByGradient(Late()), 1.0, 2.0, 3.0, 4.0)
    norms = []
    for _ in range(4):
        dense(layer.weight, 3.0, 4.0, 0.0, 0.0)
        norms.append(float(nn.utils.clip_grad_norm_(layer.parameters(), 1e9)))
        optimizer.step()
        optimizer.zero_grad()
        assert (layer.weight[~sparsifier.masks()["weight"]] == 0).all()
    # At first 3 and 4 are kept, whose gradient is 0; from the first update on 1 and 2.
    assert norms == [0.0, 5.0, 5.0, 5.0]
    assert len(SEEN) == 2


def test_evidence_is_what_clipping_has_left():
    layer, _, optimizer = started(ByGradient(EVERY), 1.0, 2.0, 3.0, 4.0)
    dense(layer.weight, 6.0, 0.0, 8.0, 0.0)
    nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    optimizer.step()
    assert seen() == [[pytest.approx(0.6), 0.0, pytest.approx(0.8), 0.0]]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("technique", [ByGradient(Late()), EveryStep(Late())], ids=["updates", "every"])
def test_a_gradient_scaler_leaves_no_scale_and_an_overflow_is_no_evidence(fused, technique):
    layer, sparsifier, optimizer = started(technique, 1.0, 2.0, 3.0, 4.0, optimizer=torch.optim.Adam, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for overflow in (False, True, True, False, True, False):
        loss = (layer.weight * torch.tensor([[4.0, 3.0, 2.0, 1.0]])).sum() * (torch.inf if overflow else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert sparsifier.steps == 3
    # Between updates the gradient of what is masked is not there, only where evidence is taken every step.
    assert seen() == [[4.0, 3.0, 2.0, 1.0]] * (3 if isinstance(technique, EveryStep) else 1)
    assert sparsifier.masks()["weight"].tolist() == [[True, True, False, False]]


def test_a_closure_computes_the_evidence_inside_the_step():
    layer, sparsifier, optimizer = started(ByGradient(EVERY), 1.0, 2.0, 3.0, 4.0)

    def closure():
        optimizer.zero_grad()
        dense(layer.weight, 8.0, 7.0, 1.0, 1.0)

    optimizer.step(closure)
    assert seen() == [[8.0, 7.0, 1.0, 1.0]]
    assert sparsifier.steps == 1


def two_layers(technique):
    model = nn.Sequential(layer_of(1.0, 2.0), layer_of(1.0, 2.0))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.0) for layer in model]
    return model, ow.sparsify(model, technique).attach(*optimizers), optimizers


def test_each_of_several_optimizers_shows_its_own_gradients_before_its_step():
    model, sparsifier, (one, two) = two_layers(ByGradient(EVERY))
    for layer, gradient in zip(model, ([4.0, 3.0], [6.0, 5.0]), strict=True):
        dense(layer.weight, *gradient)
    one.step()
    assert seen() == [[4.0, 3.0]]
    one.zero_grad()  # it has stepped: what comes from now on belongs to the next step
    two.step()
    assert seen() == [[4.0, 3.0], [6.0, 5.0]]
    assert sparsifier.steps == 1


def test_an_update_takes_what_a_rarer_optimizer_has_gathered():
    model, sparsifier, (_rare, often) = two_layers(ByGradient(EVERY))
    dense(model[0].weight, 4.0, 3.0)
    dense(model[1].weight, 6.0, 5.0)
    often.step()
    assert seen() == [[6.0, 5.0], [4.0, 3.0]]
    assert sparsifier.steps == 1


def test_evidence_of_every_step_is_taken_once_for_each_step_of_the_weights_own_optimizer():
    model, sparsifier, (rare, often) = two_layers(EveryStep(ow.OneShot(0.5, at=9)))
    for step in range(4):
        dense(model[0].weight, 1.0, 1.0)
        dense(model[1].weight, 2.0, 2.0)
        if step % 2:
            rare.step()
            rare.zero_grad()
        often.step()
        often.zero_grad()
    assert sparsifier.steps == 4
    assert sorted(seen()) == sorted([[2.0, 2.0]] * 4 + [[2.0, 2.0]] * 2)  # 1 + 1 by the rare one
    SEEN.clear()
    for _ in range(2):  # and one that steps twice before the other
        dense(model[0].weight, 5.0, 5.0)
        rare.step()
        rare.zero_grad()
    assert seen() == [[5.0, 5.0]] * 2


def test_a_sparse_gradient_is_shown_dense():
    torch.manual_seed(0)
    embedding = nn.Embedding(4, 2, sparse=True)
    sparsifier = ow.sparsify(embedding, ByGradient(EVERY))
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    embedding(torch.tensor([1, 1, 3])).sum().backward()
    optimizer.step()
    assert seen() == [[0.0, 0.0, 2.0, 2.0, 0.0, 0.0, 1.0, 1.0]]
    mask = sparsifier.masks()["weight"]
    assert (embedding.weight[~mask] == 0).all()


def test_a_sparse_gradient_of_a_calibration_is_shown_dense():
    embedding = nn.Embedding(4, 2, sparse=True)
    technique = ow.SNIP(ow.OneShot(0.5))
    ow.sparsify(embedding, technique, calibrate=lambda model: model(torch.tensor([1, 3])).sum().backward())
    assert (embedding.weight != 0).tolist() == [[False] * 2, [True] * 2, [False] * 2, [True] * 2]


def test_a_weight_without_a_gradient_is_shown_zeros():
    model = nn.Sequential(layer_of(1.0, 2.0), layer_of(1.0, 2.0))
    model[0].requires_grad_(False)
    sparsifier = ow.sparsify(model, ByGradient(EVERY))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    optimizer.step()
    assert seen() == [[0.0, 0.0], [0.0, 0.0]]
    assert [int(mask.sum()) for mask in sparsifier.masks().values()] == [1, 1]


def test_a_whole_training_step_can_be_compiled():
    def trained(compiled):
        torch.manual_seed(0)
        torch._dynamo.reset()
        model = conv_net()
        sparsifier = ow.sparsify(model, ow.RigL(ow.Constant(0.75, every=2, stop=8)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsifier.attach(optimizer)

        def step(x, y):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()

        run = torch.compile(step, backend="aot_eager") if compiled else step
        for batch in itertools.islice(image_batches(), 9):
            run(*batch)
        return sparsifier

    eager, compiled = trained(False), trained(True)
    assert compiled.steps == 9
    for name, mask in eager.masks().items():
        assert torch.equal(compiled.masks()[name], mask)


def test_gathered_evidence_is_resumed_bit_by_bit_between_the_steps_of_two_optimizers():
    def run(interrupted):
        torch.manual_seed(0)
        model = conv_net()
        sparsifier, optimizers = attach(model)
        for step, batch in enumerate(itertools.islice(image_batches(), 6)):
            F.cross_entropy(model(batch[0]), batch[1]).backward()
            optimizers[0].step()
            optimizers[1].step()
            for optimizer in optimizers:
                optimizer.zero_grad()
            if interrupted and step == 2:
                states = [part.state_dict() for part in (model, sparsifier, *optimizers)]
                model = conv_net()
                sparsifier, optimizers = attach(model)
                for part, state in zip((model, sparsifier, *optimizers), states, strict=True):
                    part.load_state_dict(state)
        return sparsifier

    def attach(model):
        sparsifier = ow.sparsify(model, ow.Movement(ow.Linear(0.8, end=6, every=2)))
        optimizers = [torch.optim.Adam(part.parameters(), lr=0.01) for part in (model[:3], model[3:])]
        return sparsifier.attach(*optimizers), optimizers

    one, two = run(False), run(True)
    for name in one.masks():
        assert torch.equal(one.model.get_parameter(name), two.model.get_parameter(name))
        evidence = [sparsifier.state_dict()["evidence"][name]["movement"] for sparsifier in (one, two)]
        assert torch.equal(*evidence)


def test_evidence_that_nobody_asks_for_leaves_gradients_masked_in_every_step():
    model = conv_net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(EVERY))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    train_step(model, sparsifier, optimizer, next(image_batches()))
    F.cross_entropy(model(next(image_batches())[0]), torch.zeros(8, dtype=torch.long)).backward()
    assert all((model.get_parameter(n).grad[~mask] == 0).all() for n, mask in sparsifier.masks().items())
    assert sparsifier.state_dict()["evidence"] == {}


def test_what_every_step_adds_to_must_be_part_of_the_state():
    @dataclass(frozen=True)
    class Sums(ow.Evidence):
        def gradient(self, kept, weight, gradient):
            kept["sum"] = kept.get("sum", 0) + gradient

    @dataclass(frozen=True)
    class BySum(ow.MaskTechnique):
        evidence: ClassVar[ow.Evidence] = Sums(gradients="every step")

        def scores(self, view):
            return view.evidence["sum"]

    layer = layer_of(1.0, 2.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    ow.sparsify(layer, BySum(ow.OneShot(0.5, at=4))).attach(optimizer)
    layer.weight.grad = torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"^Sums\.gradient adds 'sum', which is no part of the state"):
        optimizer.step()
    assert layer.weight.tolist() == [[1.0, 2.0]]
