"""The Transformer of Vaswani et al. 2017 (arXiv 1706.03762) as Gale et al. 2019 (arXiv 1902.09574) trained it.

They took tensor2tensor's: norms come before each part, sines and cosines of positions are concatenated, attention has
no biases, one matrix embeds source and target and is the softmax weight, a learned vector says what the target is.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.study.models.dropout import Dropout

PADDING, EOS = 0, 1
"""Ids in every vocabulary: the one that fills up a row, and the one that ends a sentence."""

TARGET_SPACE = 8
"""The row of the table of target spaces that is added to the source; tensor2tensor's number of German tokens."""

_TARGET_SPACES = 32
NEVER = -1e9  # finite: a row that sees no token gives numbers, not NaN


class Transformer(nn.Module):
    """Ids of source and target -> logits of each target token given the source and the target tokens before it.

    With the defaults and 33,288 ids 61,163,520 parameters, of which `weight_matrices` selects 61,083,648.

    Args:
        vocabulary: The number of ids.
        width: Of embeddings and of the residual stream; a multiple of 2 * heads.
        hidden: Units of a feed-forward layer.
        heads: Of each attention.
        layers: Of the encoder, and as many of the decoder.
        residual_dropout: Of embeddings and of what is added to the residual stream.
        attention_dropout: Of attention weights.
        hidden_dropout: Of the feed-forward layers' hidden units.
        split_heads: Whether query, key and value have a matrix for each head.
        fingerprint: Of the vocabulary, kept as a buffer, so that a checkpoint tells whose ids it knows.

    Raises:
        ValueError: Unless width is a multiple of 2 * heads.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 512,
        hidden: int = 2048,
        heads: int = 8,
        layers: int = 6,
        residual_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        hidden_dropout: float = 0.1,
        split_heads: bool = False,
        fingerprint: int = 0,
    ) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width must be a multiple of 2 * heads, got {width} and {heads} heads")
        self.width, self.heads = width, heads
        self.embedding = nn.Embedding(vocabulary, width)
        self.target_space = nn.Parameter(torch.empty(_TARGET_SPACES, width))
        sizes = (width, hidden, heads, attention_dropout, hidden_dropout, residual_dropout, split_heads)
        self.encoder = nn.ModuleList(Layer(*sizes, decoder=False) for _ in range(layers))
        self.decoder = nn.ModuleList(Layer(*sizes, decoder=True) for _ in range(layers))
        self.encoder_norm, self.decoder_norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.softmax = nn.Linear(width, vocabulary, bias=False)
        self.softmax.weight = self.embedding.weight
        self.dropout = Dropout(residual_dropout)
        self.register_buffer("fingerprint", torch.tensor(fingerprint))
        for layer in self.modules():
            if isinstance(layer, nn.Linear) and layer is not self.softmax:
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.target_space)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits (N * T, vocabulary) of the target's tokens.

        Rows are ids, segments (0 = padding) and positions; a token sees tokens of its own segment.

        Args:
            source: (3, N, S), the `rows` of ids, or the ids alone, (N, S).
            target: (3, N, T) or (N, T), in the same way.
        """
        source, target = _whole(source), _whole(target)
        memory = self.encode(source)
        x = self.embed(target[0])
        # Shifted right, so that a token sees those before it; a sentence begins with zeros.
        x = F.pad(x, (0, 0, 1, 0))[:, :-1] * (target[2] > 0).unsqueeze(-1)
        x = self.dropout(x + self.positions(target[2]))
        length = x.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        own = bias((target[1].unsqueeze(2) == target[1].unsqueeze(1)) & earlier)
        cross = bias(target[1].unsqueeze(2) == source[1].unsqueeze(1))
        for layer in self.decoder:
            x = layer(x, own, memory, cross)
        # Flat: a layer that draws noise for each row of a matrix draws it for each token here, as the original does.
        logits: Tensor = self.softmax(self.decoder_norm(x).flatten(0, 1))
        return logits

    def encode(self, source: Tensor) -> Tensor:
        """What the decoder looks at, (N, S, width), for source (3, N, S)."""
        x = self.embed(source[0]) + self.target_space[TARGET_SPACE] + self.positions(source[2])
        x = self.dropout(x)
        mask = bias(source[1].unsqueeze(2) == source[1].unsqueeze(1))
        for layer in self.encoder:
            x = layer(x, mask)
        memory: Tensor = self.encoder_norm(x)
        return memory

    def embed(self, ids: Tensor) -> Tensor:
        """(N, L) -> (N, L, width), times sqrt(width); zeros for padding."""
        embedded: Tensor = self.embedding(ids) * math.sqrt(self.width)
        return embedded * (ids != PADDING).unsqueeze(-1)

    def positions(self, positions: Tensor) -> Tensor:
        """(...) -> (..., width): sines, then cosines, of width / 2 rates from 1 down to 1/10,000; float32."""
        half = self.width // 2
        rates = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10_000) / max(half - 1, 1)))
        angles = positions.unsqueeze(-1) * rates
        return torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


