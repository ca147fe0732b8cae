"""Terminals whose encoding lacks characters."""

import io
import sys

import pytest

from openwork.cli.characters import print_what_can_be_printed
from tests.cli.folders import openwork


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
