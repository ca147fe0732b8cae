"""The commands translate and bleu."""

import io
import json
import sys
from dataclasses import replace

import pytest
import torch

from openwork.cli import app
from openwork.study.data.number_words import number_words
from openwork.study.data.vocabulary import train_vocabulary
from openwork.study.runs.config import canonical
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare, restore
from openwork.study.runs.run import Run
from openwork.study.tasks.number_words import NumberWords
from openwork.study.tasks.wmt import TextTranslation

CPU = torch.device("cpu")
TINY = NumberWords(width=16, hidden=16, heads=2, layers=1, rows=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short training of the default: its directory and result."""
    folder = tmp_path_factory.mktemp("runs")
    run = Run(replace(NumberWords(), rows=8), None, 400)
    return folder / run.id, execute(run, folder, evaluations=2)


def command(arguments, monkeypatch, text=b""):
    class Standard(io.TextIOWrapper):
        pass

    out = Standard(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", Standard(io.BytesIO(text), encoding="utf-8"))
    monkeypatch.setattr(sys, "stdout", out)
    app(arguments, standalone_mode=False)
    out.flush()
    return out.buffer.getvalue().decode()


def test_the_command_translates_line_by_line(trained, monkeypatch, capfd):
    folder, _ = trained
    sentences = [english for english, _ in number_words("test")[:3]]
    text = "\n".join([sentences[0], "", *sentences[1:]]) + "\n"
    found = command(["translate", str(folder), "--batch", "2"], monkeypatch, text.encode()).split("\n")
    assert "1 empty line stayed empty; 0 lines are longer" in capfd.readouterr().err
    task, model = restore(folder).run.task, restore(folder).model
    first, *rest = task.translate(model, sentences, CPU)
    assert found == [first, "", *rest, ""]
    with pytest.raises(ValueError, match="line 2 of standard input is not UTF-8"):
        command(["translate", str(folder)], monkeypatch, b"one\n\xff\n")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Two vocabularies, and checkpoints of two runs that name them, both with a model of the first."""
    folder = tmp_path_factory.mktemp("text")
    pairs = number_words("train")[:500]
    for size in (60, 64):
        (folder / f"{size}.model").write_bytes(train_vocabulary(lambda: pairs, size, byte_fallback=False))
    fields = {name: value for name, value in vars(TINY).items() if name != "title"}
    runs = [Run(TextTranslation(**fields, training=("news",), vocabulary_file=str(folder / f"{size}.model")), None, 1)
            for size in (60, 64)]  # fmt: skip
    state = prepare(runs[0], CPU).state()
    for name, run in (("fits", runs[0]), ("replaced", runs[1])):
        (folder / name).mkdir()
        torch.save({**state, "run": canonical(run)}, folder / name / "checkpoint.pt")
    return folder


def test_the_command_names_a_vocabulary_of_another_size(text, monkeypatch):
    found = command(["translate", str(text / "fits"), "--vocabulary", str(text / "60.model")], monkeypatch, b"\n")
    assert found == "\n"
    sentence = r"the vocabulary has 64 ids and that of the model in .*checkpoint.pt had 60; give the one that"
    with pytest.raises(ValueError, match=sentence):
        command(["translate", str(text / "fits"), "--vocabulary", str(text / "64.model")], monkeypatch)
    with pytest.raises(ValueError, match=sentence):
        command(["eval", str(text / "replaced")], monkeypatch)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--threshold", "2"], "--threshold is for variational dropout; this run trained dense"),
        (
            ["--vocabulary", "x"],
            "--vocabulary is for a run on text files; Transformer, number words always makes its own",
        ),
        (["--alpha", "nan"], "--alpha must be a finite number of at least 0, got nan"),
        (["--alpha", "inf"], "--alpha must be a finite number of at least 0, got inf"),
        (["--alpha", "-0.5"], "--alpha must be a finite number of at least 0, got -0.5"),
    ],
)
def test_options_that_do_not_fit_the_run_are_named(trained, options, sentence, monkeypatch):
    with pytest.raises(ValueError, match=sentence):
        command(["translate", str(trained[0]), *options], monkeypatch)


def test_the_command_counts_bleu_of_files(tmp_path, monkeypatch):
    for name, lines in (("ours", "Das ist ein Haus .\n"), ("theirs", "Das ist ein Haus .\n"), ("more", "a\nb\n")):
        (tmp_path / name).write_text(lines)
    found = json.loads(command(["bleu", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--json"], monkeypatch))
    assert found["bleu"] == pytest.approx(100)
    assert found["tokenized_bleu"] == pytest.approx(100)
    assert found["signature"].startswith("nrefs:1|case:mixed")
    with pytest.raises(ValueError, match=r"ours has 1 line and .*more 2"):
        command(["bleu", str(tmp_path / "ours"), str(tmp_path / "more")], monkeypatch)
