"""Padding is no input, in whatever form a batch says where it is, and whichever axis has the positions."""

import pytest
import torch
from torch import nn

import openwork as ow
from tests.core.blockwise.models import HALF, Layer, ids, stack
from tests.core.blockwise.test_encoder_and_decoder import Both
from tests.core.blockwise.test_encoder_and_decoder import ids as sentences
from tests.core.blockwise.test_prune import equal
from tests.helpers import raises

MASKS = [(torch.arange(7) < length).expand(2, 7) for length in (3, 5, 7)]


def added(mask, hidden, dtype=torch.float32):
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, hidden)


def who_sees_whom(mask):
    return (mask[:, None] & torch.ones(7, 7).bool().tril())[:, None]  # (batch, 1, who, whom)


FORMS = {
    "bool": lambda mask: mask,
    "0 and 1 of float": lambda mask: mask.float(),
    "0 and -inf": lambda mask: added(mask, -torch.inf),
    "0 and the least": lambda mask: added(mask, torch.finfo(torch.bfloat16).min, torch.bfloat16),
    "0 and -10,000 of whole numbers": lambda mask: added(mask, -10_000, torch.int64),
    "for each query": lambda mask: added(mask[:, None, None], -1e9),
    "causal, added": lambda mask: added(who_sees_whom(mask), -torch.inf),
    "causal, of bool": who_sees_whom,
    "causal, of whole numbers, without heads": lambda mask: who_sees_whom(mask)[:, 0].long(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_may_have_any_form(form):
    model, twin = stack(), stack()
    ow.prune(twin, HALF, batches=[{"ids": i, "attention_mask": m.long()} for i, m in zip(ids(), MASKS, strict=True)])
    batches = [{"ids": i, "attention_mask": FORMS[form](m)} for i, m in zip(ids(), MASKS, strict=True)]
    ow.prune(model, HALF, batches=batches)
    assert equal(model, twin)


def test_a_mask_of_both_signs_is_refused_and_nothing_changes():
    model = stack()
    batches = [{"ids": i, "attention_mask": 2.0 * m - 1} for i, m in zip(ids(), MASKS, strict=True)]
    with raises(ValueError, "attention_mask holds numbers of both signs", "give it 1 for tokens and 0 for padding"):
        ow.prune(model, HALF, batches=batches)
    assert equal(model, stack())


class Encoder(nn.Module):
    """torch's own layers, with the batch in front or not."""

    def __init__(self, *, batch_first):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, dropout=0)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.batch_first = batch_first

    def forward(self, src, src_key_padding_mask=None):
        return self.layers(src if self.batch_first else src.mT.movedim(2, 0), src_key_padding_mask=src_key_padding_mask)


@pytest.mark.parametrize(
    "how", [lambda hidden: hidden, lambda hidden: added(~hidden, -torch.inf)], ids=["bool", "added"]
)
@pytest.mark.parametrize("examples", [3, 5], ids=["three examples", "as many as positions"])
def test_torchs_masks_of_padding_are_true_there_and_positions_may_be_in_front(examples, how):
    hidden = torch.arange(5).expand(examples, 5) > torch.arange(examples)[:, None]
    generator = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, examples, 5, 8, generator=generator)
    found = []
    for batch_first in (True, False):
        for src in (x, torch.where(hidden[..., None], other, x)):  # attention sees none of it
            model = Encoder(batch_first=batch_first)
            ow.prune(model, HALF, batches=[{"src": src, "src_key_padding_mask": how(hidden)}])
            found.append(model)
    assert equal(found[0], found[1])
    assert equal(found[2], found[3])
    for one, two in zip(found[0].parameters(), found[2].parameters(), strict=True):
        assert torch.equal(one == 0, two == 0)


class PositionsInFront(nn.Module):
    """Layers of (positions, batch, size)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, x, attention_mask=None):
        x = x.transpose(0, 1)
        for layer in self.layers:
            x = layer(x)
        return x


def test_positions_in_front_are_known_by_their_number():
    x, other = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7).expand(3, 7) < torch.tensor([[3], [7], [5]])
    models = [PositionsInFront() for _ in range(3)]
    for model, given in zip(models, (x, torch.where(mask[..., None], x, other), x), strict=True):
        ow.prune(model, HALF, batches=[{"x": given} if model is models[2] else {"x": given, "attention_mask": mask}])
    assert equal(models[0], models[1])
    assert not equal(models[0], models[2])


class Labelled(Both):
    """An encoder and a decoder, whose inputs are made from labels; without these they are the encoder's."""

    def forward(self, input_ids, labels, attention_mask=None, decoder_input_ids=None):
        return super().forward(input_ids, input_ids if labels.dim() == 1 else labels.clamp(min=0))


def test_labels_that_are_ignored_are_padding_of_a_decoder():
    encoder, mask = sentences(9, 5)
    batch = {"input_ids": encoder, "attention_mask": mask, "labels": sentences(7, 3, padding=-100)[0]}
    models = [Labelled(), Labelled()]
    models[1].embedding.weight.data[0] = models[1].embedding.weight[4].detach()  # another token in the padding
    for model in models:
        ow.prune(model, HALF, batches=[batch])
    assert equal(models[0].decoder, models[1].decoder)


def test_labels_of_whole_examples_say_nothing_of_positions():
    given = dict(zip(("input_ids", "attention_mask"), sentences(7, 5), strict=True)) | {"labels": torch.arange(3)}
    with pytest.warns(UserWarning, match="encoder and decoder have as many positions"):  # as there are no others
        ow.prune(Labelled(), HALF, batches=[given])


def test_labels_without_a_decoder_do_not_tell_padding_from_text():
    class Words(type(stack())):
        def forward(self, ids, labels=None):
            return super().forward(ids)

    models = [stack(), stack()]
    for model in models:
        model.__class__ = Words
    ow.prune(models[0], HALF, batches=[{"ids": i, "labels": torch.where(i > 5, i, -100)} for i in ids()])
    ow.prune(models[1], HALF, batches=[{"ids": i} for i in ids()])
    assert equal(*models)
