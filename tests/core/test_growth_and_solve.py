"""Techniques that regrow or solve: under every hidden mode and pattern, and what they may not do."""

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

import openwork as ow
from tests.core.everything import Everything
from tests.helpers import conv_net, image_batches, raises, train_step

EVERY = ow.Constant(0.5, every=2)
HIDDEN = pytest.mark.parametrize("hidden", ["frozen", "trained", "lost"])
PATTERNS = [ow.Unstructured(), ow.Block(1, 2), ow.Rows(), ow.Columns(), ow.NM(2, 4), ow.PerOutput()]
EVERY_PATTERN = pytest.mark.parametrize("pattern", PATTERNS, ids=repr)


@dataclass(frozen=True)
class Oldest(ow.MaskTechnique):
    """Swaps: the largest stay, and of the others the first places in the tensor come back."""

    regrows: ClassVar[bool] = True
    share: float = 0.5

    def scores(self, view):
        return view.weight.abs()

    def growth(self, view):
        return -torch.arange(float(view.weight.numel())).view_as(view.weight)

    def exchange(self, step):
        return self.share


@dataclass(frozen=True)
class Random(Oldest):
    """Swaps: the largest stay, and any of the others come back."""

    def growth(self, view):
        return view.uniform()


@dataclass(frozen=True)
class Doubles(ow.MaskTechnique):
    """Keeps the largest weights, and doubles all, in place."""

    solves: ClassVar[bool] = True
    fault: str = field(default="", kw_only=True)

    def scores(self, view):
        return view.weight.abs()

    def solve(self, view, keep, ties):
        scores = torch.where(view.mask, view.weight.abs(), -1.0)  # what is masked does not come back
        mask = torch.zeros(scores.numel(), dtype=torch.bool)
        mask[scores.flatten().topk(keep + (self.fault == "count")).indices] = True
        weight = view.weight.mul_(2)
        if self.fault == "nan":
            weight[(0,) * weight.dim()] = math.nan
        if self.fault == "shape":
            weight = weight.flatten()
        if self.fault == "dtype":
            return mask.view_as(scores).float(), weight
        return mask.view_as(scores), weight


