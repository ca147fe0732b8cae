"""Padding of the encoder is none of the decoder, and the other way round."""

import copy

import pytest
import torch
from torch import nn

import openwork as ow
from tests.core.blockwise.models import HALF, Layer
from tests.core.blockwise.test_prune import equal


class Both(nn.Module):
    """Layers for the encoder's positions and layers for the decoder's, neither of which mixes positions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 8)
        self.encoder, self.decoder = (nn.ModuleList(Layer() for _ in range(2)) for _ in range(2))

    def forward(self, input_ids, decoder_input_ids, attention_mask=None, decoder_attention_mask=None):
        found = []
        for layers, ids in ((self.encoder, input_ids), (self.decoder, decoder_input_ids)):
            x = self.embedding(ids)
            for layer in layers:
                x = layer(x)
            found.append(x.mean())
        return found


def ids(length, kept, *, padding=0):
    """Three examples, and their mask, of which the last positions are padding."""
    found = torch.randint(1, 20, (3, length), generator=torch.Generator().manual_seed(length))
    found[:, kept:] = padding
    return found, (torch.arange(length) < kept).long().expand(3, length)


def batch(encoder, decoder):
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    return dict(zip(names, (*encoder, *decoder), strict=True))


def pruned(given):
    model = Both()
    ow.prune(model, HALF, batches=[given])
    return model


def test_each_mask_is_for_positions_of_its_length():
    first, other = (pruned(batch(ids(9, 5, padding=p), ids(7, 3, padding=p))) for p in (0, 4))
    assert equal(first, other)


def test_without_a_mask_all_of_the_decoder_counts():
    given = batch(ids(9, 5), ids(7, 3))
    del given["decoder_attention_mask"]
    whole = given | {"decoder_attention_mask": torch.ones(3, 7)}
    assert equal(pruned(given), pruned(whole))


def test_without_a_mask_all_of_the_encoder_counts():
    given = batch(ids(9, 5), ids(7, 3))
    del given["attention_mask"]
    whole = given | {"attention_mask": torch.ones(3, 9)}
    assert equal(pruned(given), pruned(whole))


@pytest.mark.parametrize("masks", ["both", "the encoder's"])
def test_where_both_have_one_length_nothing_is_dropped_and_that_is_said(masks):
    given = batch(ids(7, 5), ids(7, 3))
    if masks != "both":
        del given["decoder_attention_mask"]
    with pytest.warns(UserWarning, match="encoder and decoder have as many positions, so that padding cannot be told"):
        model = pruned(given)
    assert equal(model, pruned({name: value for name, value in given.items() if "mask" not in name}))


def test_masks_that_are_equal_drop_the_same_of_both():
    first, other = (pruned(batch(ids(7, 4, padding=p), ids(7, 4, padding=p))) for p in (0, 4))
    assert equal(first, other)


def test_masks_that_hide_nothing_need_no_warning():
    given = batch(ids(7, 7), ids(7, 7))
    without = copy.copy(given)
    del without["attention_mask"], without["decoder_attention_mask"]
    assert equal(pruned(given), pruned(without))


def test_labels_say_how_long_the_decoder_is():
    """Its inputs are made from them."""

    class Shifted(Both):
        def forward(self, input_ids, labels, attention_mask=None, decoder_input_ids=None):
            return super().forward(input_ids, labels.roll(1, 1))

    found = []
    for padding in (0, 4):
        model = Shifted()
        encoder, mask = ids(9, 5, padding=padding)
        ow.prune(model, HALF, batches=[{"input_ids": encoder, "attention_mask": mask, "labels": ids(7, 7)[0]}])
        found.append(model)
    assert equal(*found)
    with pytest.warns(UserWarning, match="as many positions"):
        ow.prune(model, HALF, batches=[{"input_ids": encoder, "attention_mask": mask, "labels": ids(9, 9)[0]}])
