import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import openwork as ow
from openwork.core.masks.check import check_counts, check_scores
from openwork.core.masks.threshold import keep_count
from tests.helpers import Tied, conv_net

pytestmark = pytest.mark.filterwarnings("ignore:.* keeps no weight")  # so small are these layers

HALF = ow.OneShot(0.5)


def linear(rows) -> nn.Linear:
    weight = torch.tensor(rows, dtype=torch.float32)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


def pruned(layer, pattern, sparsity=0.5, **settings):
    """The layer's weight after one-shot pruning."""
    return ow.sparsify(layer, ow.GradualMagnitude(ow.OneShot(sparsity), pattern=pattern), **settings).finalize().weight


def test_a_block_is_scored_by_its_mean():
    layer = linear([[9, 0, 3, 3], [0, 0, 3, -3]])  # means 2.25 and 3
    assert pruned(layer, ow.Block(2, 2)).tolist() == [[0, 0, 3, 3], [0, 0, 3, -3]]


def test_minus_one_is_the_whole_dimension():
    assert pruned(linear([[1, 5], [2, 3]]), ow.Block(1, -1)).tolist() == [[1, 5], [0, 0]]
    assert pruned(linear([[1, 5], [2, 3]]), ow.Block(-1, 1)).tolist() == [[0, 5], [0, 3]]


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3), nn.Linear(4, 6), nn.Embedding(6, 4)]
)
def test_rows_are_outputs_and_columns_are_inputs(layer):
    swap = isinstance(layer, nn.ConvTranspose2d)  # it stores (in, out, ...)
    for pattern, axis, count in [(ow.Rows(), 1 if swap else 0, 6), (ow.Columns(), 0 if swap else 1, 4)]:
        nn.init.uniform_(layer.weight, 1, 2)
        kept = pruned(layer, pattern, select=ow.all_parameters if swap else ow.weight_matrices) != 0
        slices = kept.movedim(axis, 0).flatten(1)
        assert (slices.all(1) | ~slices.any(1)).all()
        assert len(slices) == count
        assert int(slices.any(1).sum()) == count // 2


def test_two_of_four_keeps_the_two_largest_of_each_four():
    layer = linear([[1, -4, 3, 2, 8, 7, 6, 5]])
    assert pruned(layer, ow.NM(2, 4)).tolist() == [[0, -4, 3, 0, 8, 7, 0, 0]]


def test_the_groups_of_a_convolution_lie_along_its_input_channels():
    conv = nn.Conv2d(4, 1, (1, 2), bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]).view(1, 4, 1, 2))
    # position 0 holds 1 2 3 4, position 1 holds 8 7 6 5
    assert pruned(conv, ow.NM(2, 4)).flatten().tolist() == [0, 8, 0, 7, 3, 0, 4, 0]


def test_n_of_m_comes_gradually_with_exact_counts():
    model = nn.Linear(40, 10)
    schedule = ow.Cubic(0.5, end=6, every=1)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(schedule, pattern=ow.NM(2, 4)))
    best = model.weight.detach().abs().view(10, 10, 4).argsort(-1)[..., 2:]
    for step in range(1, 7):
        sparsifier.step()
        assert int((model.weight != 0).sum()) == keep_count(400, schedule(step))
        assert (model.weight.view(10, 10, 4).gather(2, best) != 0).all()  # the two largest of a group never leave
    assert ((model.weight.view(10, 10, 4) != 0).sum(-1) == 2).all()


@pytest.mark.parametrize("pattern", [ow.NM(2, 4), ow.Block(1, 4), ow.Rows()])
def test_ties_are_drawn_by_the_seed(pattern):
    def kept(seed):
        layer = nn.Linear(32, 32)
        nn.init.constant_(layer.weight, 0.1)
        return pruned(layer, pattern, seed=seed) != 0

    assert int(kept(0).sum()) == 512
    assert torch.equal(kept(0), kept(0))
    assert not torch.equal(kept(0), kept(1))


