"""Beam search with tensor2tensor's score and stopping rule, as Gale et al. 2019 (arXiv 1902.09574) decoded.

A translation of n tokens, the end included, scores log P / ((5 + n) / 6)^alpha (Wu et al. 2016, arXiv 1609.08144). Each
step looks at the 2 * beam best continuations: those that end may become the best translation, and the ``beam`` best of
the others live on. A sentence is done when its best translation beats what the best living prefix could still score:
its log P with the length penalty of the longest translation. So no later step could change it.
"""

from typing import Protocol

import torch
from torch import Tensor

ALPHA, BEAM, EXTRA_LENGTH = 0.6, 4, 100
_CHECK = 8  # steps between checks of what is done: each waits for the device


class Prefixes(Protocol):
    """Beginnings of translations, ``beam`` of each sentence."""

    def step(self, tokens: Tensor | None = None, parents: Tensor | None = None) -> Tensor:
        """Logits (N, beam, V) of what follows.

        Args:
            tokens: (N, beam), appended to the prefixes ``parents``; without them, what follows the empty prefix.
            parents: (N, beam), numbers of prefixes of the same sentence.
        """

    def keep(self, sentences: Tensor) -> None:
        """Goes on with only the sentences of these indices."""


@torch.inference_mode()
def beam_search(
    prefixes: Prefixes, limits: Tensor, *, beam: int = BEAM, alpha: float = ALPHA, eos: int = 1
) -> tuple[list[list[int]], list[float]]:
    """For each sentence the ids of its best translation, without the end, and its score.

    Where nothing ended within the limit, that is the best unfinished translation.

    Args:
        prefixes: Empty translations of N sentences.
        limits: (N,) the most tokens of each translation, the end included, all >= 1, on the decoder's device.
        beam: How many prefixes of a sentence live on, at least 1.
        alpha: Exponent of the length penalty.
        eos: The id that ends a translation.

    Raises:
        ValueError: For beam < 1.
    """
    if beam < 1:
        raise ValueError(f"beam must be at least 1, got {beam}")
    device, count, longest = limits.device, len(limits), int(limits.max()) if len(limits) else 0
    results: list[list[int]] = [[] for _ in range(count)]
    scores = [0.0] * count
    numbers = torch.arange(count, device=device)  # which sentences are still here
    alive = torch.full((count, beam), -torch.inf, device=device)
    alive[:, 0] = 0.0  # all prefixes are empty: one of them is enough
    ids = torch.zeros(count, beam, longest, dtype=torch.long, device=device)
    best = torch.full((count,), -torch.inf, device=device)
    best_ids, best_length = ids[:, 0].clone(), torch.zeros(count, dtype=torch.long, device=device)
    done = torch.zeros(count, dtype=torch.bool, device=device)
    highest = ((5 + limits) / 6) ** alpha
    tokens: Tensor | None = None
    parents: Tensor | None = None
    for length in range(1, longest + 1):
        log_p = torch.log_softmax(prefixes.step(tokens, parents), dim=-1) + alive.unsqueeze(-1)
        values, where = log_p.flatten(1).topk(2 * beam)
        parent, token = where // log_p.shape[-1], where % log_p.shape[-1]
        ended = token == eos
        score, which = torch.where(ended, values / ((5 + length) / 6) ** alpha, -torch.inf).max(1)
        better = (score > best) & ~done
        best = torch.where(better, score, best)
        ending = ids.gather(1, parent.gather(1, which[:, None])[..., None].expand(-1, -1, longest))[:, 0]
        best_ids = torch.where(better[:, None], ending, best_ids)
        best_length = torch.where(better, length - 1, best_length)
        # Those that live on; torch sorts them.
        kept, choice = torch.where(ended, -torch.inf, values).topk(beam)
        tokens, parents = token.gather(1, choice), parent.gather(1, choice)
        ids = ids.gather(1, parents[..., None].expand(-1, -1, longest))
        ids[:, :, length - 1] = tokens
        alive = kept
        last = limits == length
        nothing = last & ~done & best.isneginf()
        best = torch.where(nothing, alive[:, 0] / highest, best)
        best_ids = torch.where(nothing[:, None], ids[:, 0], best_ids)
        best_length = torch.where(nothing, length, best_length)
        done = done | last | (best > alive[:, 0] / highest)
        if (length % _CHECK == 0 or length == longest) and bool(done.any()):
            stop = done.nonzero().flatten()
            collected = (x[stop].tolist() for x in (numbers, best_ids, best_length, best))
            for number, found, size, value in zip(*collected, strict=True):
                results[number], scores[number] = found[:size], value
            rest = (~done).nonzero().flatten()
            if not len(rest):
                break
            prefixes.keep(rest)
            state = (numbers, alive, ids, best, best_ids, best_length, done, highest, limits, tokens, parents)
            numbers, alive, ids, best, best_ids, best_length, done, highest, limits, tokens, parents = (
                x[rest] for x in state
            )
    return results, scores
