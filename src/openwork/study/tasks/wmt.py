"""Translation of text files, and WMT14 English to German as Gale et al. 2019 (arXiv 1902.09574) have it."""

import logging
import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Self

from openwork.study.data.corpus import Languages, Sources, packed_corpus, trained_vocabulary
from openwork.study.data.packing import Packed
from openwork.study.data.text import HUB, data_folder, read_pairs
from openwork.study.data.vocabulary import Vocabulary, read_vocabulary
from openwork.study.tasks.task import Task
from openwork.study.tasks.translation import Translation

_log = logging.getLogger(__name__)
# In any source's name.
_NEVER_TRAINED_ON = ("newstest2013", "newstest2014")
# The splits of the hub's data sets that hold them, in any of their configurations.
_HELD_OUT_SPLITS = {
    "wmt14": ("validation", "test", "all"),
    "wmt15": ("validation", "all"),
    "wmt_t2t": ("validation", "test", "all"),
}


@dataclass(frozen=True)
class TextTranslation(Translation):
    """A Transformer on text named as `openwork.study.data.text` says.

    Sentences of ``development`` and ``testing`` are left out of the training data.

    Args:
        training: The sources to train on, all together.
        development: The source whose next tokens the model predicts during training, and that it translates at the end
            if ``judged_on`` is "validation".
        testing: The source that the model translates at the end otherwise.
        languages: Of the source and of the translation.
        vocabulary_size: Ids of the vocabulary that is made from the training data.
        vocabulary_file: A sentencepiece model or a .subwords file in the folder of data sets; "" makes a vocabulary.

    Raises:
        ValueError: If there is no training source, one of them is held out, or one is newstest2013 or newstest2014.
    """

    training: Sources = field(kw_only=True)
    development: str = field(default="wmt-newstest/newstest2013", kw_only=True)
    testing: str = field(default="wmt-newstest/newstest2014", kw_only=True)
    languages: Languages = field(default=("en", "de"), kw_only=True)
    vocabulary_size: int = field(default=32_768, kw_only=True)
    vocabulary_file: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if not self.training:
            raise ValueError("training needs at least one source, got none")
        for source in self.training:
            if source in (self.development, self.testing):
                raise ValueError(f"{source} is for development or testing; leave it out of training")
            if reason := _holds_out(source):
                raise ValueError(f"{source} is not for training, as {reason}; train on another source")

    @property
    def benchmark(self) -> str:
        """The width, the languages and the set that the model translates at the end."""
        judged = self.testing if self.judged_on == "test" else self.development
        return f"Transformer {self.width}, {'-'.join(self.languages)}, {judged.rpartition('/')[2]}"

    @property
    def target_language(self) -> str:
        """The second language."""
        return self.languages[1]

    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the file, or one made from the training data."""
        return _vocabulary(self.training, self.languages, self.vocabulary_size, self.vocabulary_file)

    def with_vocabulary(self, file: str) -> Self:
        """The task with the vocabulary of a file, relative to the folder of data sets."""
        return replace(self, vocabulary_file=file)

    def leak(self, other: Task) -> str:
        """How a run of the other task may have seen the development or test set; empty where it has not."""
        if not isinstance(other, TextTranslation):
            return ""
        if not (seen := sorted({self.development, self.testing} - {other.development, other.testing})):
            return ""
        return (
            f"the run is judged on {seen[0]}, and the one that it starts from does not leave its sentences out of its "
            "training; give both the same development and testing"
        )

    def packed(self) -> Packed:
        """Memory-mapped rows of the training data.

        Raises:
            ValueError: If there is no pair to judge the model by, before it is trained.
        """
        for split in ("dev", "test"):
            self.pairs(split)
        return _packed(self)

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """Every line of "dev" or "test".

        Raises:
            ValueError: If there is none.
        """
        return _held_out({"dev": self.development, "test": self.testing}[split], self.languages)


def _holds_out(source: str) -> str:
    """How the source's name says that it holds newstest2013 or newstest2014; "" where it does not."""
    if any(name in source.lower() for name in _NEVER_TRAINED_ON):
        return "newstest2013 and newstest2014 are for development and testing"
    if not source.startswith(HUB):
        return ""
    name, _, splits = source.lower().removeprefix(HUB).partition("/")[2].partition("/")
    held_out = _HELD_OUT_SPLITS.get(name, ())
    # A split is a sum of splits or slices of them: "train+test[:50%]".
    parts = {re.split(r"[\[(]", part)[0].strip() for part in splits.rpartition("/")[2].split("+")}
    found = sorted(parts.intersection(held_out))
    return f"{' and '.join(found)} of {name} has sentences of newstest2013 or newstest2014" if found else ""


@cache
def _vocabulary(sources: Sources, languages: Languages, size: int, file: str) -> Vocabulary:
    return read_vocabulary(data_folder() / file) if file else trained_vocabulary(sources, languages, size)


@cache
def _packed(task: TextTranslation) -> Packed:
    held_out = (task.development, task.testing)
    return packed_corpus(task.training, task.languages, task.vocabulary(), task.length, held_out)


@cache
def _held_out(source: str, languages: Languages) -> list[tuple[str, str]]:
    pairs = list(read_pairs(source, languages))
    if not pairs:
        raise ValueError(f"{source} has no sentence pair to judge a model by; give another development or test set")
    if empty := sum(not (first.strip() and second.strip()) for first, second in pairs):
        _log.warning("%d of %d lines of %s have an empty side; they count like the others", empty, len(pairs), source)
    return pairs
