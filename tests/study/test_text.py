import gzip
import json
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openwork.study.data.text import content_key, read_pairs

EN_DE = ("en", "de")
PAIRS = [("A house.", "Ein Haus."), ("", "Leer"), ("Line\u2028one\u0085two", "Zeile\x0ceins\x1czwei")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    return tmp_path


def write(folder, name, pairs=PAIRS, compress=False):
    for side, language in enumerate(EN_DE):
        content = "".join(f"{pair[side]} \r\n" for pair in pairs).encode()
        path = folder / f"{name}.{language}{'.gz' if compress else ''}"
        path.write_bytes(gzip.compress(content) if compress else content)


@pytest.mark.parametrize("compress", [False, True])
def test_line_i_is_the_translation_of_line_i(folder, compress):
    write(folder, "news", compress=compress)
    assert list(read_pairs("news", EN_DE)) == PAIRS  # only "\n" ends a line
    assert next(read_pairs("news", ("de", "en"))) == ("Ein Haus.", "A house.")


def test_files_that_do_not_fit_are_an_error(folder):
    write(folder, "news")
    with (folder / "news.de").open("a") as file:
        file.write("Noch eine Zeile\n")
    with pytest.raises(ValueError, match=r"news.en has 3 lines and .*news.de 4"):
        list(read_pairs("news", EN_DE))


def test_invalid_utf8_is_an_error_with_its_line(folder):
    write(folder, "news")
    (folder / "news.de").write_bytes(b"Ein Haus.\nM\xfcnchen\nx\n")
    with pytest.raises(ValueError, match=r"line 2 of .*news.de is not UTF-8"):
        list(read_pairs("news", EN_DE))


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-5],  # cut off
        lambda packed: b"Ein Haus.\n",  # not packed at all
        lambda packed: packed[:10] + b"\xff" * 20 + packed[30:],
    ],
)
def test_a_damaged_gz_is_an_error_with_its_line(folder, damage):
    write(folder, "news", compress=True)
    path = folder / "news.de.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"news.de.gz cannot be unpacked after line \d .*; fetch it again"):
        list(read_pairs("news", EN_DE))


def test_a_missing_file_says_where_it_was_looked_for(folder):
    with pytest.raises(FileNotFoundError, match=r"news\.en, with or without \.gz"):
        list(read_pairs("news", EN_DE))


@pytest.mark.parametrize("nested", [True, False])
def test_parquet_shards_are_read_in_order(folder, nested):
    for number, part in enumerate((PAIRS[:1], PAIRS[1:])):
        rows = [dict(zip(EN_DE, pair, strict=True)) for pair in part]
        table = pa.Table.from_pylist([{"translation": row} for row in rows] if nested else rows)
        pq.write_table(table, folder / f"train-0000{number}-of-00002.parquet")
    assert list(read_pairs("train", EN_DE)) == PAIRS
    with pytest.raises(ValueError, match=r"row 1 of .*00000-of-00002.parquet has no 'fr', only \['en', 'de'\]"):
        list(read_pairs("train", ("en", "fr")))
    (folder / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match="has shards missing"):
        list(read_pairs("train", EN_DE))


@pytest.mark.parametrize("nested", [True, False])
def test_a_null_is_an_empty_sentence(folder, nested):
    rows = [{"en": "yes", "de": None}, {"en": None, "de": None}, {"en": "no", "de": "nein"}]
    structs = [{"translation": rows[0]}, {"translation": None}, {"translation": rows[2]}]
    pq.write_table(pa.Table.from_pylist(structs if nested else rows), folder / "train.parquet")
    assert list(read_pairs("train", EN_DE)) == [("yes", ""), ("", ""), ("no", "nein")]


def test_a_column_of_numbers_is_an_error(folder):
    pq.write_table(pa.table({"en": ["one"], "de": [1]}), folder / "train.parquet")
    with pytest.raises(ValueError, match=r"row 1 of .*train.parquet has 1 as 'de'; it must be text"):
        list(read_pairs("train", EN_DE))


def test_a_damaged_parquet_is_named_with_its_row(folder):
    path = folder / "train.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"train.parquet cannot be read after row 0 .*; is it whole"):
        list(read_pairs("train", EN_DE))
    rows = 65_536 + 4  # pyarrow gives 65,536 at once
    pq.write_table(pa.table({"en": ["yes"] * rows, "de": ["ja"] * rows}), path, row_group_size=65_536)
    damaged = pq.read_metadata(path).row_group(1).column(1).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[damaged : damaged + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train.parquet cannot be read after row 65536 "):
        list(read_pairs("train", EN_DE))


def test_a_null_of_the_hub_is_an_empty_sentence(monkeypatch):
    rows = [{"en": "yes", "de": None}, None, {"en": "a"}]
    monkeypatch.setattr("openwork.study.data.text._hub", lambda source: [{"translation": row} for row in rows])
    pairs = read_pairs("hub:a/b/c/train", EN_DE)
    assert [next(pairs), next(pairs)] == [("yes", ""), ("", "")]
    with pytest.raises(ValueError, match=r"row 3 of hub:a/b/c/train has no 'de', only \['en'\]"):
        next(pairs)


def test_moses_tokens_are_made_plain(folder):
    write(folder, "train.tok", [("Mr Smith &apos;s house , yes .", "Das &quot; Haus &quot; , ja .")])
    assert list(read_pairs("train.tok", EN_DE)) == [("Mr Smith's house, yes.", 'Das "Haus", ja.')]


def test_the_hub_is_asked_for_name_configuration_and_split(monkeypatch):
    asked = []

    class Found(list):
        info = types.SimpleNamespace(download_checksums={"a": 1})

    def load_dataset(*arguments, **settings):
        asked.append((arguments, settings))
        return Found([{"translation": {"de": "ja ", "en": "yes"}}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert list(read_pairs("hub:wmt/wmt14/de-en/test", EN_DE)) == [("yes", "ja")]
    assert len(content_key("hub:wmt/wmt14/de-en/test", EN_DE)) == 64
    assert asked == [(("wmt/wmt14", "de-en"), {"split": "test"})]  # once
    with pytest.raises(ValueError, match="hub:owner/name/configuration/split"):
        list(read_pairs("hub:wmt14", EN_DE))


def test_the_key_follows_the_content(folder):
    write(folder, "a"), write(folder, "b"), write(folder, "c", PAIRS[:2])
    keys = {name: content_key(name, EN_DE) for name in "abc"}
    assert keys["a"] == keys["b"] != keys["c"]
    assert content_key("a", ("de", "en")) != keys["a"]
    json.dumps(keys)
