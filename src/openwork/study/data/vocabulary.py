"""Subword vocabularies: sentencepiece's, and the ``.subwords`` files of tensor2tensor, which published models need.

Id 0 is padding and id 1 the end of a sentence in all of them. `encode` does not add them, and `decode` drops them.
"""

import hashlib
import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Protocol

from openwork.study.data.text import decoded

PADDING, EOS = 0, 1


class Vocabulary(Protocol):
    """Text to ids and back."""

    size: int
    fingerprint: int
    """Equal for equal vocabularies; a positive 63-bit number."""
    unknown: int | None
    """The id of what the vocabulary cannot spell, None where it can spell everything."""

    def encode(self, sentences: Sequence[str], workers: int = 1) -> list[list[int]]:
        """Ids of each sentence.

        Args:
            sentences: Plain text.
            workers: Threads, where it has a use for them; the ids are the same for any number.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; padding and end are left out."""


def read_vocabulary(path: Path) -> Vocabulary:
    """A ``.subwords`` file of tensor2tensor, or else a sentencepiece model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For another kind of file, and where ids 0 and 1 are not padding and end.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no vocabulary {path}; give a sentencepiece model or a .subwords file")
    content = path.read_bytes()
    if path.suffix == ".subwords" or b"<pad>_'" in content[:100]:
        return Subwords(content, str(path))
    return SentencePiece(content, str(path))


def train_vocabulary(
    pairs: Callable[[], Iterable[tuple[str, str]]], size: int, *, byte_fallback: bool = True, most: int = 1_000_000
) -> bytes:
    """A joint sentencepiece model of ``size`` ids of both sides, the same bytes for the same sentences.

    Its pieces are unigrams; text is taken as it is.

    Args:
        pairs: Gives the sentence pairs; called twice.
        size: The number of ids.
        byte_fallback: Whether 256 of the pieces are bytes, to spell rare characters with; otherwise all characters are
            pieces.
        most: Of more pairs than this, every second, third and so on counts.

    Raises:
        ValueError: If there is no text, or it has not so many pieces, or more characters than pieces.
    """
    spm = _sentencepiece()
    step = math.ceil(max(sum(1 for _ in pairs()), 1) / most)
    chosen = (text for number, pair in enumerate(pairs()) if number % step == 0 for text in pair if text)
    if (first := next(chosen, None)) is None:
        raise ValueError("there is no text to make a vocabulary of, no sentence with words; is it the right text?")
    model = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=chain([first], chosen),
            model_writer=model,
            vocab_size=size,
            pad_id=PADDING,
            eos_id=EOS,
            unk_id=2,
            bos_id=-1,
            byte_fallback=byte_fallback,
            character_coverage=0.9995 if byte_fallback else 1.0,
            normalization_rule_name="identity",
            num_threads=4,  # fixed: the order of the sums, and so the pieces, depend on it
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise ValueError(_why_not(size, str(error))) from error
    return model.getvalue()


def _why_not(size: int, reason: str) -> str:
    """What sentencepiece's error means."""
    if most := re.search(r"size too high .*<= (\d+)", reason):
        return f"this text has pieces for a vocabulary of {most[1]} ids at most, got {size}; ask for fewer"
    if least := re.search(r"smaller than required_chars\. -?\d+ vs (\d+)", reason):
        return f"the characters of this text need a vocabulary of {least[1]} ids at least, got {size}; ask for more"
    if size <= EOS + 1:
        return f"padding, end and unknown need 3 ids already, got a vocabulary of {size}; ask for more"
    return f"sentencepiece makes no vocabulary of {size} ids of this text ({reason.strip()}); is it the right text?"


class SentencePiece:
    """A sentencepiece model.

    Args:
        model: The bytes of its file.
        name: What errors call it.

    Raises:
        ValueError: For bytes that are no model, or one with other ids for padding and end.
    """

    def __init__(self, model: bytes, name: str = "the sentencepiece model") -> None:
        try:
            self._model: Any = _sentencepiece().SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"{name} is no sentencepiece model and no .subwords file; fetch it again") from error
        if (self._model.pad_id(), self._model.eos_id()) != (PADDING, EOS):
            raise ValueError(
                f"{name} has padding {self._model.pad_id()} and end {self._model.eos_id()}; train it with --pad_id=0 "
                "--eos_id=1"
            )
        self.size: int = self._model.vocab_size()
        self.fingerprint = _fingerprint(model)
        self.unknown: int | None = self._model.unk_id()

    def encode(self, sentences: Sequence[str], workers: int = 1) -> list[list[int]]:
        """By the most probable pieces."""
        found: list[list[int]] = self._model.encode(list(sentences), num_threads=workers)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The pieces' text."""
        text: str = self._model.decode([i for i in ids if i not in (PADDING, EOS)])
        return text