def linear(*rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return layer


def started(layer, technique, optimizer=torch.optim.SGD, **settings):
    sparsifier = ow.sparsify(layer, technique)
    optimizer = optimizer(layer.parameters(), **{"lr": 0.0, **settings})
    return sparsifier.attach(optimizer), optimizer


def step(layer, optimizer):
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()


@pytest.mark.parametrize(("hidden", "back"), [("frozen", 1.0), ("trained", 1.0), ("lost", 0.0)])
def test_what_comes_back_has_its_hidden_value(hidden, back):
    layer = linear([1.0, 2.0, 5.0, 4.0])
    sparsifier, optimizer = started(layer, Oldest(EVERY, hidden=hidden))
    assert layer.weight.tolist() == [[0.0, 0.0, 5.0, 4.0]]
    step(layer, optimizer)
    step(layer, optimizer)  # 4 makes room for the first place
    assert layer.weight.tolist() == [[back, 0.0, 5.0, 0.0]]
    assert sparsifier.masks()["weight"].tolist() == [[True, False, True, False]]


@HIDDEN
@EVERY_PATTERN
def test_growth_keeps_counts_pattern_and_zeros_over_a_life_cycle(hidden, pattern):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    sparsifier, optimizer = started(
        model, Random(EVERY, pattern=pattern, hidden=hidden, share=0.5), torch.optim.Adam, lr=0.01
    )
    changed = 0
    for _ in range(8):
        before = sparsifier.masks()
        model(torch.randn(5, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        for name, mask in sparsifier.masks().items():
            assert int(mask.sum()) == mask.numel() // 2
            assert (model.get_parameter(name)[~mask] == 0).all()
            pattern_holds(pattern, mask)
            changed += not torch.equal(mask, before[name])
            if hidden != "lost":
                values = sparsifier.state_dict()["hidden"][name]
                back = mask & ~before[name]
                assert torch.equal(model.get_parameter(name)[back], values[back])
    assert changed >= 6
    twin = sparsifier.finalized_copy()
    for one, two in zip(twin.parameters(), sparsifier.finalize().parameters(), strict=True):
        assert torch.equal(one, two)


def pattern_holds(pattern, mask):
    if pattern == ow.NM(2, 4):
        assert (mask.unflatten(1, (-1, 4)).sum(2) == 2).all()
    if pattern == ow.PerOutput():
        assert (mask.sum(1) == mask.shape[1] // 2).all()
    if pattern == ow.Rows():
        assert (mask.all(1) | ~mask.any(1)).all()
    if pattern == ow.Columns():
        assert (mask.all(0) | ~mask.any(0)).all()
    if pattern == ow.Block(1, 2):
        assert (mask[:, ::2] == mask[:, 1::2]).all()


def test_rigl_exchanges_weights_under_two_of_four():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    sparsifier, optimizer = started(model, ow.RigL(ow.Constant(0.5, every=1, stop=9), pattern=ow.NM(2, 4)), lr=0.1)
    first = sparsifier.masks()
    model(torch.randn(5, 16)).square().sum().backward()
    optimizer.step()
    assert any(not torch.equal(mask, first[name]) for name, mask in sparsifier.masks().items())
    assert all((mask.unflatten(1, (-1, 4)).sum(2) == 2).all() for mask in sparsifier.masks().values())


def test_an_infinite_growth_score_takes_no_survivors_place():
    @dataclass(frozen=True)
    class Infinite(Oldest):
        def growth(self, view):
            return torch.full_like(view.weight, math.inf)

    layer = linear([1.0] * 40 + [9.0] * 40)
    sparsifier, optimizer = started(layer, Infinite(ow.Constant(0.5, every=1)))
    step(layer, optimizer)
    assert int(sparsifier.masks()["weight"][0, 40:].sum()) >= 20  # half of the 40 kept stay


@HIDDEN
def test_what_solve_finds_is_what_training_goes_on_from(hidden):
    layer = linear([1.0, 2.0, 5.0, 4.0])
    sparsifier, optimizer = started(layer, Doubles(ow.OneShot(0.5, at=1), hidden=hidden))
    for _ in range(3):
        step(layer, optimizer)
        assert layer.weight.tolist() == [[0.0, 0.0, 10.0, 8.0]]
    state = sparsifier.state_dict()["hidden"]
    if hidden != "lost":
        assert state["weight"][0, :2].tolist() == [1.0, 2.0]  # as they were when masked
    optimizer.param_groups[0]["lr"] = 1.0
    layer.weight.grad = torch.tensor([[9.0, 9.0, 1.0, 1.0]])
    optimizer.step()
    assert layer.weight.tolist() == [[0.0, 0.0, 9.0, 7.0]]
    assert sparsifier.finalize().weight.tolist() == [[0.0, 0.0, 9.0, 7.0]]


@HIDDEN
@pytest.mark.parametrize("allocation", [ow.Uniform(), ow.GlobalRanking()], ids=repr)
def test_solve_at_every_update_of_a_life_cycle(hidden, allocation):
    torch.manual_seed(0)
    model = conv_net()
    technique = Doubles(ow.Cubic(0.8, end=6, every=2), hidden=hidden, allocation=allocation)
    sparsifier, optimizer = started(model, technique, lr=0.001)
    for batch in itertools.islice(image_batches(), 8):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        train_step(model, sparsifier, optimizer, batch)
        for name, mask in sparsifier.masks().items():
            weight = model.get_parameter(name).detach()
            assert (weight[~mask] == 0).all()
            if sparsifier.steps in (2, 4, 6):
                torch.testing.assert_close(weight[mask], 2 * before[name][mask], rtol=0.2, atol=0.02)
    assert sparsifier.sparsity() == pytest.approx(0.8, abs=2e-3)


@HIDDEN
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("count", "Doubles.solve was to keep 2 of the 4 weights of weight and keeps 3; return a mask with exactly"),
        ("nan", "Doubles.solve returned 1 weights of weight that are NaN or infinite; check its inputs"),
        ("shape", "Doubles.solve returned weights of shape (4,) for weight, whose shape is (1, 4); return both"),
        ("dtype", "Doubles.solve returned a mask of torch.float32 for weight; return a bool one"),
    ],
)
def test_what_solve_may_not_return(hidden, fault, words):
    layer = linear([1.0, 2.0, 5.0, 4.0])
    before = Everything(layer)
    with raises(RuntimeError, words):
        ow.sparsify(layer, Doubles(ow.OneShot(0.5), fault=fault, hidden=hidden))
    before.assert_unchanged()
    sparsifier, optimizer = started(layer, Doubles(ow.OneShot(0.5, at=1), fault=fault, hidden=hidden))
    with raises(RuntimeError, words):
        step(layer, optimizer)
    assert layer.weight.tolist() == [[1.0, 2.0, 5.0, 4.0]]
    assert sparsifier.steps == 1
    step(layer, optimizer)
    assert sparsifier.steps == 2


def test_solve_may_compute_in_another_dtype():
    @dataclass(frozen=True)
    class InDouble(Doubles):
        def solve(self, view, keep, ties):
            return super().solve(replace(view, weight=view.weight.double()), keep, ties)

    layer = linear([1.0, 2.0, 5.0, 4.0])
    started(layer, InDouble(ow.OneShot(0.5)))
    assert layer.weight.tolist() == [[0.0, 0.0, 10.0, 8.0]]
    assert layer.weight.dtype == torch.float32


def test_a_mask_of_solve_that_has_not_the_pattern_is_refused():
    layer = linear([8.0, 9.0, 8.0, 9.0, 1.0, 2.0, 1.0, 2.0])
    before = Everything(layer)
    two_of_four = Doubles(ow.OneShot(0.5), pattern=ow.NM(2, 4))
    with raises(RuntimeError, "Doubles.solve returned a mask of weight that is not one of NM(n=2, m=4)", "for 2 of"):
        ow.sparsify(layer, two_of_four)
    before.assert_unchanged()
    layer = linear([8.0, 1.0, 8.0, 1.0, 9.0, 2.0, 9.0, 2.0])
    ow.sparsify(layer, two_of_four)
    assert layer.weight.tolist() == [[16.0, 0.0, 16.0, 0.0, 18.0, 0.0, 18.0, 0.0]]


def test_solve_is_asked_for_whole_groups_and_what_the_zeros_leave():
    layer = linear([5.0, 5.0, 4.0, 4.0, 3.0, 3.0, 2.0, 2.0])
    ow.sparsify(layer, Doubles(ow.OneShot(0.6), pattern=ow.Block(1, 2)))  # 3 weights are one block and a half
    assert layer.weight.tolist() == [[10.0, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]


def test_solve_keeps_the_zeros_that_are_to_stay():
    def solved(technique):
        layer = linear([0.0, 0.0, 0.0, 4.0, 3.0, 2.0])
        ow.sparsify(layer, technique, keep_zeros=True).finalize()
        return layer.weight.tolist()

    assert solved(Doubles(ow.OneShot(0.5))) == [[0.0, 0.0, 0.0, 8.0, 6.0, 4.0]]
    assert solved(Doubles(ow.OneShot(0.2))) == [[0.0, 0.0, 0.0, 8.0, 6.0, 4.0]]  # 4 were to be kept, 3 can

    @dataclass(frozen=True)
    class Revives(Doubles):
        def solve(self, view, keep, ties):
            return super().solve(replace(view, _kept=~view._kept), keep, ties)

    with raises(RuntimeError, "Revives.solve keeps 3 weights of weight that are zero for good", "view.mask is True"):
        solved(Revives(ow.OneShot(0.5)))


def test_growth_where_keep_zeros_forbids_it_is_refused():
    layer = linear([0.0, 0.0, 1.0, 2.0])
    before = Everything(layer)
    for technique in (Oldest(EVERY), ow.SET(EVERY), ow.RigL(ow.Constant(0.5, every=1, stop=9))):
        with raises(
            ValueError, "lets weights come back, and keep_zeros=True leaves weight 2 weights for the 2", "leave"
        ):
            ow.sparsify(layer, technique, keep_zeros=True)
        before.assert_unchanged()
    sparsifier = ow.sparsify(layer, ow.SET(ow.Constant(0.75, every=1)), keep_zeros=True)
    for _ in range(9):
        sparsifier.step()
        assert sparsifier.masks()["weight"].tolist()[0][:2] == [False, False]


def test_scores_that_read_gradients_before_there_are_any_say_what_to_pass():
    @dataclass(frozen=True)
    class Reads(Oldest):
        evidence: ClassVar[ow.Evidence] = ow.Evidence(gradients="at updates")

        def scores(self, view):
            return view.evidence["gradient"].abs()

    layer = linear([1.0, 2.0, 5.0, 4.0])
    before = Everything(layer)
    with raises(ValueError, "Reads.scores reads the evidence 'gradient' before there are gradients", "calibrate="):
        ow.sparsify(layer, Reads(EVERY))
    before.assert_unchanged()
    ow.sparsify(layer, Reads(EVERY), calibrate=lambda model: model(torch.tensor([1.0, 2.0, 3.0, 4.0])).backward())
    assert layer.weight.tolist() == [[0.0, 0.0, 5.0, 4.0]]


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_an_exchange_is_a_fraction(share):
    sparsifier = ow.sparsify(linear([1.0, 2.0]), Oldest(ow.Constant(0.5, every=1), share=share))
    with raises(ValueError, f"Oldest.exchange must return a fraction in [0, 1], got {share}"):
        sparsifier.step()
