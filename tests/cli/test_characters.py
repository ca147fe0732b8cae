"""Terminals whose encoding lacks characters."""

import io
import json
import sys

import pytest

from openwork.cli.characters import SafeConsole, SafeTable, print_what_can_be_printed
from tests.cli.folders import openwork
from tests.study.studies import row, study


def printed_in(monkeypatch, encoding, text):
    """The bytes that a stream of this encoding writes, on standard output and error."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    print_what_can_be_printed()
    found = []
    for stream in streams.values():
        stream.write(text)
        stream.flush()
        found.append(stream.buffer.getvalue())
    return found


@pytest.mark.parametrize(
    ("encoding", "text", "bytes_"),
    [
        ("ascii", "1.2 ± 0.1 µs → 3 × 4 ≤ 13 …", b"1.2 +- 0.1 us -> 3 x 4 <= 13 ..."),
        ("cp1252", "1.2 ± 0.1 µs → 3 × 4 ≤ 13 …", b"1.2 \xb1 0.1 \xb5s -> 3 \xd7 4 <= 13 \x85"),
        ("ascii", "Kőrösi Žižek x² ₀ λ ⠋ 中", b"Korosi Zizek x2 0 ? ? ?"),
        ("latin-1", "−10 · “a”", b'-10 \xb7 "a"'),
        ("utf-8", "→ λ 中", "→ λ 中".encode()),
        ("utf-8", "name\udcff.pt", b"name\xff.pt"),  # a name of bytes that are no text, as os.fsdecode gives it
        ("ascii", "name\udcff.pt", b"name\xff.pt"),
        ("ascii", "", b""),
    ],
)
def test_what_an_encoding_lacks_is_printed_as_something_alike(monkeypatch, encoding, text, bytes_):
    assert printed_in(monkeypatch, encoding, text) == [bytes_, bytes_]


def test_streams_that_encode_nothing_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    print_what_can_be_printed()
    sys.stdout.write("→")
    assert sys.stdout.getvalue() == "→"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    ("arguments", "said"), [(("inspect", "größe→λ.pt"), b"->?.pt"), (("sweep", "--help"), b"Usage")]
)
def test_a_command_prints_and_ends_as_elsewhere(monkeypatch, encoding, arguments, said):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    assert openwork(monkeypatch, *arguments) == (2 if arguments[0] == "inspect" else 0)
    stream.flush()
    assert said in stream.buffer.getvalue()


ODD = "a\nb\x1b[31mc\rd"
SHOWN = r"a\nb\x1b[31mc\rd"


def test_a_folder_and_names_with_ends_of_lines_are_one_line_of_list_and_show(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs" / ODD
    folder.mkdir(parents=True)
    described = {"type": "Run", "task": {"type": "a:T"}, "technique": {"type": f"x:{ODD}"}, "steps": 3, "seed": 7}
    (folder / "run.json").write_text(json.dumps(described))
    (folder / "failed.json").write_text(json.dumps({"error": "ValueError: no\nmore", "attempt": 1}))
    (tmp_path / "runs" / "names.json").write_text(json.dumps({ODD: [ODD]}))
    assert openwork(monkeypatch, "list", tmp_path / "runs") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " failed " in line]
    assert line.split() == [r"a\nb\x1b[3", SHOWN, "failed", SHOWN, "7", "0", "of", "3", "-", "-", "ValueError:", "no"]
    assert openwork(monkeypatch, "show", folder) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    assert {lines[name].strip() for name in ("run", "name", "technique")} == {SHOWN}
    assert lines["folder"].endswith(SHOWN)
    assert lines["reason"].strip() == "ValueError: no"  # the next line is of the reason, which may have several


def test_the_table_of_results_has_a_line_for_each_technique(tmp_path, monkeypatch, capsys):
    folder = study(tmp_path, [row(f"L0, {ODD}", task=ODD), row("dense", task=ODD)])
    assert openwork(monkeypatch, "results", folder) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if SHOWN in line]
    assert sorted(lines) == [[SHOWN, "L0,", SHOWN, "1", "0", "0"], [SHOWN, "dense", "1", "0", "0"]]


def test_titles_and_headers_of_tables_are_one_line_each():
    table = SafeTable(ODD, "b", title=ODD)
    table.add_row("1", ODD, style="red")
    console = SafeConsole(file=io.StringIO(), width=100, markup=False)
    console.print(table)
    assert [line.count(SHOWN) for line in console.file.getvalue().splitlines() if SHOWN in line] == [1, 1, 1]
