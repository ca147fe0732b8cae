"""English and German number words by num2words: text to translate that needs no download and has one right answer.

A sentence is a list of numbers below a thousand: "three hundred and five, twelve" is "dreihundertfünf, zwölf". German
says units before tens and writes a number as one word.
"""

import functools
from typing import Any

import numpy as np

_SENTENCES = {"train": 6_000, "dev": 200, "test": 200}
_LENGTHS = (1, 7)  # some of four and more: BLEU needs four words
_BELOW = 1_000


def number_words(split: str) -> list[tuple[str, str]]:
    """The (English, German) pairs of a split, always the same ones; no sentence of one split is in another.

    Args:
        split: "train" (6,000 sentences), "dev" or "test" (200 each).

    Raises:
        ValueError: For another split.
        ImportError: Without num2words.
    """
    if split not in _SENTENCES:
        raise ValueError(f"the number words have the splits {', '.join(_SENTENCES)}, got {split!r}; choose one")
    return _sentences()[split]


@functools.cache
def _sentences() -> dict[str, list[tuple[str, str]]]:
    try:
        from num2words import num2words
    except ImportError as error:
        raise ImportError('number words need num2words: pip install "openwork[study]"') from error
    words: Any = num2words
    spelled = [tuple(words(number, lang=language) for language in ("en", "de")) for number in range(_BELOW)]
    generator = np.random.default_rng(2019)
    lists: dict[tuple[int, ...], None] = {}  # in order, each once
    while len(lists) < sum(_SENTENCES.values()):
        lists[tuple(generator.integers(_BELOW, size=generator.integers(*_LENGTHS)).tolist())] = None
    pairs = [(", ".join(spelled[n][0] for n in each), ", ".join(spelled[n][1] for n in each)) for each in lists]
    splits = {}
    for split, count in _SENTENCES.items():
        splits[split], pairs = pairs[:count], pairs[count:]
    return splits
