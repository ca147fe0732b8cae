import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from openwork.core.selection import find_weights
from openwork.study.models.transformer import Layer, Transformer, padded, rows


def tiny(**settings):
    torch.manual_seed(0)
    sizes = {"width": 32, "hidden": 48, "heads": 4, "layers": 2, **settings}
    return Transformer(20, **sizes)


def counted(**settings):
    with torch.device("meta"):
        model = Transformer(33_288, **settings)
    weights, _ = find_weights(model, ow.weight_matrices)
    return model, weights


def test_the_base_model_has_the_papers_parameters():
    model, weights = counted()
    sparsifiable, total = sum(w.parameter.numel() for w in weights), sum(p.numel() for p in model.parameters())
    assert (len(weights), sparsifiable, total) == (97, 61_083_648, 61_163_520)
    assert f"{sparsifiable / total:.2%}" == "99.87%"
    assert weights[0].name == "embedding.weight"
    assert [site.name for site in weights[0].sites] == ["embedding.weight", "softmax.weight"]


def test_split_heads_are_tensors_of_their_own():
    _, weights = counted(split_heads=True)
    # 18 attentions: 3 * 8 heads instead of 3 matrices
    assert (len(weights), sum(w.parameter.numel() for w in weights)) == (97 + 18 * 21, 61_083_648)
    source, target = padded([[5, 6, 1]]), padded([[7, 1]])
    assert tiny(split_heads=True)(source, target).shape == (2, 20)


def test_a_layer_is_torchs_layer_with_the_norm_first():
    torch.manual_seed(0)
    ours = Layer(32, 48, 4, 0.0, 0.0, 0.0, False, decoder=True).eval()
    theirs = nn.TransformerDecoderLayer(32, 4, 48, dropout=0.0, norm_first=True, layer_norm_eps=1e-6, batch_first=True)
    with torch.no_grad():
        for mine, other in ((ours.own, theirs.self_attn), (ours.cross, theirs.multihead_attn)):
            other.in_proj_weight.copy_(torch.cat([mine.query.weight, mine.key.weight, mine.value.weight]))
            other.out_proj.weight.copy_(mine.output.weight)
        for mine, other in ((ours.up, theirs.linear1), (ours.down, theirs.linear2)):
            other.load_state_dict(mine.state_dict())
    x, memory = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    y = ours(x, mask.expand(2, 1, 5, 5), memory, torch.zeros(2, 1, 5, 7))
    torch.testing.assert_close(y, theirs(x, memory, tgt_mask=mask, tgt_is_causal=True))


def test_sentences_of_one_row_do_not_see_each_other():
    model = tiny().eval()
    pairs = [([3, 4, 5, 1], [6, 7, 1]), ([8, 1], [9, 10, 11, 1])]
    alone = [model(padded([source]), padded([target])) for source, target in pairs]
    source = torch.tensor([[[3, 4, 5, 1, 8, 1]], [[1, 1, 1, 1, 2, 2]], [[0, 1, 2, 3, 0, 1]]])
    target = torch.tensor([[[6, 7, 1, 9, 10, 11, 1]], [[1, 1, 1, 2, 2, 2, 2]], [[0, 1, 2, 0, 1, 2, 3]]])
    together = model(F.pad(source, (0, 3)), F.pad(target, (0, 3)))  # and three places of padding
    torch.testing.assert_close(together[:7], torch.cat(alone))
    assert together.isfinite().all()


def test_a_token_does_not_see_later_ones_and_all_see_the_source():
    model = tiny().eval()
    source = padded([[3, 4, 1]])
    before, after = (model(source, padded([[6, 7, last]])) for last in (8, 9))
    torch.testing.assert_close(before, after)  # the last target token is only predicted
    changed = model(source, padded([[6, 12, 8]]))
    torch.testing.assert_close(changed[:2], before[:2])
    assert not torch.allclose(changed[2], before[2])
    assert not torch.allclose(model(padded([[3, 5, 1]]), padded([[6, 7, 8]]))[0], before[0])


def test_positions_are_sines_then_cosines():
    signal = tiny().positions(torch.tensor([[0, 3]]))
    assert signal.shape == (1, 2, 32)
    assert signal[0, 0].tolist() == [0.0] * 16 + [1.0] * 16
    rate = 10_000 ** (-2 / 15)  # 16 rates from 1 to 1e-4
    torch.testing.assert_close(signal[0, 1, [2, 18]], torch.tensor([math.sin(3 * rate), math.cos(3 * rate)]))


def test_embeddings_are_scaled_and_padding_is_zero():
    model = tiny()
    torch.testing.assert_close(model.embed(torch.tensor([[4]]))[0, 0], model.embedding.weight[4] * 32**0.5)
    assert (model.embed(torch.tensor([[0]])) == 0).all()
    assert rows(torch.tensor([[4, 1, 0]])).tolist() == [[[4, 1, 0]], [[1, 1, 0]], [[0, 1, 2]]]
    # Glorot's limit for 32 x 32, and the embedding's deviation: 640 draws, so 6 sigma is 17 %
    assert model.encoder[0].own.query.weight.abs().max() <= math.sqrt(6 / 64)
    assert float(model.embedding.weight.detach().std()) == pytest.approx(32**-0.5, rel=0.17)


def test_noise_is_shared_over_positions_and_not_over_tokens_of_the_softmax():
    model = tiny(residual_dropout=0.0, attention_dropout=0.0, hidden_dropout=0.0)
    ow.sparsify(model, ow.VariationalDropout(ow.Constant(0.0), log_sigma2=-2.0))
    model.train()
    x = torch.ones(2, 3, 32)  # equal inputs differ by their noise alone
    shared, own = model.encoder[0].up(x), model.softmax(x.flatten(0, 1))
    torch.testing.assert_close(shared[:, :1].expand_as(shared), shared)
    assert not torch.allclose(shared[0], shared[1])
    assert len(own.unique(dim=0)) == 6
    ids = torch.full((1, 4), 5)
    assert len(model.embed(ids)[0].unique(dim=0)) == 4  # a draw for each occurrence


def test_a_width_that_heads_and_positions_cannot_share_is_refused():
    with pytest.raises(ValueError, match="width must be a multiple of 2"):
        Transformer(20, width=36, heads=4)