PATTERNS = [ow.Unstructured(), ow.Block(2, 3), ow.Block(1, 2), ow.Rows(), ow.Columns(), ow.NM(1, 3), ow.NM(3, 4)]


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_counts_are_exact_and_the_pattern_holds(data):
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    pattern = data.draw(st.sampled_from(PATTERNS))
    kernel = data.draw(st.sampled_from([(), (3,), (2, 2)]))
    shape = (2 * data.draw(st.integers(1, 4)), 12 * data.draw(st.integers(1, 2)), *kernel)
    values = data.draw(st.sampled_from(["random", "ties", "equal"]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    scores = {"random": torch.rand(shape), "ties": torch.randint(3, shape) * 1.0, "equal": torch.ones(shape)}[values]
    scores = pattern.group_scores(scores.to(dtype))
    least = pattern.n / pattern.m if isinstance(pattern, ow.NM) else 0.0
    keep = keep_count(scores.numel(), (1 - least) * data.draw(st.floats(0, 1)))
    mask = pattern.mask(scores, keep, torch.Generator().manual_seed(0))
    group = pattern.group(shape)
    assert int(mask.sum()) == keep // group * group
    if hasattr(pattern, "size"):
        (rows, columns), (height, width) = (shape[0], scores[0].numel()), pattern.size(shape)
        blocks = mask.reshape(rows // height, height, columns // width, width).sum((1, 3))
        assert ((blocks == 0) | (blocks == group)).all()
    if isinstance(pattern, ow.NM) and keep == scores.numel() * pattern.n // pattern.m:
        assert (mask.movedim(1, -1).reshape(-1, pattern.m).sum(1) == pattern.n).all()


@pytest.mark.parametrize("allocation", [ow.Uniform(), ow.GlobalRanking(), ow.LAMP(), ow.ERK()])
@pytest.mark.parametrize("pattern", [ow.Block(1, 2), ow.Rows(), ow.Block(2, 8)])
def test_the_total_is_exact_up_to_a_group_per_tensor(allocation, pattern):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 24))
    technique = ow.GradualMagnitude(ow.OneShot(0.6), allocation=allocation, pattern=pattern)
    zeros = {name: int((~mask).sum()) for name, mask in ow.sparsify(model, technique).masks().items()}
    groups = {name: pattern.group(model.get_parameter(name).shape) for name in zeros}
    assert all(count % groups[name] == 0 for name, count in zeros.items())
    assert 0 <= sum(zeros.values()) - math.ceil(0.6 * 1408) < sum(groups.values())


def test_global_ranking_ranks_whole_groups():
    model = nn.Sequential(linear([[9, 0], [4, 4]]), linear([[5, 5], [1, 8]]))  # row means 4.5, 4; 5, 4.5
    ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.75), allocation=ow.GlobalRanking(), pattern=ow.Rows()))
    assert [model[0].weight.count_nonzero(), model[1].weight.count_nonzero()] == [0, 2]


def test_lamp_keeps_the_best_group_of_each_tensor():
    model = nn.Sequential(linear([[1, 1, 1, 1], [2, 2, 2, 2]]), linear([[100, 100], [200, 200]]))
    ow.sparsify(model, ow.GradualMagnitude(HALF, allocation=ow.LAMP(), pattern=ow.Rows()))
    assert model[0].weight.tolist() == [[0] * 4, [2] * 4]
    assert model[1].weight.tolist() == [[0] * 2, [200] * 2]


