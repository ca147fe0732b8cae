"""What the command line says of itself: help, examples, docs/cli.md, and the same words for the same things."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from openwork.cli import PANELS, app
from openwork.cli.examples import EXAMPLES
from openwork.cli.page import MARK, commands, parameters
from tests.cli.folders import openwork

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "cli.md").read_text()
COMMANDS = {name: command for panel in PANELS.values() for name, command in panel.items()}


def test_the_page_of_the_commands_is_what_the_commands_say():
    assert DOCUMENT.partition(MARK)[2] == commands()  # python -m openwork.cli.page docs/cli.md


def test_every_command_has_examples_that_parse():
    found = get_command(app).commands
    assert set(EXAMPLES) == set(COMMANDS) == set(found)
    for name, examples in EXAMPLES.items():
        for arguments, _ in examples:
            found[name].make_context(name, shlex.split(arguments.split(" < ")[0]))  # raises for what it does not know


def test_help_of_no_command_waits_for_torch_and_each_shows_its_examples():
    program = (
        "import sys\nfrom openwork.cli import app\n"
        "for name in [None, *sys.argv[1:]]:\n"
        "    app([*([name] if name else []), '--help'], standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'altair', 'scipy'} & sys.modules.keys()"
    )
    answer = subprocess.run([sys.executable, "-c", program, *COMMANDS], capture_output=True, text=True, check=True)
    assert answer.stdout.count("Examples:") == len(COMMANDS)


def test_help_has_what_stands_in_brackets(capsys):
    inside = {name: re.findall(r"\[[\w-]+\]", command.__doc__ or "") for name, command in COMMANDS.items()}
    assert inside["watch"] == ["[tensorboard]", "[wandb]"]
    for name, words in inside.items():
        app([name, "--help"], standalone_mode=False)
        shown = capsys.readouterr().out
        assert all(word in shown for word in words)
        assert "\\[" not in shown


def test_every_command_has_json_and_its_keys_are_documented():
    table = DOCUMENT.partition("## JSON")[2].partition(MARK)[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.M) == [*COMMANDS]
    for name, command in COMMANDS.items():
        assert "--json" in {word for word, *_ in parameters(command)}, name


def test_an_option_of_one_name_takes_the_same_everywhere():
    takes: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        for word, kind, _, _ in parameters(command):
            takes.setdefault(word, set()).add(kind)
    # import-tf converts four techniques of one release, bench measures several batch sizes, and export has formats.
    del takes["--technique"], takes["--batch"], takes["--to"]
    assert {word: kinds for word, kinds in takes.items() if len(kinds) > 1} == {}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], ""),
        (["rn"], "such command 'rn'"),
        (["run"], "missing argument 'MODULE:FUNCTION'"),
        (["run", "a:b", "--dvice", "cpu"], "no such option: --dvice"),
        (["export", "x", "--to", "tflite"], "'tflite' is not one of 'sparse', 'dense', 'onnx'"),
        (["run", "a:b", "--evaluations", "0"], "invalid value for '--evaluations'"),
    ],
)
def test_what_cannot_be_parsed_is_one_sentence_with_the_way_to_the_help(monkeypatch, capsys, arguments, sentence):
    assert openwork(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    if not arguments:
        assert "quickstart" in said.out + said.err
        return
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert sentence in said.err
    assert "--help says what there is)" in said.err


@pytest.mark.parametrize(("rest", "code"), [("--version >&-", 0), ("list nowhere >&- 2>&-", 2)])
def test_closed_streams_are_no_error(rest, code):
    command = f"{shlex.quote(sys.executable)} -c 'from openwork.cli import main; main()' {rest}"
    assert subprocess.run(["sh", "-c", command]).returncode == code
