import tracemalloc
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from openwork.study.data.corpus import packed_corpus, trained_vocabulary
from openwork.study.data.number_words import number_words
from openwork.study.data.packing import (
    Counts,
    Packed,
    batch_of,
    by_length,
    encoded,
    pack,
    packed_batches,
    packed_rows,
    read_packed,
)

CPU = torch.device("cpu")
EN_DE = ("en", "de")


class Letters:
    """a is 3, b is 4, ...; "?" is unknown."""

    size, fingerprint, unknown = 40, 1, 2

    def encode(self, sentences, workers=1):
        return [[2 if letter == "?" else ord(letter) - 94 for letter in text] for text in sentences]


def numbered(rows):
    """Rows that are told apart by their first id."""
    ids = np.zeros((rows, 2, 4), np.uint16)
    ids[:, 0, 0] = np.arange(rows)
    return Packed(ids, (ids + 1).astype(np.uint16), Counts())


def first_ids(batches, count):
    return [source[0, :, 0].tolist() for source, _ in islice(batches, count)]


def test_pairs_fill_the_first_row_with_room_for_both_sides():
    pairs = [([3] * 4, [4] * 2), ([5] * 3, [6] * 5), ([7] * 2, [8] * 2)]
    rows = list(packed_rows(pairs, 6))
    # The second pair finds no room beside the first: 4 + 3 ids. The third does.
    assert [row.tolist() for row in rows] == [
        [[[3, 3, 3, 3, 7, 7], [1, 1, 1, 1, 2, 2]], [[4, 4, 8, 8, 0, 0], [1, 1, 2, 2, 0, 0]]],
        [[[5, 5, 5, 0, 0, 0], [1, 1, 1, 0, 0, 0]], [[6, 6, 6, 6, 6, 0], [1, 1, 1, 1, 1, 0]]],
    ]
    source, target = batch_of(rows[0][None, :, 0], rows[0][None, :, 1], CPU)
    assert source.tolist() == [[[3, 3, 3, 3, 7, 7]], [[1, 1, 1, 1, 2, 2]], [[0, 1, 2, 3, 0, 1]]]
    assert target[2].tolist() == [[0, 1, 0, 1, 0, 0]]


def test_at_most_ten_rows_are_open():
    long = [([3] * 4, [3] * 4)] * 11
    rows = list(packed_rows([*long, ([5], [5])], 5))
    assert [int(row[0, 0, 4]) for row in rows] == [0, 5, *[0] * 9]  # the first was closed for the eleventh


def test_what_is_left_out_is_counted():
    counts = Counts()
    pairs = [("ab", "c"), ("", "a"), ("abc", "d"), ("a", "kept"), ("a?", "b")]
    ids = list(encoded(pairs, Letters(), counts, longest=3, held_out=frozenset({"kept"})))
    assert ids == [([3, 4, 1], [5, 1]), ([3, 2, 1], [4, 1])]
    assert counts == Counts(pairs=5, empty=1, too_long=1, held_out=1, unknown=1)
    assert str(counts) == "5 pairs; left out: 1 with an empty side, 1 too long, 1 that is held out; 1 unknown piece"


def test_rows_on_disk_are_those_in_memory(tmp_path):
    pairs = [([3] * n, [40_000] * (9 - n)) for n in range(1, 9)]
    packed = pack(iter(pairs), Counts(pairs=8), 12, 50_000, tmp_path / "cache" / "packed")
    rows = np.stack(list(packed_rows(pairs, 12)))
    assert (packed.ids == rows[:, :, 0]).all()
    assert (packed.segments == rows[:, :, 1]).all()
    assert isinstance(packed.ids, np.memmap)
    again = pack(iter([]), Counts(), 12, 50_000, tmp_path / "cache" / "packed")  # nothing is encoded again
    assert (again.ids == packed.ids).all()
    assert again.counts == Counts(pairs=8)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["packed"]


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    def peak(pairs):
        counts = Counts()
        tracemalloc.start()
        stream = encoded((("ab", "c") for _ in range(pairs)), Letters(), counts, longest=60)
        pack(stream, counts, 60, 40, tmp_path / str(pairs))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(30_000) < 1.2 * peak(10_000)


def test_an_interrupted_preparation_leaves_nothing(tmp_path):
    def broken():
        yield [3], [3]
        raise ValueError("line 2 is not UTF-8")

    with pytest.raises(ValueError, match="line 2"):
        pack(broken(), Counts(), 4, 40, tmp_path / "packed")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="there is no sentence pair to train on"):
        pack(iter([]), Counts(), 4, 40, tmp_path / "packed")
    with pytest.raises(FileNotFoundError):
        read_packed(tmp_path / "missing", 4, 40)


def _shorter(path):
    path.write_bytes(path.read_bytes()[: 2 * 2 * 3])  # of rows, the first one


def _changed(path):
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def _zeros(path):
    path.write_bytes(bytes(len(path.read_bytes())))


