"""docs/inspect.md shows what the commands print."""

from pathlib import Path

from tests.inspect.test_inspect_command import inspect
from tests.test_documents import blocks


def test_the_outputs_in_the_document_are_those_of_the_commands(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (program,) = blocks("docs/inspect.md", "python")
    exec(compile(program, "docs/inspect.md", "exec"), {})
    printed = []
    for arguments in (["pruned.ckpt"], ["pruned.ckpt", "merged.safetensors"]):
        assert inspect(monkeypatch, *map(Path, arguments)) == 0
        printed.append(capsys.readouterr().out)
    assert blocks("docs/inspect.md", "text") == printed