def test_random_blocks_never_come_back():
    model = nn.Linear(12, 10)
    schedule = ow.Linear(0.9, end=9, every=1)
    sparsifier = ow.sparsify(model, ow.RandomPruning(schedule, pattern=ow.Block(1, 4)))
    masks = []
    for _ in range(9):
        sparsifier.step()
        masks.append(sparsifier.state_dict()["masks"]["weight"].view(10, 3, 4))
    assert all(not (after & ~before).any() for before, after in pairwise(masks))
    assert [int(mask.all(2).sum()) for mask in masks] == [27, 24, 21, 18, 15, 12, 9, 6, 3]
    assert [int(mask.any(2).sum()) for mask in masks] == [27, 24, 21, 18, 15, 12, 9, 6, 3]


def test_a_zero_to_keep_stays_in_its_block_and_counts():
    # the means of what may be kept are 4, 3, 2, 1; blocks 1 and 2 hold three such weights, and 4 are to stay
    layer = linear([[4, 0, 3, 3, 2, 2, 1, 1]])
    assert pruned(layer, ow.Block(1, 2), keep_zeros=True).tolist() == [[4, 0, 3, 3, 0, 0, 0, 0]]
    layer = linear([[0, 0, 0, 0, 0, 0, 1, 1]])  # more zeros than wanted
    assert pruned(layer, ow.Block(1, 2), keep_zeros=True).tolist() == [[0, 0, 0, 0, 0, 0, 1, 1]]


def test_zeros_to_keep_are_not_made_up_for_in_other_groups():
    layer = linear([[0, 0, 0, 1, 5, 6, 7, 8]])
    assert pruned(layer, ow.NM(2, 4), keep_zeros=True).tolist() == [[0, 0, 0, 1, 0, 0, 7, 8]]


def test_what_the_pattern_does_not_fit_is_skipped_with_the_reason():
    sparsifier = ow.sparsify(conv_net(), ow.GradualMagnitude(HALF, pattern=ow.NM(2, 4)))
    assert [weight.name for weight in sparsifier.weights] == ["3.weight"]
    assert sparsifier.skipped == {
        "0.weight": "4 does not divide its 2 inputs",
        "5.weight": "4 does not divide its 10 inputs",
    }
    sparsifier = ow.sparsify(conv_net(), ow.GradualMagnitude(HALF, pattern=ow.Block(4, 6)), select=ow.all_parameters)
    assert sparsifier.skipped["0.bias"] == "Block(height=4, width=6) needs a matrix, and its shape is (4,)"
    assert sparsifier.skipped["3.weight"] == "blocks of 4 x 6 do not divide its 10 x 64 matrix"
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 1))
    assert ow.sparsify(model, ow.GradualMagnitude(HALF, pattern=ow.Rows())).skipped == {
        "1.weight": "its 1 x 6 matrix is a single block of Rows()"
    }


def test_wrong_patterns_are_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"fits none of the selected weights: 0.weight: 7 does not divide its 2 inp"):
        ow.sparsify(conv_net(), ow.GradualMagnitude(ow.OneShot(6 / 7), pattern=ow.NM(1, 7)))
    with pytest.raises(ValueError, match=r"ends at sparsity 1 - 2/4 = 0.5 and the schedule at 0.9; give .* final=0.5"):
        ow.GradualMagnitude(ow.OneShot(0.9), pattern=ow.NM(2, 4))
    with pytest.raises(ValueError, match=r"never goes beyond sparsity 0.5, and the schedule starts at 0.8"):
        ow.GradualMagnitude(ow.Linear(0.5, initial=0.8, end=4), pattern=ow.NM(2, 4))
    with pytest.raises(ValueError, match=r"the same sparsity; leave out allocation=GlobalRanking\(\)"):
        ow.GradualMagnitude(HALF, pattern=ow.NM(2, 4), allocation=ow.GlobalRanking())
    with pytest.raises(ValueError, match=r"5.weight would keep 5 weights at sparsity 0.9, less than one group of 10"):
        ow.sparsify(conv_net(), ow.GradualMagnitude(ow.OneShot(0.9), pattern=ow.Rows()), select=ow.excluding("0.*"))
    with pytest.raises(ValueError, match="1 <= n < m, got n=4, m=4"):
        ow.NM(4, 4)
    with pytest.raises(ValueError, match="at least 1, or -1 for the whole dimension, got 0"):
        ow.Block(0, 1)


