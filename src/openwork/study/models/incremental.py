"""A trained Transformer's decoder, one token at a time: it keeps what it computed for earlier tokens.

Weights are read once, so that a weight that must be computed is not computed again for every token, and query, key and
value are one product. All prefixes of a sentence lie in one cache that is never reordered: a prefix that continues
another takes over its mask, which says whose tokens it sees.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.study.models.transformer import NEVER, PADDING, Attention, Layer, SplitLinear, Transformer, bias, split

_BLOCK = 64  # places: attention looks at whole blocks, most of the last one under the mask
_GROWTH = 4 * _BLOCK  # places by which the cache grows


@dataclass(frozen=True)
class _Layer:
    norms: tuple[nn.Module, nn.Module, nn.Module]
    own: Tensor  # query, key, value: (3 * width, width)
    own_output: Tensor
    query: Tensor
    cross_output: Tensor
    up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]


class Incremental:
    """The decoder's weights in ``dtype``; `begin` starts a batch.

    Args:
        model: A Transformer in evaluation mode.
        dtype: Of the weights and of the computation.

    Raises:
        ValueError: For a model in training mode.
    """

    def __init__(self, model: Transformer, dtype: torch.dtype = torch.float32) -> None:
        if model.training:
            raise ValueError("the model must be in evaluation mode; call model.eval()")
        self.model, self.dtype = model, dtype
        self.embedding = model.embedding.weight.to(dtype)
        self.layers: list[_Layer] = []
        memory = []
        for layer in model.decoder:
            assert isinstance(layer, Layer)
            assert layer.cross_norm is not None
            own, cross = layer.own, layer.cross
            assert isinstance(own, Attention)
            assert isinstance(cross, Attention)
            self.layers.append(
                _Layer(
                    norms=(layer.own_norm, layer.cross_norm, layer.hidden_norm),
                    own=torch.cat([_weight(part) for part in (own.query, own.key, own.value)]).to(dtype),
                    own_output=_weight(own.output).to(dtype),
                    query=_weight(cross.query).to(dtype),
                    cross_output=_weight(cross.output).to(dtype),
                    up=(layer.up.weight.to(dtype), layer.up.bias.to(dtype)),
                    down=(layer.down.weight.to(dtype), layer.down.bias.to(dtype)),
                )
            )
            memory += [_weight(cross.key), _weight(cross.value)]
        self.memory = torch.cat(memory).to(dtype)  # keys and values of all layers at once

    def begin(self, source: Tensor, beam: int) -> "Prefixes":
        """Empty translations of the sentences of a batch.

        Args:
            source: (3, N, S), one sentence a row.
            beam: How many translations of each sentence.
        """
        with torch.autocast(source.device.type, self.dtype, enabled=self.dtype != torch.float32):
            encoded = self.model.encode(source)
        return Prefixes(self, F.linear(encoded.to(self.dtype), self.memory), source[0], beam)


class Prefixes:
    """Beginnings of translations that grow together.

    Args:
        decoder: The weights.
        memory: Keys and values of the source for all layers, (N, S, 2 * layers * width).
        source: Ids of the source, (N, S).
        beam: How many beginnings of each sentence.
    """

    def __init__(self, decoder: Incremental, memory: Tensor, source: Tensor, beam: int) -> None:
        self.decoder, self.beam = decoder, beam
        heads = decoder.model.heads
        parts = memory.chunk(2 * len(decoder.layers), dim=-1)
        self.memory = torch.stack([split(part, heads) for part in parts])  # (2 * layers, N, heads, S, width / heads)
        self.mask = bias((source != PADDING).unsqueeze(1)).to(decoder.dtype)
        self.length = 0
        self.cache = memory.new_zeros(*self.memory.shape[:3], 0, self.memory.shape[-1])
        self.seen = memory.new_zeros(len(source), 1, beam, 0)  # a bias for each place of the cache
        self.itself = bias(torch.eye(beam, dtype=torch.bool, device=source.device)[None]).to(decoder.dtype)

    def step(self, tokens: Tensor | None = None, parents: Tensor | None = None) -> Tensor:
        """Logits (N, beam, vocabulary) of what follows; float32.

        Args:
            tokens: (N, beam), appended to the prefixes ``parents``; without them, what follows the empty prefix.
            parents: (N, beam), numbers of prefixes of the same sentence, 0 to beam - 1.
        """
        decoder, model = self.decoder, self.decoder.model
        sentences = self.mask.shape[0]
        x = decoder.embedding.new_zeros(sentences, self.beam, model.width)
        if tokens is not None and parents is not None:
            index = parents[:, None, :, None].expand(-1, -1, -1, self.seen.shape[-1])
            self.seen = self.seen.gather(2, index)
            x = F.embedding(tokens, decoder.embedding) * model.width**0.5 * (tokens != PADDING).unsqueeze(-1)
        x = x + model.positions(torch.full((1,), self.length, device=x.device)).to(x.dtype)
        self.length += 1
        if (more := self.length * self.beam - self.cache.shape[3]) > 0:
            more = -(-more // _GROWTH) * _GROWTH
            self.cache = F.pad(self.cache, (0, 0, 0, more))
            self.seen = F.pad(self.seen, (0, more), value=NEVER)
        self.seen[..., self._last()] = self.itself
        for number, layer in enumerate(decoder.layers):
            x = self._layer(x, layer, number)
        return F.linear(_norm(model.decoder_norm, x), decoder.embedding).float()

    def keep(self, sentences: Tensor) -> None:
        """Goes on with only the sentences of these indices."""
        self.memory, self.mask = self.memory.index_select(1, sentences), self.mask.index_select(0, sentences)
        self.cache, self.seen = self.cache.index_select(1, sentences), self.seen.index_select(0, sentences)

    def _last(self) -> slice:
        """The places of the newest tokens."""
        return slice((self.length - 1) * self.beam, self.length * self.beam)

    def _layer(self, x: Tensor, layer: _Layer, number: int) -> Tensor:
        heads, (sentences, beam, width) = self.decoder.model.heads, x.shape
        together = F.linear(_norm(layer.norms[0], x), layer.own).view(sentences, beam, 3, heads, width // heads)
        q, k, v = together.permute(2, 0, 3, 1, 4)
        keys, values = self.cache[2 * number], self.cache[2 * number + 1]
        keys[:, :, self._last()], values[:, :, self._last()] = k, v
        places = -(-self.length * beam // _BLOCK) * _BLOCK
        seen = self.seen[..., :places]
        mixed = F.scaled_dot_product_attention(q, keys[:, :, :places], values[:, :, :places], attn_mask=seen)
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), layer.own_output)
        # The prefixes of a sentence share one copy of it, as if they were the positions of one row.
        q = split(F.linear(_norm(layer.norms[1], x), layer.query), heads)
        keys, values = self.memory[2 * number], self.memory[2 * number + 1]
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=self.mask)
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), layer.cross_output)
        hidden = torch.relu(F.linear(_norm(layer.norms[2], x), *layer.up))
        return x + F.linear(hidden, *layer.down)


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(norm, nn.LayerNorm)
    weight, shift = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return F.layer_norm(x, norm.normalized_shape, weight, shift, norm.eps)


def _weight(layer: nn.Module) -> Tensor:
    """(out, in)."""
    if isinstance(layer, SplitLinear):
        return torch.cat([_weight(head) for head in layer.head])
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()
