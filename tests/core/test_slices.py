"""A solver that goes from input to input chooses a pattern's mask slice by slice, and it comes out as a whole."""

import copy

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.layout import layout_of
from openwork.core.masks.slices import slices

EVERYWHERE = torch.ones(1, 4, 12, dtype=torch.bool)


def test_slices_have_one_sparsity_and_add_up():
    assert slices(ow.Unstructured(), EVERYWHERE, 15, 5, final=True) == [(0, 5, 7), (5, 10, 6), (10, 12, 2)]
    assert slices(ow.PerOutput(), EVERYWHERE, 15, 5, final=True) == [(0, 5, 8), (5, 10, 7), (10, 12, 0)]
    assert slices(ow.PerOutput(), EVERYWHERE, 24, 5, final=True) == [(0, 5, 12), (5, 10, 8), (10, 12, 4)]


def test_slices_hold_whole_groups():
    assert slices(ow.Block(2, 4), EVERYWHERE, 24, 6, final=True) == [(0, 4, 8), (4, 8, 8), (8, 12, 8)]
    assert slices(ow.Columns(), EVERYWHERE, 20, 5, final=True) == [(0, 5, 12), (5, 10, 8), (10, 12, 0)]
    assert slices(ow.Rows(), EVERYWHERE, 24, 5, final=True) == [(0, 12, 24)]


def test_slices_of_n_of_m_are_its_groups_in_the_end_and_whole_groups_on_the_way():
    assert slices(ow.NM(2, 4), EVERYWHERE, 24, 5, final=True) == [(0, 4, None), (4, 8, None), (8, 12, None)]
    assert slices(ow.NM(2, 4), EVERYWHERE, 36, 8, final=False) == [(0, 8, 24), (8, 12, 12)]


def test_slices_of_a_convolution_are_whole_channels():
    kernels = torch.ones(1, 4, 6, 3, 3, dtype=torch.bool)
    assert [(b, e) for b, e, _ in slices(ow.Unstructured(), kernels, 108, 20, final=True)] == [(0, 2), (2, 4), (4, 6)]
    assert [(b, e) for b, e, _ in slices(ow.Block(1, 6), kernels, 108, 20, final=True)] == [(0, 2), (2, 4), (4, 6)]


def test_slices_where_zeros_stay_keep_their_share_of_what_is_left():
    allowed = EVERYWHERE.clone()
    allowed[:, :, :5] = False
    assert slices(ow.Unstructured(), allowed, 14, 5, final=True) == [(0, 5, 0), (5, 10, 10), (10, 12, 4)]
    assert slices(ow.PerOutput(), allowed, 14, 5, final=True) == [(0, 12, 14)]


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 5, 30, 44, 47, 48])
@pytest.mark.parametrize("columns", [1, 5, 128])
def test_slices_of_every_count_can_be_kept_and_have_the_pattern(keep, columns):
    pattern, ties = ow.PerOutput(), torch.Generator().manual_seed(0)
    scores = torch.rand(EVERYWHERE.shape, generator=ties)
    parts = [
        pattern.mask_of_matrices(scores[:, :, begin:end], number, ties)
        for begin, end, number in slices(pattern, EVERYWHERE, keep, columns, final=True)
    ]
    rows = torch.cat(parts, 2).sum(2)
    assert int(rows.sum()) == keep
    assert int(rows.max() - rows.min()) <= 1


@pytest.mark.parametrize("pattern", [ow.Unstructured(), ow.PerOutput(), ow.NM(2, 4), ow.Block(2, 2), ow.Columns()])
@pytest.mark.parametrize("layer", [nn.Linear(8, 4), nn.Conv2d(8, 4, 3), nn.Conv2d(8, 8, 1, groups=2)], ids=repr)
def test_the_mask_of_matrices_is_the_mask_of_the_stored_weight(pattern, layer):
    layer = copy.deepcopy(layer)
    stored = layer.weight.detach()
    layout = layout_of(layer, "weight", stored.shape)
    half = stored.numel() // 2
    found = pattern.mask_of_matrices(layout.matrices(stored.abs()), half, torch.Generator().manual_seed(0))
    ow.sparsify(layer, ow.GradualMagnitude(ow.OneShot(0.5), pattern=pattern)).finalize()
    assert torch.equal(found, layout.matrices(layer.weight) != 0)
