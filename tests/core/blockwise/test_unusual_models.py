"""Models that write to their inputs, share layers between blocks, or do other things with another batch."""

import copy

import pytest
import torch
from torch import nn

import openwork as ow
from tests.core.blockwise.models import HALF, Layer, pruned_block_by_block
from tests.core.blockwise.test_prune import equal

SOLVED = ow.SparseGPT(ow.OneShot(0.5))


class InPlace(Layer):
    """A layer that writes its output over its input."""

    def forward(self, hidden, scale=None):
        hidden += self.down(self.up(hidden).relu())
        return hidden


class Path(nn.Module):
    """Layers, called as ``how`` says."""

    def __init__(self, how="plain", layer=Layer):
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.layers = nn.ModuleList(layer() for _ in range(3))

    def forward(self, x):
        first, second, third = self.layers
        large = len(x) > 2
        if self.how == "left out":
            return third(second(first(x)) if large else first(x))
        if self.how == "again":
            return third(second(first(x)) if large else second(second(first(x))))
        if self.how == "scaled between":
            return third(second(first(x) if large else 2 * first(x)))
        if self.how == "twice in all":
            return third(second(second(first(x))))
        return third(second(first(x)))


def rows(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 8, generator=generator) for size in sizes]


@pytest.mark.parametrize("how", ["plain", "twice in all"])
@pytest.mark.parametrize("reconstruct", [False, True])
@pytest.mark.parametrize("technique", [HALF, SOLVED, ow.Wanda(ow.OneShot(0.5), allocation=ow.OWL())], ids=str)
def test_layers_that_write_to_their_inputs_become_what_others_become(technique, reconstruct, how):
    plain, in_place = Path(how), Path(how, InPlace)
    batches = rows(9, 9)
    found = [ow.prune(each, technique, batches=batches, reconstruct=reconstruct) for each in (plain, in_place)]
    assert equal(plain, in_place)
    assert found[0].layers == found[1].layers


def test_reconstruct_sees_the_inputs_that_a_layer_overwrites():
    models = [Path(), Path("plain", InPlace)]
    for model in models:
        dense = copy.deepcopy(model)
        ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.5)))
        ow.reconstruct(model, dense, rows(9, 9))
    assert equal(*models)


def test_batches_stay_as_they_are_though_the_model_writes_to_them():
    batches = rows(5)
    before = batches[0].clone()
    ow.prune(Path("plain", InPlace), HALF, batches=batches)
    assert torch.equal(batches[0], before)


@pytest.mark.parametrize("sizes", [(3, 2), (3, 2, 3), (3, 3, 2)], ids=str)
@pytest.mark.parametrize("how", ["left out", "again", "scaled between"])
def test_each_batch_takes_its_own_path_through_the_blocks(how, sizes):
    model = Path(how)
    twin = pruned_block_by_block(copy.deepcopy(model), HALF, rows(*sizes), [f"layers.{number}" for number in range(3)])
    ow.prune(model, HALF, batches=rows(*sizes))
    assert equal(model, twin)


@pytest.mark.parametrize("blocks", [None, "layers.*", ["layers.0", "layers.2", "layers.1"]])
@pytest.mark.parametrize("technique", [HALF, SOLVED], ids=str)
def test_a_layer_that_blocks_share_is_pruned_once_with_the_first(technique, blocks):
    model = Path()
    model.layers[2].up = model.layers[0].up
    twin = Path()
    ow.prune(twin, technique, batches=rows(9), select="layers.0", blocks="layers.0")
    result = ow.prune(model, technique, batches=rows(9), blocks=blocks)
    assert [layer.name for layer in result.layers] == [
        "layers.0.up.weight", "layers.0.down.weight", "layers.1.up.weight", "layers.1.down.weight",
        "layers.2.down.weight",
    ]  # fmt: skip
    assert equal(model.layers[0], twin.layers[0])


def test_blocks_that_share_all_their_layers_are_one():
    model = Path()
    model.layers[2].up, model.layers[2].down = model.layers[0].up, model.layers[0].down
    result = ow.prune(model, HALF, batches=rows(9))
    assert len(result.layers) == 4
    assert result.sparsity == 0.5


@pytest.mark.parametrize("how", ["plain", "scaled between", "twice in all"])
def test_inference_mode_changes_nothing(how):
    model, twin = Path(how), Path(how)
    ow.prune(twin, SOLVED, batches=rows(3, 2), reconstruct=True)
    with torch.inference_mode():
        ow.prune(model, SOLVED, batches=rows(3, 2), reconstruct=True)
    assert equal(model, twin)