@pytest.mark.parametrize("hidden", ["frozen", "trained", "lost"])
@pytest.mark.parametrize("allocation", [ow.Uniform(), ow.GlobalRanking(), ow.LAMP()])
def test_a_diverged_model_is_an_error_that_names_the_tensor(hidden, allocation):
    model = conv_net()
    schedule = ow.Constant(0.5, every=2)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(schedule, allocation=allocation, hidden=hidden))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    with torch.no_grad():
        model[3].weight[model[3].weight != 0] = math.nan  # hidden values are finite, and enough to fill the mask
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"of the 640 scores of 3.weight are NaN, .*; has training diverged"):
        optimizer.step()


def test_a_missed_count_is_an_error():
    def check(scores, count, keep, group):
        kept = check_scores(["w"], [scores], [torch.arange(4) < count])
        check_counts(["w"], [scores], kept, [keep], [group])

    scores = torch.tensor([1.0, 2.0, -math.inf, -math.inf])
    check(scores, 2, 3, 1)  # two can never be kept
    check(torch.ones(4), 2, 3, 2)  # whole pairs
    with pytest.raises(RuntimeError, match="w was to keep 3 of its 4 weights and keeps 0"):
        check(scores, 0, 3, 1)
    with pytest.raises(RuntimeError, match="w was to keep 1 of its 4 weights and keeps 2"):
        check(torch.ones(4), 2, 1, 2)


@pytest.mark.parametrize("hidden", ["frozen", "trained", "lost"])
def test_n_of_m_trains_tied_bfloat16_weights(hidden):
    torch.manual_seed(0)
    model = Tied().bfloat16()
    schedule = ow.Cubic(0.5, end=6, every=2)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(schedule, pattern=ow.NM(1, 2), hidden=hidden))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    sparsifier.attach(optimizer)
    ids = torch.randint(11, (4, 5))
    for _ in range(8):
        model(ids).float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.output.weight is model.embedding.weight
    for weight in (model.embedding.weight, model.hidden.weight):
        assert ((weight.view(-1, 2) != 0).sum(1) == 1).all()


@pytest.mark.parametrize(
    ("keep", "rows"),
    [(4, [2, 2, 0]), (5, [2, 3, 0]), (6, [3, 3, 0]), (7, [3, 4, 0]), (8, [4, 4, 0]), (12, [4, 4, 0]), (0, [0, 0, 0])],
)
def test_outputs_with_too_few_weights_leave_their_share_to_the_others(keep, rows):
    scores = torch.tensor([[1.0, 2.0, 9.0, 8.0], [4.0, 5.0, 6.0, 7.0], [0.0, 0.0, 0.0, 0.0]])
    scores[2] = -math.inf  # zeros that stay
    mask = ow.PerOutput().mask(scores, keep, torch.Generator().manual_seed(0))
    found = mask.sum(1).tolist()
    assert found == rows  # the seventh is 4 of the second row, not 1 of the first
    again = ow.PerOutput().mask(scores, int(mask.sum()), torch.Generator().manual_seed(0))
    assert torch.equal(again, mask)


@pytest.mark.parametrize("allocation", [ow.ERK(), ow.PerLayer({"0": 0.75})], ids=repr)
def test_tensors_may_differ_while_outputs_keep_as_many(allocation):
    model = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 64))
    ow.sparsify(model, ow.GradualMagnitude(HALF, allocation=allocation, pattern=ow.PerOutput())).finalize()
    first, second = ((layer.weight != 0).sum(1) for layer in model)
    assert int(first.max() - first.min()) <= 1
    assert int(second.max() - second.min()) <= 1
    assert (int(first.sum()) > 64) if allocation == ow.ERK() else (int(first.sum()) == 32)
