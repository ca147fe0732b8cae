"""Number words from English to German: a tiny Transformer that learns to translate in minutes, without a download."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from openwork.study.data.number_words import number_words
from openwork.study.data.packing import Counts, Packed, encoded, packed_rows
from openwork.study.data.vocabulary import SentencePiece, Vocabulary, train_vocabulary
from openwork.study.tasks.translation import Translation


@dataclass(frozen=True)
class NumberWords(Translation):
    """Two layers of width 64 on lists of numbers below a thousand; 6,000 sentences to train with, 200 to test."""

    rows: int = 12
    length: int = 96
    peak_learning_rate: float = 4e-3
    warmup: float = 0.1
    width: int = 64
    hidden: int = 256
    heads: int = 4
    layers: int = 2
    residual_dropout: float = 0.0
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    label_smoothing: float = 0.1

    benchmark = "Transformer, number words"

    def vocabulary(self) -> Vocabulary:
        """A vocabulary of 96 pieces."""
        return _vocabulary()

    def packed(self) -> Packed:
        """The training data as rows in memory."""
        return _packed(self.length)

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """200 sentences."""
        return number_words(split)


@cache
def _vocabulary() -> Vocabulary:
    return SentencePiece(train_vocabulary(lambda: number_words("train"), 96, byte_fallback=False))


@cache
def _packed(length: int) -> Packed:
    counts = Counts()
    pairs = encoded(number_words("train"), _vocabulary(), counts, longest=length)
    rows = np.stack(list(packed_rows(pairs, length)))
    return Packed(rows[:, :, 0], rows[:, :, 1].astype(np.uint16), counts)
