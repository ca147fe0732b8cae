"""What the command line says of what openwork refuses in a user's own experiments."""

import errno
import os

import pytest

from openwork.cli.errors import exit_code, sentence
from openwork.study.files import WriteError
from tests.cli.folders import openwork

EXPERIMENTS = """
import openwork as ow
def misspelt(): return ow.Cubick
def number(): return ow.L0(0.1)
def schedule(): return ow.GradualMagnitude(0.9)
def model(): return ow.prune({}, ow.GradualMagnitude(ow.OneShot(0.5)))
"""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("misspelt", "module 'openwork' has no attribute 'Cubick' ("),
        ("number", "coefficient must be a schedule such as Constant(0.1), got 0.1 ("),
        ("schedule", "schedule must be a schedule such as OneShot(0.9), got 0.9 ("),
        ("model", "expected an nn.Module, got a state dict; "),
    ],
)
def test_what_openwork_refuses_in_your_code_is_one_sentence_with_the_place(
    tmp_path, monkeypatch, capsys, function, said
):
    (tmp_path / "refused.py").write_text(EXPERIMENTS)
    monkeypatch.syspath_prepend(tmp_path)
    assert openwork(monkeypatch, "run", f"refused:{function}", "--out", tmp_path / "runs") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}")
    assert f"refused.py, line {EXPERIMENTS[: EXPERIMENTS.index(f'def {function}')].count(chr(10)) + 1}" in error
    assert error.count("\n") == 1


def test_what_openwork_refuses_in_a_command_is_one_sentence():
    from openwork.core.chosen import check_model

    with pytest.raises(TypeError) as refused:
        check_model(3)
    outside = refused.value.with_traceback(refused.value.__traceback__.tb_next)
    assert (sentence(outside), exit_code(outside)) == (str(outside), 2)


def test_too_many_open_files_are_no_fault_of_the_file():
    error = WriteError(errno.EMFILE, "Too many open files", "runs/metrics.jsonl")
    assert sentence(error) == (
        "cannot open runs/metrics.jsonl: too many files are open; allow more, as by `ulimit -n 1024`"
    )


def test_a_bug_of_openwork_is_no_sentence():
    from openwork.core.schedules import Constant

    with pytest.raises((TypeError, AttributeError)) as bug:
        Constant.__call__(None, 0)  # nothing says raise there
    assert sentence(bug.value.with_traceback(bug.value.__traceback__.tb_next)) is None


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("run", "tests.study.tinylab:grid"), "--out"),
        (("sweep", "tests.study.tinylab:grid"), "--out"),
        (("quickstart",), "--out"),
        (("report", "."), "--out"),
        (("pictures", "3f2a"), "--out"),
        (("watch", "."), "--out"),
        (("published",), "--out"),
        (("prune", ".", "--technique", "magnitude", "--out", "new"), "--resume"),
    ],
)
def test_a_file_is_no_folder_to_write_to(tmp_path, monkeypatch, capsys, arguments, option):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.csv").write_text("mine")
    assert openwork(monkeypatch, *arguments, option, "notes.csv") == 2
    assert capsys.readouterr().err == "error: cannot use notes.csv, which is a file, for a folder; give another name\n"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("results", "."), "--csv"),
        (("results", "."), "--parquet"),
        (("import-tf", "x", "--model", "resnet50", "--technique", "dense"), "--out"),
    ],
)
def test_a_folder_is_no_file_to_write(tmp_path, monkeypatch, capsys, arguments, option):
    monkeypatch.chdir(tmp_path)
    assert openwork(monkeypatch, *arguments, option, ".") == 2
    assert capsys.readouterr().err == "error: cannot use ., which is a folder, for a file; give another name\n"


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("run", "tests.study.tinylab:grid", "--out", ""), "the argument after --out"),
        (("run", "tests.study.tinylab:grid", "--out="), "--out="),
        (("list", ""), "the argument after 'list'"),
        (("eval", "runs", "--task", ""), "the argument after --task"),
    ],
)
def test_an_empty_argument_is_not_the_folder_that_one_is_in(tmp_path, monkeypatch, capsys, arguments, where):
    monkeypatch.chdir(tmp_path)
    assert openwork(monkeypatch, *arguments) == 2
    said = f"error: {where} is empty; give a value, or set the variable of your shell that stands there\n"
    assert capsys.readouterr().err == said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--csv", "--parquet"])
def test_a_pipe_is_refused_before_anything_is_read(tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("rows.csv")
    assert openwork(monkeypatch, "results", "nowhere", option, "rows.csv") == 2
    assert capsys.readouterr().err == ("error: cannot write rows.csv, which is a device or a pipe; give another name\n")
    assert (tmp_path / "rows.csv").is_fifo()


def test_two_tables_need_two_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert openwork(monkeypatch, "results", "runs", "--csv", "rows", "--parquet", f"../{tmp_path.name}/rows") == 2
    assert capsys.readouterr().err == "error: --csv and --parquet are both rows; give two names\n"


@pytest.mark.parametrize("margin", ["-1", "0", "nan"])
def test_a_margin_is_refused_in_the_unit_that_it_has_on_the_command_line(monkeypatch, capsys, margin):
    assert openwork(monkeypatch, "report", "runs", f"--margin={margin}") == 2
    assert f"--margin must be more than 0 points, got {margin}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("results", "lr=", "--csv=x="), "no folder of runs lr="),
        (("list", "--", "--x="), "no folder of runs --x="),
    ],
)
def test_a_value_that_ends_like_an_empty_option_is_a_value(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert openwork(monkeypatch, *arguments) != 0
    error = capsys.readouterr().err
    assert "is empty" not in error
    assert said in error