class Subwords:
    """The vocabulary of tensor2tensor's SubwordTextEncoder: a subword a line, in quotes; a word's last ends in "_".

    Args:
        content: The bytes of its file.
        name: What errors call it.

    Raises:
        ValueError: For a file that does not begin with <pad>_ and <EOS>_; and, naming the line, where it is not UTF-8
            or not in quotes.
    """

    unknown: int | None = None

    def __init__(self, content: bytes, name: str = "the .subwords file") -> None:
        lines = [decoded(line, name, number).strip() for number, line in enumerate(content.split(b"\n"), 1)]
        for number, line in enumerate(lines, 1):
            if line and not (line[0] == line[-1] and line[0] in "'\""):
                raise ValueError(
                    f"line {number} of {name} is {line}, without quotes; each subword must be in quotes: '{line}'"
                )
        self._subwords = [line[1:-1] for line in lines if line]
        if self._subwords[:2] != ["<pad>_", "<EOS>_"]:
            raise ValueError(
                f"{name} must begin with '<pad>_' and '<EOS>_', got {' and '.join(lines[:2])}; is it the vocabulary?"
            )
        self.size = len(self._subwords)
        self.fingerprint = _fingerprint(content)
        self._ids = {subword: number for number, subword in enumerate(self._subwords) if number > EOS}
        self._longest = max(map(len, self._subwords))
        self._alphabet = {character for subword in self._subwords[2:] for character in subword} | set("\\_u;0123456789")
        self._word = lru_cache(maxsize=100_000)(self._encode_word)

    def encode(self, sentences: Sequence[str], workers: int = 1) -> list[list[int]]:
        """Each word by its longest subwords from the left, in this thread, for any number of workers."""
        return [[i for word in _words(sentence) for i in self._word(word)] for sentence in sentences]

    def decode(self, ids: Sequence[int]) -> str:
        """Words, with a space between those of letters and digits."""
        text = "".join(self._subwords[i] for i in ids if i not in (PADDING, EOS) and i < self.size)
        words = [_unescaped(word) for word in text.split("_") if word]
        spaces = [" " if _is_word(a[0]) and _is_word(b[0]) else "" for a, b in pairwise(words)]
        return "".join(space + word for space, word in zip(["", *spaces], words, strict=False))

    def _encode_word(self, word: str) -> tuple[int, ...]:
        escaped = word.replace("\\", "\\\\").replace("_", "\\u")
        known = "".join(c if c in self._alphabet and c != "\n" else f"\\{ord(c)};" for c in escaped) + "_"
        ids = []
        begin = 0
        while begin < len(known):
            for end in range(min(len(known), begin + self._longest), begin, -1):
                if (found := self._ids.get(known[begin:end])) is not None:
                    ids.append(found)
                    begin = end
                    break
            else:
                raise ValueError(f"the vocabulary cannot spell {word!r}: it has no subword {known[begin]!r}")
        return tuple(ids)


def _words(sentence: str) -> list[str]:
    """Runs of letters and digits, and runs of anything else; a single space between two runs is left out."""
    runs: list[str] = []
    begin = 0
    for place in range(1, len(sentence) + 1):
        if place == len(sentence) or _is_word(sentence[place]) != _is_word(sentence[place - 1]):
            run = sentence[begin:place]
            if run != " " or begin == 0 or place == len(sentence):
                runs.append(run)
            begin = place
    return runs


@lru_cache(maxsize=10_000)
def _is_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LN"


def _unescaped(word: str) -> str:
    def plain(match: re.Match[str]) -> str:
        if match[1] is None:
            return "_" if match[0] == "\\u" else "\\"
        return chr(int(match[1])) if int(match[1]) < 0x110000 else "?"

    return re.sub(r"\\u|\\\\|\\([0-9]+);", plain, word)


def _fingerprint(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError('this vocabulary needs sentencepiece: pip install "openwork[study]"') from error
    return sentencepiece
