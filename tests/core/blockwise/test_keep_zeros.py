"""`prune` further what is sparse already: the zeros stay."""

import pytest
import torch

import openwork as ow
from tests.core.blockwise.models import ids, stack
from tests.core.blockwise.test_prune import equal
from tests.core.blockwise.test_resume import Stopped, stopping_after

FURTHER = ow.OneShot(0.6)
TECHNIQUES = [
    ow.Wanda(FURTHER),
    ow.Wanda(FURTHER, allocation=ow.GlobalRanking(), pattern=ow.Unstructured()),
    ow.SparseGPT(ow.OneShot(0.5), pattern=ow.NM(2, 4)),
    ow.ADMM(ow.OneShot(0.5), pattern=ow.NM(2, 4)),
]


def sparse():
    """A model of which 40 %, by no score, is zero: in some groups of four more than 2:4 takes."""
    model = stack()
    ow.prune(model, ow.RandomPruning(ow.OneShot(0.4)), select="layers")
    return model


def stays(model):
    return all(
        not parameter.detach()[before == 0].any()
        for parameter, before in zip(model.layers.parameters(), sparse().layers.parameters(), strict=True)
    )


@pytest.mark.parametrize("reconstruct", [False, True])
@pytest.mark.parametrize("technique", TECHNIQUES, ids=["Wanda", "ranked", "SparseGPT", "ADMM"])
def test_zeros_stay_and_count_among_those_of_the_technique(technique, reconstruct):
    model = sparse()
    result = ow.prune(model, technique, batches=ids(), keep_zeros=True, reconstruct=reconstruct)
    assert stays(model)
    assert result.sparsity == pytest.approx(technique.schedule.final, abs=0.1)


@pytest.mark.parametrize("technique", TECHNIQUES[2:], ids=["SparseGPT", "ADMM"])
def test_without_it_solvers_fill_zeros(technique):
    model = sparse()
    ow.prune(model, technique, batches=ids())
    assert not stays(model)


def test_zeros_stay_where_the_whole_model_is_pruned_at_once():
    model = sparse()
    ow.prune(model, ow.RandomPruning(FURTHER), select="layers", keep_zeros=True)
    assert stays(model)


def test_a_resumed_prune_keeps_them_and_one_without_is_another(tmp_path):
    whole, model = sparse(), sparse()
    ow.prune(whole, TECHNIQUES[2], batches=ids(), keep_zeros=True)
    with pytest.raises(Stopped):
        ow.prune(model, TECHNIQUES[2], batches=ids(), keep_zeros=True, resume=tmp_path, progress=stopping_after(1))
    with pytest.raises(ValueError, match="a prune whose keep_zeros is True; pass what it was begun with"):
        ow.prune(model, TECHNIQUES[2], batches=ids(), resume=tmp_path)
    ow.prune(model, TECHNIQUES[2], batches=ids(), keep_zeros=True, resume=tmp_path)
    assert equal(model, whole)


def test_the_masks_are_those_of_sparsify_where_there_is_one_block():
    model, twin = sparse(), sparse()
    x = ids()[0]
    ow.prune(model, TECHNIQUES[2], batches=[x], select="layers.0.up", blocks="layers.0", keep_zeros=True)
    ow.sparsify(twin, TECHNIQUES[2], select="layers.0.up", keep_zeros=True, calibrate=lambda model: model(x)).finalize()
    torch.testing.assert_close(model.layers[0].up.weight, twin.layers[0].up.weight)
