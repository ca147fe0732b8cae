"""Channels that may change places: whatever order they get, the model computes the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.inference.permute.orders import shuffled
from tests.inference.shrink.random_nets import Apply, Attention, convolutional, random_net, sequential

pytestmark = pytest.mark.usefixtures("operators_collected_once")


def alive(net):
    """Without the zeros of dead units, so that every channel counts."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.where(parameter == 0, torch.rand_like(parameter) / 2, parameter))
    return net


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("make", "shape"), [(convolutional, (2, 3, 10, 10)), (sequential, (2, 4, 5))])
def test_random_networks_compute_the_same_in_any_order(make, shape, seed):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    cells, far = shuffled(alive(random_net(make, seed)), x, seed)
    assert far < 1e-9
    assert cells  # the outputs of the hidden layer at least


def double(module):
    torch.manual_seed(0)
    return module().double()


def heads_of(way):
    import random

    attention = Attention(6, random.Random(3))
    attention.num_heads, attention.features, attention.way = 2, 3, way
    attention.query, attention.key, attention.value = (nn.Linear(6, 6) for _ in range(3))
    attention.output = nn.Linear(6, 6)
    return nn.Sequential(nn.Linear(5, 6), attention, nn.Linear(6, 3))


def fused(x, qkv, out):
    q, k, v = (one.transpose(1, 2) for one in qkv(x).view(*x.shape[:2], 3, 2, 3).unbind(2))
    return out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def in_thirds(x, qkv, out):
    q, k, v = (one.unflatten(-1, (2, 3)).transpose(1, 2) for one in qkv(x).chunk(3, -1))
    return out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def grouped_queries(x, query, pair, out):
    n, length, _ = x.shape
    k, v = (one.unflatten(-1, (2, 1, 3)).expand(-1, -1, -1, 2, -1) for one in pair(x).chunk(2, -1))
    k, v = (one.reshape(n, length, 4, 3).transpose(1, 2) for one in (k, v))
    q = query(x).view(n, length, 4, 3).transpose(1, 2)
    return out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, 12))


def gated(x, both, down):
    gate, up = both(x).chunk(2, -1)
    return down(F.silu(gate) * up)


def rotated(x, first, second):
    y, cosine = first(x), torch.linspace(0, 1, 6, dtype=x.dtype)
    return second(y * cosine + torch.cat([-y[..., 3:], y[..., :3]], -1))


def rolled(x, first, second):
    return second(first(x).roll(1, -1))


SENTENCES, IMAGES = (2, 4, 5), (2, 3, 8, 8)
CASES = {
    # what it is: (the model, its input, the sizes of the cells)
    "a hidden layer": (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), (4, 5), [7]),
    "attention with torch's kernel": (lambda: heads_of(0), SENTENCES, [3, 3, 3, 3, 6, 6]),
    "attention written out": (lambda: heads_of(2), SENTENCES, [3, 3, 3, 3, 6, 6]),
    "attention by bmm": (lambda: heads_of(3), SENTENCES, [3, 3, 3, 3, 6, 6]),
    "attention of a fused projection": (lambda: Apply(fused, nn.Linear(5, 18), nn.Linear(6, 4)), SENTENCES, [3] * 4),
    "attention of thirds": (lambda: Apply(in_thirds, nn.Linear(5, 18), nn.Linear(6, 4)), SENTENCES, [3] * 4),
    "heads that share keys and values": (
        lambda: Apply(grouped_queries, nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(12, 4)),
        SENTENCES,
        [3] * 4,
    ),
    "a gate and a value from one layer": (lambda: Apply(gated, nn.Linear(5, 14), nn.Linear(7, 3)), SENTENCES, [7]),
    "a gated linear unit": (lambda: nn.Sequential(nn.Linear(5, 14), nn.GLU(), nn.Linear(7, 3)), SENTENCES, [7]),
    "a gated linear unit of a map": (
        lambda: nn.Sequential(nn.Conv2d(3, 12, 3), nn.GLU(1), nn.Conv2d(6, 4, 3)),
        IMAGES,
        [6],
    ),
    "a rotation of halves": (lambda: Apply(rotated, nn.Linear(5, 6), nn.Linear(6, 3)), SENTENCES, []),
    "an operation that nobody knows": (lambda: Apply(rolled, nn.Linear(5, 6), nn.Linear(6, 3)), SENTENCES, []),
    "an encoder layer of torch": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.TransformerEncoderLayer(8, 2, 9, batch_first=True), nn.Linear(8, 2)),
        SENTENCES,
        [4, 4, 4, 4, 8, 9],
    ),
    "a flattened map": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)),
        IMAGES,
        [6],
    ),
    "a map flattened with channels last": (
        lambda: Apply(lambda x, a, b: b(a(x).permute(0, 2, 3, 1).flatten(1)), nn.Conv2d(3, 6, 3), nn.Linear(216, 4)),
        IMAGES,
        [6],
    ),
    "a depthwise convolution": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 2, 1)),
        IMAGES,
        [6],
    ),
    "a convolution of groups": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, groups=2), nn.Conv2d(8, 2, 1)),
        IMAGES,
        [4, 4],
    ),
    "a group norm": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 1)), IMAGES, [3, 3]),
    "an instance norm of a batch": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.MaxPool2d(2), nn.ConvTranspose2d(6, 2, 2)),
        IMAGES,
        [6],
    ),
    "maps side by side": (
        lambda: Apply(
            lambda x, a, b, c: c(torch.cat([a(x), b(x)], 1)), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(9, 2, 1)
        ),
        IMAGES,
        [4, 5],
    ),
    "a matrix that two layers share": (
        lambda: Apply(lambda x, a: F.linear(a(x).relu(), a.weight.t()), nn.Linear(5, 7)),
        SENTENCES,
        [7],
    ),
    "an embedding that the last layer shares": (
        lambda: Apply(lambda x, e: e(x.abs().long()) @ e.weight.t(), nn.Embedding(9, 6)),
        SENTENCES,
        [6],
    ),
    "a place for each token": (
        lambda: Apply(
            lambda x, a, p, b: b(F.layer_norm(a(x) + p.weight, (6,))),
            nn.Linear(5, 6),
            nn.Embedding(4, 6),
            nn.Linear(6, 2),
        ),
        SENTENCES,
        [6],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_may_change_places_and_what_may_not(case):
    make, shape, expected = CASES[case]
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cells, far = shuffled(alive(double(make)), x)
    assert cells == expected
    assert far < 1e-12


def test_models_of_transformers_compute_the_same_in_any_order():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4}
    ids = {"input_ids": torch.arange(12).view(2, 6)}
    gpt2 = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    llama = transformers.LlamaConfig(**small, **heads, num_key_value_heads=2)
    bert = transformers.BertConfig(**small, **heads)
    for model, example, expected in [
        (transformers.GPT2LMHeadModel(gpt2), ids | {"use_cache": False}, [8] * 8 + [16, 64, 64]),
        (transformers.LlamaForCausalLM(llama), ids | {"use_cache": False}, [4] * 4 + [16, 24, 24]),
        (transformers.BertForSequenceClassification(bert), ids, [4] * 16 + [16, 16, 24, 24]),
    ]:
        cells, far = shuffled(model.double(), example)
        assert cells == expected
        assert far < 1e-6  # Llama's norms compute in float32