def test_reconstruct_may_run_in_inference_mode():
    models = [Path(), Path()]
    for model, mode in zip(models, (False, True), strict=True):
        dense = copy.deepcopy(model)
        ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.5)))
        with torch.inference_mode(mode):
            ow.reconstruct(model, dense, rows(9, 9))
    assert equal(*models)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("technique", [HALF, SOLVED, ow.ADMM(ow.OneShot(0.5)), ow.DSnoT(ow.OneShot(0.5))], ids=str)
def test_a_weight_that_is_not_finite_is_named_and_nothing_changes(technique, value):
    model = Path()
    dense = copy.deepcopy(model)
    with torch.no_grad():
        model.layers[1].down.weight[0, 0] = value
    with pytest.raises(ValueError, match=r"layers.1.down.weight holds NaN or infinities; load a model without, or"):
        ow.prune(model, technique, batches=rows(9))
    assert equal(model.layers[0], dense.layers[0])
    sparse = copy.deepcopy(dense)
    ow.prune(sparse, ow.GradualMagnitude(ow.OneShot(0.5)))
    before = copy.deepcopy(sparse)
    with pytest.raises(ValueError, match=r"layers.1.down.weight of dense holds NaN or infinities"):
        ow.reconstruct(sparse, model, rows(9))
    assert equal(sparse, before)


@pytest.mark.parametrize("technique", [HALF, SOLVED], ids=str)
def test_a_weight_that_is_tied_to_another_block_says_whose_inputs_were_looked_at(technique):
    model = Path()
    model.layers[2].up.weight = model.layers[0].up.weight
    result = ow.prune(model, technique, batches=rows(20))
    assert [layer.remark for layer in result.layers] == [
        "also layers.2.up.weight, whose inputs were not looked at", "", "", "", ""
    ]  # fmt: skip
    assert model.layers[2].up.weight is model.layers[0].up.weight
    tied_within = Path()
    tied_within.layers[0].down.weight = nn.Parameter(torch.randn(8, 8))
    tied_within.layers[0].up = tied_within.layers[0].down
    assert ow.prune(tied_within, technique, batches=rows(20)).layers[0].remark == ""


class Masked(Path):
    """Layers, and a mask that is added to scores."""

    def forward(self, x, attention_mask=None):
        return super().forward(x * attention_mask.softmax(-1).sum())


def masked_with(value):
    mask = torch.zeros(1, 1, 3, 3)
    mask[..., 1, 2] = value
    return [{"x": rows(9)[0], "attention_mask": mask}]


def test_a_mask_may_hide_by_minus_infinity():
    model, twin = Masked(), Masked()
    ow.prune(model, HALF, batches=masked_with(float("-inf")))
    ow.prune(twin, HALF, batches=masked_with(-1e30))
    assert equal(model, twin)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_mask_that_makes_nan_is_refused(value):
    with pytest.raises(ValueError, match="batch 0 holds NaN or infinite inputs"):
        ow.prune(Masked(), HALF, batches=masked_with(value))
    inputs = masked_with(0.0)
    inputs[0]["x"][0, 0] = -float("inf")
    with pytest.raises(ValueError, match="batch 0 holds NaN or infinite inputs"):
        ow.prune(Masked(), HALF, batches=inputs)


def test_a_pattern_that_fits_nothing_whose_inputs_are_seen_is_an_error_with_all_reasons():
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 6), nn.Linear(6, 8), nn.LSTM(8, 4))
    technique = ow.Wanda(ow.OneShot(0.5), pattern=ow.NM(2, 4))
    with pytest.raises(ValueError, match="none of the selected weights can be pruned: ") as raised:
        ow.prune(model, technique, batches=[torch.randint(9, (5, 3))], select=ow.excluding("1"))
    assert ": 0.weight: the inputs of 0.weight (Embedding) cannot be observed" in str(raised.value)
    assert "; 2.weight: 4 does not divide its 6 inputs" in str(raised.value)
    assert str(raised.value).endswith("; choose another pattern or select other weights")
    assert all(parameter.all() for parameter in model.parameters())


def test_of_many_weights_that_a_pattern_does_not_fit_the_rest_is_counted_after_those_that_are_not_seen():
    model = nn.Sequential(nn.Embedding(9, 8), *(nn.Linear(6, 6) for _ in range(14)))
    technique = ow.Wanda(ow.OneShot(0.5), pattern=ow.NM(2, 4))
    with pytest.raises(ValueError, match=r"pruned: 0\.weight: the inputs of 0\.weight \(Embedding\)") as raised:
        ow.prune(model, technique, batches=[torch.randint(9, (5, 3))])
    said = str(raised.value)
    assert said.count("4 does not divide its 6 inputs") == 11
    assert said.endswith("; and 3 more; choose another pattern or select other weights")
