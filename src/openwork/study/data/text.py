"""Sentences and their translations, from text files, parquet files or the Hugging Face hub, one pair after another.

A string names a source:

* ``folder/name`` stands for the files ``name.en`` and ``name.de`` (perhaps with ``.gz``), or for ``name.parquet`` and
  its shards, in the folder that the environment variable OPENWORK_DATA names;
* a name that ends in ``.tok`` stands for text tokenised by Moses; it is made plain again;
* a name like ``hub:owner/name/configuration/split`` stands for a data set of the hub.

Line i of one file is the translation of line i of the other: nothing is left out or shifted here.
"""

import functools
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

HUB = "hub:"


def read_pairs(source: str, languages: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """All pairs of a source in the order of its files, without white space at their ends; sentences may be empty.

    A null of parquet or the hub is an empty sentence.

    Args:
        source: Its name, as described at the top of this module.
        languages: Those of the first and the second sentence, as in the files' names, columns or struct fields:
            ("en", "de").

    Raises:
        FileNotFoundError: Where nothing has that name.
        ValueError: For files of different numbers of lines, damaged files, invalid UTF-8, and rows without these
            languages; names file and line or row.
    """
    pairs: Iterator[tuple[str, str]]
    if source.startswith(HUB):
        pairs = _of_rows(_hub(source), languages, source)
    elif shards := _shards(source):
        pairs = (pair for path in shards for pair in _of_rows(_parquet(path), languages, str(path)))
    else:
        pairs = _aligned(*(_text_file(source, language) for language in languages))
    detokenize = [_detokenizer(language) for language in languages] if source.endswith(".tok") else None
    for first, second in pairs:
        if detokenize:
            first, second = detokenize[0](first), detokenize[1](second)
        yield first.strip(), second.strip()


def content_key(source: str, languages: tuple[str, str]) -> str:
    """A hash of what the source holds: of its files, or of the checksums that the hub gives for its files."""
    digest = hashlib.sha256()
    if source.startswith(HUB):
        found = _hub(source)
        digest.update(repr((source, len(found), found.info.download_checksums)).encode())
        return digest.hexdigest()
    for path in _shards(source) or [_text_file(source, language) for language in languages]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(b"tokenised" if source.endswith(".tok") else b"")
    return digest.hexdigest()


def data_folder() -> Path:
    """The folder that OPENWORK_DATA names, by default ``data`` in the current one."""
    return Path(os.environ.get("OPENWORK_DATA") or "data").absolute()


def decoded(line: bytes, name: str, number: int) -> str:
    """The line as text.

    Args:
        line: Its bytes.
        name: The file it comes from, for the error.
        number: Its number in the file, for the error.

    Raises:
        ValueError: Unless it is UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"line {number} of {name} is not UTF-8 ({error.reason}); convert it with iconv") from error


def _aligned(first: Path, second: Path) -> Iterator[tuple[str, str]]:
    numbers = [0, 0]
    for one, other in zip_longest(_lines(first), _lines(second)):
        numbers[0] += one is not None
        numbers[1] += other is not None
        if one is not None and other is not None:
            yield one, other
    if numbers[0] != numbers[1]:
        raise ValueError(
            f"{first} has {numbers[0]} lines and {second} {numbers[1]}; line i of one must translate line i of the "
            "other"
        )


def _lines(path: Path) -> Iterator[str]:
    # Binary: only "\n" ends a line, not the other line ends of Unicode.
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield decoded(line, str(path), number)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked after line {number} ({error}); fetch it again") from error


def _text_file(source: str, language: str) -> Path:
    plain = data_folder() / f"{source}.{language}"
    for path in (plain, plain.with_name(f"{plain.name}.gz")):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"there is no {plain}, with or without .gz, and no {source}.parquet beside it; put the text there (the "
        "environment variable OPENWORK_DATA names the folder of data sets)"
    )


def _shards(source: str) -> list[Path]:
    """The source's parquet files in order; none where it has none. Raises ValueError where some are missing."""
    stem = data_folder() / source
    if stem.with_name(f"{stem.name}.parquet").is_file():
        return [stem.with_name(f"{stem.name}.parquet")]
    pattern = re.compile(rf"{re.escape(stem.name)}-(\d+)-of-(\d+)\.parquet")
    found = sorted((match, path) for path in stem.parent.glob("*.parquet") if (match := _numbers(pattern, path)))
    if found and [number for (number, _), _ in found] != list(range(found[0][0][1])):
        names = ", ".join(path.name for _, path in found)
        raise ValueError(f"{stem} has shards missing or of two sets: {names}; keep one complete set")
    return [path for _, path in found]


def _numbers(pattern: re.Pattern[str], path: Path) -> tuple[int, int] | None:
    match = pattern.fullmatch(path.name)
    return (int(match[1]), int(match[2])) if match else None


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(f'reading {path} needs pyarrow: pip install "openwork[study]"') from error
    rows = 0
    try:
        with pq.ParquetFile(path) as file:
            nested = "translation" in file.schema_arrow.names
            for batch in file.iter_batches(columns=["translation"] if nested else None):
                yield from batch.to_pylist()
                rows += len(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read after row {rows} ({str(error).strip()}); is it whole, and text in UTF-8?"
        ) from error


def _of_rows(rows: Iterable[dict[str, Any]], languages: tuple[str, str], name: str) -> Iterator[tuple[str, str]]:
    for number, row in enumerate(rows, 1):
        pair = row.get("translation", row)
        if pair is None:  # a row of nulls, in a struct
            pair = dict.fromkeys(languages)
        for language in languages:
            if not isinstance(pair, dict) or language not in pair:
                raise ValueError(
                    f"row {number} of {name} has no {language!r}, only {list(pair)}; it needs columns {languages[0]!r} "
                    f"and {languages[1]!r}, or a struct 'translation' of these"
                )
            if not isinstance(pair[language], str | None):
                raise ValueError(f"row {number} of {name} has {pair[language]!r} as {language!r}; it must be text")
        yield pair[languages[0]] or "", pair[languages[1]] or ""


@functools.cache
def _hub(source: str) -> Any:
    parts = source.removeprefix(HUB).split("/")
    if len(parts) != 4:
        raise ValueError(f"a data set of the hub is hub:owner/name/configuration/split, got {source!r}")
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f'reading {source} needs datasets: pip install "openwork[hub]"') from error
    try:
        return datasets.load_dataset("/".join(parts[:2]), parts[2], split=parts[3])
    except (ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(f"the hub gave no {source} ({error}); check the name and the network") from error


def _detokenizer(language: str) -> Any:
    try:
        from sacremoses import MosesDetokenizer
    except ImportError as error:
        raise ImportError('tokenised text needs sacremoses: pip install "openwork[study]"') from error
    moses = MosesDetokenizer(lang=language)
    return lambda text: moses.detokenize(text.split())