class Layer(nn.Module):
    """Self-attention, in a decoder attention to the source, too, and a feed-forward network, each after a norm.

    The arguments are those of `Transformer`; ``decoder`` adds the attention to the source.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        heads: int,
        attention_dropout: float,
        hidden_dropout: float,
        residual_dropout: float,
        split_heads: bool,
        *,
        decoder: bool,
    ) -> None:
        super().__init__()
        self.own_norm = nn.LayerNorm(width, eps=1e-6)
        self.own = Attention(width, heads, attention_dropout, split_heads)
        self.cross_norm = nn.LayerNorm(width, eps=1e-6) if decoder else None
        self.cross = Attention(width, heads, attention_dropout, split_heads) if decoder else None
        self.hidden_norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.hidden_dropout, self.dropout = Dropout(hidden_dropout), Dropout(residual_dropout)

    def forward(self, x: Tensor, own: Tensor, memory: Tensor | None = None, cross: Tensor | None = None) -> Tensor:
        """The residual stream after the layer, (N, L, width).

        Args:
            x: The stream before it, (N, L, width).
            own: Bias of self-attention (`bias`).
            memory: The encoded source, in a decoder.
            cross: Bias of attention to it.
        """
        normed = self.own_norm(x)
        x = x + self.dropout(self.own(normed, normed, own))
        if self.cross is not None and self.cross_norm is not None:
            assert memory is not None
            assert cross is not None
            x = x + self.dropout(self.cross(self.cross_norm(x), memory, cross))
        hidden = self.hidden_dropout(torch.relu(self.up(self.hidden_norm(x))))
        output: Tensor = x + self.dropout(self.down(hidden))
        return output


class Attention(nn.Module):
    """Multi-head attention without biases."""

    def __init__(self, width: int, heads: int, dropout: float, split_heads: bool) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        kind = SplitLinear if split_heads else _linear
        self.query, self.key, self.value = (kind(width, heads) for _ in range(3))
        self.output = _linear(width, heads)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """What the positions of ``x`` read from ``memory``, (N, L, width).

        Args:
            x: (N, L, width).
            memory: (N, M, width).
            mask: A bias (N, 1, L, M).
        """
        q, k, v = (split(part, self.heads) for part in (self.query(x), self.key(memory), self.value(memory)))
        mixed = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        y: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return y


class SplitLinear(nn.Module):
    """A square Linear without bias, with a separate layer, and so a separate sparsity, for the outputs of each head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head = nn.ModuleList(nn.Linear(width, width // heads, bias=False) for _ in range(heads))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return torch.cat([head(x) for head in self.head], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Scaled dot-product attention, (N, heads, L, head width).

    Args:
        query: (N, heads, L, head width).
        key: (N, heads, M, head width).
        value: (N, heads, M, head width).
        mask: Added to the scores.
        dropout: Of attention weights; 0 in evaluation.
    """
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def bias(seen: Tensor) -> Tensor:
    """0 where a token (N, L, M) is seen, very negative elsewhere: (N, 1, L, M)."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, NEVER).unsqueeze(1)


def split(x: Tensor, heads: int) -> Tensor:
    """(N, L, width) -> (N, heads, L, width / heads)."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def rows(ids: Tensor) -> Tensor:
    """(3, N, L): ids (N, L), the segment, 1 or 0 for padding, and positions, of one sentence a row."""
    return torch.stack([ids, (ids != PADDING).to(ids.dtype), torch.arange(ids.shape[1]).to(ids).expand_as(ids)])


def padded(sentences: Sequence[Sequence[int]], length: int | None = None) -> Tensor:
    """(3, N, L): `rows` of sentences of ids, filled up to ``length`` or the longest."""
    longest = max((len(sentence) for sentence in sentences), default=0)
    ids = torch.zeros(len(sentences), longest if length is None else length, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = torch.tensor(sentence, dtype=torch.long)
    return rows(ids)


def _linear(width: int, heads: int) -> nn.Module:
    return nn.Linear(width, width, bias=False)


def _whole(x: Tensor) -> Tensor:
    return rows(x) if x.dim() == 2 else x
