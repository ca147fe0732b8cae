"""A Transformer of the base size (Vaswani et al. 2017, arXiv 1706.03762), of layers that all libraries know."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention from four Linear layers: nn.MultiheadAttention crashes under torch.nn.utils.prune."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, causal: bool) -> Tensor:
        """x: (N, L, width), memory: (N, M, width) -> (N, L, width)."""
        q, k, v = self._split(self.query(x)), self._split(self.key(memory)), self._split(self.value(memory))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        y: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return y

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Block(nn.Module):
    """Self-attention, in a decoder attention to the encoder too, and the feed-forward layer; norms come first."""

    def __init__(self, width: int, heads: int, decoder: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.own = Attention(width, heads)
        self.cross = Attention(width, heads) if decoder else None
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if decoder else 2))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """x: (N, L, width) -> (N, L, width)."""
        normed = self.norms[0](x)
        x = x + self.own(normed, normed, self.decoder)
        if self.cross is not None:
            assert memory is not None
            x = x + self.cross(self.norms[1](x), memory, False)
        y: Tensor = x + self.down(torch.relu(self.up(self.norms[-1](x))))
        return y


class Transformer(nn.Module):
    """Source and target ids (N, L) -> the mean cross-entropy; one matrix embeds both and is the softmax weight."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        heads = max(1, width // 64)
        self.width = width
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.encoder = nn.ModuleList(Block(width, heads, decoder=False) for _ in range(layers))
        self.decoder = nn.ModuleList(Block(width, heads, decoder=True) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """source, target: ids (N, L) -> shape (); nats for each target token, which is its own label."""
        memory = self._embed(source)
        for block in self.encoder:
            memory = block(memory)
        x = self._embed(target)
        for block in self.decoder:
            x = block(x, memory)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten())

    def _embed(self, ids: Tensor) -> Tensor:
        x: Tensor = self.embedding(ids) * math.sqrt(self.width)
        positions = torch.arange(ids.shape[1], device=ids.device)[:, None]
        rates = torch.exp(torch.arange(0, self.width, 2, device=ids.device) * (-math.log(10_000) / self.width))
        return x + torch.cat([torch.sin(positions * rates), torch.cos(positions * rates)], dim=1)
