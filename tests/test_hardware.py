"""docs/hardware.md says what the raw rows say."""

import csv
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def hardware(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "hardware", raising=False)
    import hardware

    return hardware


def line(variant, values, reference="dense", unit="ms", n=2):
    machine = {"processor": "P", "threads": "1", "device": "cpu", "command": "b.py", "torch": "2", "python": "3"}
    return {"variant": variant, "values": values, "reference": reference, "unit": unit, "n": str(n), **machine}


def test_the_pages_are_what_their_raw_rows_give(hardware):
    texts = [page.read_text(encoding="utf-8") for page in hardware.PAGES]
    assert [hardware.written(text) for text in texts] == texts
    text = "".join(texts)
    assert set(hardware.TABLES) == {found[1] for found in hardware.MARKED.findall(text)}


def test_every_raw_file_has_rows_that_the_table_shows(hardware):
    for row in hardware.ROWS:
        found = hardware.lines(row.file)
        assert not found or hardware.used(row, found), f"{row.what}: no line of {row.file} is {row.variant!r}"


def test_a_cell_is_the_reference_s_median_by_the_variant_s(hardware):
    found = [line("dense", "4 6 5"), line("a, 50%", "2 3 2.5"), line("a, 90%", "10 10"), line("b, 90%", "1 1")]
    row = hardware.Row("a", "", "a, {level}%", "ms")
    assert hardware.cells(row, found) == ["2", "not measured", "0.5", "not measured", "not measured"]
    assert hardware.cells(hardware.Row("b", "", "b, 90%", "ms", level=90), found) == ["–", "–", "5", "–", "–"]
    assert hardware.cells(hardware.Row("a", "", "a, {level}%", "bytes"), found) == ["not measured"] * 5


def test_a_later_measurement_replaces_an_earlier_one(hardware):
    found = [line("dense", "4 4"), line("a, 50%", "4 4"), line("a, 50%", "2 2")]
    assert hardware.cells(hardware.Row("a", "", "a, {level}%", "ms"), found)[0] == "2"


def test_numbers_that_are_gains_stand_for_themselves(hardware):
    found = [line("a, 50%", "2.5 3.5", reference="other", unit="times smaller")]
    assert hardware.cells(hardware.Row("a", "", "a, {level}%", "times smaller"), found)[0] == "3"


def test_what_has_no_reference_is_not_measured(hardware):
    assert hardware.gain([line("a, 50%", "1 1")], "a, 50%", "ms") is None


def test_files_that_are_not_there_have_no_rows(hardware, tmp_path):
    assert hardware.lines("missing.csv") == []
    with (tmp_path / "some.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(line("a", "1")))
        writer.writeheader()
        writer.writerow(line("a", "1"))
    assert hardware.lines("some.csv", tmp_path)[0]["variant"] == "a"


def test_the_machine_is_named_with_its_threads(hardware):
    gpu = {**line("a", "1"), "processor": "H100", "device": "cuda"}
    two = {**line("a", "1"), "threads": "2"}
    assert hardware.machine([line("a", "1"), gpu, two]) == "P, 1 thread; H100; P, 2 threads"