@pytest.mark.parametrize("name", ["ids", "segments", "counts.json", "checksum"])
@pytest.mark.parametrize("damage", [_shorter, _changed, _zeros, Path.unlink])
def test_damaged_rows_are_packed_again(tmp_path, name, damage):
    def packed():
        return pack(iter([([3], [4]), ([5, 5, 5], [6])]), Counts(pairs=2), 3, 40, tmp_path / "packed")

    first = packed()
    before = first.ids.copy(), first.segments.copy()
    damage(tmp_path / "packed" / name)
    again = packed()
    assert again.counts == first.counts
    assert (again.ids == before[0]).all()
    assert (again.segments == before[1]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    assert (pack(iter([]), Counts(), 3, 40, tmp_path / "packed").ids == before[0]).all()  # kept as it is now


@pytest.mark.parametrize("damage", [_shorter, _changed, _zeros, Path.unlink])
def test_a_damaged_vocabulary_is_made_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    monkeypatch.setenv("OPENWORK_CACHE", str(tmp_path / "cache"))
    for side, language in enumerate(EN_DE):
        text = "".join(f"{pair[side]}\n" for pair in number_words("train")[:100])
        (tmp_path / f"train.{language}").write_text(text, encoding="utf-8")
    first = trained_vocabulary(("train",), EN_DE, 320)
    (path,) = (tmp_path / "cache").iterdir()
    content = path.read_bytes()
    damage(path)
    assert trained_vocabulary(("train",), EN_DE, 320).fingerprint == first.fingerprint
    assert [each.read_bytes() for each in (tmp_path / "cache").iterdir()] == [content]


def test_every_epoch_has_every_row_once_in_an_order_of_its_own():
    batches = first_ids(packed_batches(numbered(10), 5, seed=0, start=0, device=CPU), 4)
    epochs = [[*batches[0], *batches[1]], [*batches[2], *batches[3]]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert first_ids(packed_batches(numbered(10), 5, seed=1, start=0, device=CPU), 2) != batches[:2]


@pytest.mark.parametrize("start", [1, 3, 4, 7])
def test_a_resumed_run_sees_what_it_would_have_seen(start):
    whole = first_ids(packed_batches(numbered(10), 3, seed=0, start=0, device=CPU), 9)
    assert first_ids(packed_batches(numbered(10), 3, seed=0, start=start, device=CPU), 9 - start) == whole[start:]


def test_processes_share_a_batch():
    whole = first_ids(packed_batches(numbered(9), 4, seed=0, start=1, device=CPU), 5)
    parts = [first_ids(packed_batches(numbered(9), 4, seed=0, start=1, device=CPU, rank=r, ranks=2), 5) for r in (0, 1)]
    assert [[*a, *b] for a, b in zip(*parts, strict=True)] == [[*batch[::2], *batch[1::2]] for batch in whole]
    with pytest.raises(ValueError, match="a batch has 4 rows for 3 processes, and there are 9"):
        packed_batches(numbered(9), 4, seed=0, start=0, device=CPU, ranks=3)
    with pytest.raises(ValueError, match="no more than there are"):
        packed_batches(numbered(9), 10, seed=0, start=0, device=CPU)


def test_every_process_has_the_vocabulary_that_the_first_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    monkeypatch.setenv("OPENWORK_CACHE", str(tmp_path / "cache"))
    for side, language in enumerate(EN_DE):
        text = "".join(f"{pair[side]}\n" for pair in number_words("train")[:100])
        (tmp_path / f"train.{language}").write_text(text, encoding="utf-8")
    with monkeypatch.context() as second:
        second.setattr("openwork.study.files.rank", lambda: 1)
        other = trained_vocabulary(("train",), EN_DE, 320)
    assert list((tmp_path / "cache").iterdir()) == []
    made, read = (trained_vocabulary(("train",), EN_DE, 320) for _ in range(2))
    assert other.fingerprint == made.fingerprint == read.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_batches_by_length_hold_so_many_tokens():
    # The longest first: 5 alone, 4 + 4 = 8 tokens, 3 twice, with the 1 as a third row of 3
    assert list(by_length([3, 5, 4, 4, 1, 3], 9)) == [[1], [2, 3], [0, 5, 4]]
    assert list(by_length([20], 9)) == [[0]]
    assert list(by_length([], 9)) == []


def test_a_corpus_is_the_same_for_any_number_of_workers_and_made_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    for name, pairs in (("train", number_words("train")[:500]), ("dev", number_words("dev")[:5])):
        extra = [("one", "eins")] if name == "dev" else [("one", "ein"), ("", "zwei")]
        for side, language in enumerate(EN_DE):
            lines = [pair[side] for pair in (*pairs, *extra)]
            (tmp_path / f"{name}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = []
    for workers in (1, 3):
        monkeypatch.setenv("OPENWORK_CACHE", str(tmp_path / f"cache{workers}"))
        vocabulary = trained_vocabulary(("train",), EN_DE, 320)
        (model,) = (tmp_path / f"cache{workers}").iterdir()
        assert model.stat().st_mode & 0o777 == 0o644  # others may read it, as they may the rows
        made.append((vocabulary, packed_corpus(("train",), EN_DE, vocabulary, 200, ("dev",), workers)))
    (one, first), (three, second) = made
    assert one.fingerprint == three.fingerprint
    assert (first.ids == second.ids).all()
    assert first.counts == Counts(pairs=502, empty=1, held_out=1)
    assert "502 pairs; left out: 1 with an empty side, 0 too long, 1 that is held out" in caplog.text
    caplog.clear()
    packed_corpus(("train",), EN_DE, trained_vocabulary(("train",), EN_DE, 320), 200, ("dev",))
    assert caplog.text == ""
