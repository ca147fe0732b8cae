"""Corpora of text files, made ready once: a vocabulary of them, and their sentences packed into rows.

Both lie in a cache, the folder that the environment variable OPENWORK_CACHE names (``~/.cache/openwork`` if unset),
under a name that is a hash of what they were made from: the files' contents, the vocabulary and the settings. What a
disk has damaged there is made again.
"""

import hashlib
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from openwork.study.data.cache import cache_folder
from openwork.study.data.packing import Counts, Packed, encoded, pack
from openwork.study.data.text import content_key, read_pairs
from openwork.study.data.vocabulary import SentencePiece, Vocabulary, train_vocabulary
from openwork.study.files import write_atomically

_log = logging.getLogger(__name__)
Sources = tuple[str, ...]
Languages = tuple[str, str]


def trained_vocabulary(sources: Sources, languages: Languages, size: int) -> Vocabulary:
    """A joint vocabulary of ``size`` ids of both languages, trained on the sources unless the cache has it."""
    name = f"vocabulary-{_key(sources, languages, size)}"
    for path in sorted(cache_folder().glob(f"{name}-*.model")):
        model = path.read_bytes()
        if path == _place(name, model):  # otherwise the disk has changed it
            return SentencePiece(model, str(path))
    model = train_vocabulary(lambda: _pairs(sources, languages), size)
    path = _place(name, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_bytes(model))
    _log.warning("made the vocabulary %s", path)
    return SentencePiece(model, str(path))  # not from the file: of several processes only the first writes it


def _place(name: str, model: bytes) -> Path:
    """Where a vocabulary of that name is kept; the file's name ends with a checksum of its content."""
    return cache_folder() / f"{name}-{zlib.crc32(model):08x}.model"


def packed_corpus(
    sources: Sources, languages: Languages, vocabulary: Vocabulary, length: int, held_out: Sources, workers: int = 0
) -> Packed:
    """The sources' pairs in rows of ``length`` ids, encoded unless the cache has them.

    A pair is left out, and counted, where a side is empty, longer than a row, or a sentence of the sources held out.

    Args:
        sources: Names of sources, as `read_pairs` takes them.
        languages: Those of the two sides: ("en", "de").
        vocabulary: Encodes both sides.
        length: Ids of a row.
        held_out: Sources whose sentences must not be trained on.
        workers: How many threads of sentencepiece encode; by default one for each processor. The rows are the same for
            any number.

    Raises:
        FileNotFoundError, ValueError: As for `read_pairs`; ValueError also if no pair is left.
    """
    key = _key(sources, languages, vocabulary.fingerprint, length, _key(held_out, languages))
    kept_away = frozenset(text for pair in _pairs(held_out, languages) for text in pair if text)
    counts = Counts()
    pairs = encoded(
        _pairs(sources, languages),
        vocabulary,
        counts,
        longest=length,
        held_out=kept_away,
        workers=workers or os.cpu_count() or 1,
    )
    packed = pack(pairs, counts, length, vocabulary.size, cache_folder() / f"packed-{key}")
    if counts.pairs:  # made just now
        _log.warning("packed %s into %d rows: %s", ", ".join(sources), len(packed.ids), packed.counts)
    return packed


def _pairs(sources: Sources, languages: Languages) -> Iterator[tuple[str, str]]:
    return (pair for source in sources for pair in read_pairs(source, languages))


def _key(sources: Sources, languages: Languages, *settings: object) -> str:
    contents = [content_key(source, languages) for source in sources]
    return hashlib.sha256(repr((contents, languages, settings)).encode()).hexdigest()[:16]
