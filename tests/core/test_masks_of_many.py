"""Choosing the masks of many tensors together gives those of one tensor after the other, ties and all."""

import math
import warnings

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.masks import scores as scores_module
from openwork.core.masks.scores import Scores, batches
from openwork.core.masks.threshold import keep_count, keep_largest_of_each
from openwork.core.seeding import seeded_generator
from tests.kernels.select_cases import kth_largest_plain

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def keep_largest_plain(scores, keep, generator):
    """What a mask was before tensors were chosen from together: a threshold, and a draw between those that equal it."""
    flat = torch.where(scores.flatten() > -math.inf, scores.flatten(), -math.inf)
    if keep >= int((flat > -math.inf).sum()):
        return (flat > -math.inf).view_as(scores)
    if keep == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = kth_largest_plain(flat, keep)
    mask = flat >= threshold
    ties = (flat == threshold).nonzero().flatten()
    mask[ties[torch.randperm(len(ties), generator=generator)[: int(mask.sum()) - keep]]] = False
    return mask.view_as(scores)


def ranked_plain(scores, total):
    """How many each tensor keeps under one threshold; ties go to the first."""
    threshold = kth_largest_plain(torch.cat([score.flatten() for score in scores.values()]), total)
    keep = {name: int((score > threshold).sum()) for name, score in scores.items()}
    for name, score in scores.items():
        keep[name] += min(int((score == threshold).sum()), total - sum(keep.values()))
    return keep


def drawn(case):
    """A few tensors, most of them with ties."""
    generator = torch.Generator().manual_seed(case)

    def number(most):
        return int(torch.randint(most, (), generator=generator))

    tensors = {}
    for place in range(1 + number(5)):
        shape = [(1 + number(40), 1 + number(30)), (3, 2, 3, 3), (1,), (0, 4), (20, 30)][number(5)]
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        kinds = [value, value.round(), value.sign(), torch.ones_like(value), torch.where(value > 0.5, value, -0.0)]
        value = [*kinds, torch.where(value > 0, value.round(), -math.inf), value.sign() * 1e-40][number(7)]
        value = value.to(DTYPES[case % 4])
        tensors[str(place)] = value.to(memory_format=torch.channels_last) if len(shape) == 4 else value
    sparsity = [0.0, 0.3, 0.5, 0.9, 0.99][number(5)]
    return tensors, sparsity


def test_200_cases_with_ties_give_the_masks_of_one_tensor_after_the_other():
    for case in range(200):
        tensors, sparsity = drawn(case)
        keep = [keep_count(tensor.numel(), sparsity) for tensor in tensors.values()]

        def ties(place, case=case):
            return seeded_generator(case, 3, f"{place}/ties")

        found = keep_largest_of_each(list(tensors.values()), keep, ties)
        for place, (score, number) in enumerate(zip(tensors.values(), keep, strict=True)):
            expected = keep_largest_plain(score, number, ties(place))
            assert torch.equal(found.masks[place], expected), (case, place)
            assert found.kept[place] == int(expected.sum())
            assert found.spoiled[place] == 0


def test_200_cases_are_ranked_as_one_long_tensor():
    for case in range(200):
        tensors, sparsity = drawn(case)
        total = keep_count(sum(tensor.numel() for tensor in tensors.values()), sparsity)
        if total:
            assert ow.GlobalRanking()(tensors, sparsity, 0.99) == ranked_plain(tensors, total), case


def test_tensors_of_several_precisions_are_ranked_by_their_exact_values():
    scores = {"a": torch.tensor([0.1, 0.3]), "b": torch.tensor([0.1, 0.2], dtype=torch.float64)}
    # float32's 0.1 is a little more than float64's
    assert [ow.GlobalRanking()(scores, sparsity, 0.9)["a"] for sparsity in (0.0, 0.25, 0.5, 0.75)] == [2, 2, 1, 1]


def test_nan_is_counted_and_never_kept():
    scores = [torch.tensor([math.nan, 1.0, 2.0]), torch.tensor([3.0, -math.nan, math.nan])]
    found = keep_largest_of_each(scores, [2, 2], lambda place: torch.Generator())
    assert [mask.tolist() for mask in found.masks] == [[False, True, True], [True, False, False]]
    assert (found.kept, found.spoiled) == ([2, 1], [1, 2])


def test_a_generator_is_made_only_where_there_are_ties():
    def never(place):
        raise AssertionError(place)

    keep_largest_of_each([torch.arange(5.0), torch.ones(4), torch.ones(3)], [2, 4, 0], never)


@pytest.mark.parametrize("few", [1, 1 << 20], ids=["one tensor at a time", "all together"])
@pytest.mark.parametrize("allocation", [ow.Uniform(), ow.GlobalRanking(), ow.LAMP(), ow.ERK()], ids=repr)
@pytest.mark.parametrize("technique", [ow.GradualMagnitude, ow.SET, ow.RandomPruning], ids=lambda kind: kind.__name__)
def test_how_many_are_looked_at_together_does_not_matter(technique, allocation, few, monkeypatch):
    found = {}
    for size in (few, 1 << 30):
        monkeypatch.setattr(scores_module, "at_once", lambda device, size=size: size)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(64, 10))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sparsifier = ow.sparsify(model, technique(ow.Constant(0.7, every=1, stop=3), allocation=allocation))
            for _ in range(3):
                sparsifier.step()
        found[size] = sparsifier.masks()
    one, other = found.values()
    assert all(torch.equal(mask, other[name]) for name, mask in one.items())


def test_scores_of_a_large_model_are_computed_when_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(scores_module, "at_once", lambda device: 5)
    like, asked = {name: torch.empty(size) for name, size in (("a", 2), ("b", 3), ("c", 1), ("d", 9))}, []

    def compute(names):
        asked.append(list(names))
        return [torch.full((len(like[name]),), float(ord(name))) for name in names]

    scores = Scores(like, compute)
    assert list(batches(like)) == [["a", "b"], ["c", "d"]]
    assert [part[0].tolist() for part in scores_module.in_batches(scores)] == [[97.0] * 2, [99.0]]
    assert asked == [["a", "b"], ["c", "d"]]
    assert scores["b"].tolist() == [98.0] * 3
    assert asked[2:] == [["b"]]  # anew
    assert (len(scores), list(scores), "e" in scores, scores_module.weights_in(scores)) == (4, list("abcd"), False, 15)
    with pytest.raises(KeyError):
        scores["e"]


def test_scores_of_a_small_model_are_computed_once():
    asked = []
    scores = Scores({"a": torch.empty(2)}, lambda names: [asked.append(name) or torch.ones(2) for name in names])
    assert scores["a"] is scores["a"]
    assert asked == ["a"]


def test_a_subclass_of_magnitude_pruning_is_asked_for_its_own_scores():
    class Smallest(ow.GradualMagnitude):
        def scores(self, view):
            return -view.weight.abs()

    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
    masks = ow.sparsify(layer, Smallest(ow.OneShot(0.5))).masks()
    assert masks["weight"].tolist() == [[True, True], [False, False]]
