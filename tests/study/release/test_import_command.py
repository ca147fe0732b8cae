"""The command import-tf, and what the other commands do with what it writes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import openwork as ow
from openwork.cli import app
from openwork.study.data.vocabulary import Subwords
from openwork.study.experiments import resnet50, transformer
from openwork.study.runs.run import Run
from openwork.study.tasks.imagenet import ImageNetResNet
from openwork.study.tasks.wmt import TextTranslation
from tests.helpers import raises
from tests.programs.tensorflow_checkpoints import TINY
from tests.study.release.checkpoints import NAME, unpacked
from tests.study.test_translation_commands import command

SUBWORDS = "\n".join(f"'{subword}'" for subword in ["<pad>_", "<EOS>_", "_", *"abcdefghijklmnopqrstu"]) + "\n"
SIZES = {"width": TINY.width, "hidden": TINY.hidden, "heads": TINY.heads, "layers": TINY.layers}
TEXT = TextTranslation(training=("news",), testing="test", development="test", vocabulary_size=TINY.vocabulary, **SIZES)
TRANSFORMER = Run(TEXT, None, 1)
RESNET = Run(ImageNetResNet("shards", width=1 / 64, classes=TINY.classes, size=64, same_pool=True), None, 1)
HERE = "tests.study.release.test_import_command"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = unpacked(tmp_path_factory.mktemp("import"))
    (folder / "ende.subwords").write_text(SUBWORDS)
    (folder / "other.subwords").write_text(SUBWORDS.replace("'s'", "'z'"))
    (folder / "short.subwords").write_text(SUBWORDS.replace("'u'\n", ""))
    return folder


def answer(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def imported(folder, case, out, *options):
    model, _, technique = case.partition("-")
    prefix = folder / case / NAME
    return answer("import-tf", prefix, "--model", model, "--technique", technique, "--out", out, *options)


def test_an_imported_transformer_translates(folder, tmp_path, monkeypatch):
    out = tmp_path / "x.safetensors"
    imported(folder, "transformer-magnitude", out, "--vocabulary", folder / "ende.subwords")
    # Untrained weights would end at once, if length were not worth much.
    run = ["translate", str(out), "--alpha", "3", "--task", f"{HERE}:TRANSFORMER", "--vocabulary"]
    found = command([*run, str(folder / "ende.subwords")], monkeypatch, b"abc de\nfgh\n").split("\n")
    task = replace(TEXT, vocabulary_file=str(folder / "ende.subwords"))
    model = task.model()
    model.load_state_dict(load_file(out))
    expected = task.translate(model.eval(), ["abc de", "fgh"], torch.device("cpu"), alpha=3)
    assert found == [*(" ".join(text.split()) for text in expected), ""]
    assert len(expected[0]) > 3
    with raises(ValueError, "the vocabulary has 24 ids", "and the model's had 24", "give the one that the model was"):
        command([*run, str(folder / "other.subwords")], monkeypatch, b"abc\n")
    with raises(ValueError, "--threshold needs a run of variational dropout, --task a file of weights alone"):
        command([*run, str(folder / "ende.subwords"), "--threshold", "1"], monkeypatch, b"abc\n")


def test_eval_takes_the_vocabulary_of_an_imported_transformer(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    for language in ("en", "de"):
        (tmp_path / f"test.{language}").write_text("abc de\nfgh\n")
    out = tmp_path / "x.safetensors"
    imported(folder, "transformer-l0", out)
    found = answer("eval", out, "--task", f"{HERE}:TRANSFORMER", "--vocabulary", folder / "ende.subwords", "--json")
    assert json.loads(found)["evaluated"][0].keys() >= {"accuracy", "bleu", "tokenized_bleu", "sparsity"}
    with raises(ValueError, "--vocabulary is for a file of weights alone"):
        answer("eval", out, "--vocabulary", folder / "ende.subwords")


def test_an_imported_resnet_is_evaluated_on_tfrecords(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    monkeypatch.setenv("OPENWORK_WORKERS", "0")
    shutil.copytree(folder / "tfrecords", tmp_path / "shards")
    out = tmp_path / "x.safetensors"
    imported(folder, "resnet50-l0", out)
    found = json.loads(answer("eval", out, "--task", f"{HERE}:RESNET", "--json"))["evaluated"][0]
    assert found["images"] == 5
    assert found["sparsity"] == pytest.approx(ow.report(out).sparsity)


def test_the_release_experiments_have_the_models_of_the_release(folder):
    assert resnet50.released().task.same_pool
    names = {**resnet50.released().task.model().state_dict()}
    assert {"pool.same", "fc.bias"} < names.keys()
    task = transformer.released().task
    assert (task.width, task.hidden, task.heads, task.layers) == (512, 2048, 8, 6)


def test_the_command_says_what_it_found(folder, tmp_path):
    out = tmp_path / "x.safetensors"
    said = imported(folder, "transformer-magnitude", out)
    lines = said.splitlines()
    assert lines[0] == f"{out}: 3,296 parameters"
    assert lines[1] == "weight sparsity as the release's script counts it: 76.67151% (2,110 of 2,752)"
    assert lines[2] == "zeros in the file, among the layers' weights: 77.25291% (2,126 of 2,752)"
    assert "not used: the optimizer's state (1 x beta1_power, 2 x Adam, 2 x Adam_1); global_step" in said
    found = json.loads(imported(folder, "transformer-magnitude", out, "--json"))
    assert found["release"] == {"zeros": 2110, "total": 2752, "sparsity": 2110 / 2752}
    assert len(found["unused"]["threshold"]) == 33
    report = ow.report(out)
    assert (report.zeros, report.parameters) == (found["all"]["zeros"], found["all"]["total"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--model", "resnet50", "--technique", "magnitude"],
            "is no checkpoint of the release's resnet50; give --model",
        ),
        (["--model", "transformer", "--technique", "l0"], "so it is not l0; give --technique magnitude or random"),
        (["--model", "transformer", "--technique", "dense"], "has a mask beside its weights, so it is not dense"),
        (["--model", "transformer", "--technique", "random", "--threshold", "1"], "--threshold is for variational"),
        (["--model", "transformer", "--technique", "variational-dropout"], "has no log_sigma2 beside its weights"),
        (["--model", "resnet50", "--technique", "dense", "--vocabulary", "x"], "--vocabulary is for a transformer"),
        (
            ["--model", "transformer", "--technique", "magnitude", "--vocabulary", "{short}"],
            "has 23 ids, and the check",
        ),
    ],
)
def test_what_does_not_fit_is_a_sentence_and_leaves_the_file_as_it_was(folder, tmp_path, options, said):
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"before")
    options = [option.format(short=folder / "short.subwords") for option in options]
    with raises(ValueError, said):
        answer("import-tf", folder / "transformer-magnitude" / NAME, *options, "--out", out)
    assert out.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_variational_dropout_needs_its_threshold(folder, tmp_path):
    with raises(ValueError, "variational dropout needs --threshold, on log alpha", "0.5 for its ResNet-50"):
        imported(folder, "resnet50-variational-dropout", tmp_path / "x.safetensors")


@pytest.mark.parametrize("threshold", ["nan", "inf", "-inf"])
def test_a_threshold_that_is_no_finite_number_is_refused(folder, tmp_path, threshold):
    case, out = folder / "transformer-variational-dropout" / NAME, tmp_path / "x.safetensors"
    options = ["--model", "transformer", "--technique", "variational-dropout", f"--threshold={threshold}"]
    with raises(ValueError, f"--threshold must be a finite number, got {threshold}"):
        answer("import-tf", case, *options, "--out", out)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("out", "said"), [("x.pt", "must be a .safetensors file"), ("a/x.safetensors", "there is no")])
def test_a_place_that_cannot_be_written_is_refused(folder, tmp_path, out, said):
    with raises((ValueError, FileNotFoundError), said):
        imported(folder, "resnet50-l0", tmp_path / out)


def test_a_missing_shard_or_a_folder_is_a_sentence(folder, tmp_path):
    shutil.copytree(folder / "transformer-magnitude", tmp_path / "x")
    (tmp_path / "x" / f"{NAME}.data-00000-of-00002").unlink()
    with raises(FileNotFoundError, "data-00000-of-00002 is missing, one of the 2 data files"):
        imported(tmp_path, "x", tmp_path / "x.safetensors", "--model", "transformer", "--technique", "magnitude")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_inspect_reads_the_checkpoint_itself(folder):
    for name in (NAME, f"{NAME}.index"):
        report = ow.report(folder / "transformer-magnitude" / name)
        assert (report.zeros, report.parameters) == (2147, 3296)
        assert [layer.shape for layer in report.layers if "conv1" in layer.name] == [(TINY.hidden, TINY.width)] * 4
    means = ow.report(folder / "resnet50-variational-dropout" / NAME)
    assert any("says openwork import-tf" in note for note in means.notes)
    found = json.loads(answer("inspect", folder / "resnet50-magnitude" / f"{NAME}.index", "--json"))
    assert found["sparsity"]["selected"] > 0.7


def test_the_subwords_of_the_release_are_those_of_tensor2tensor():
    known = Subwords(SUBWORDS.encode())
    assert known.size == TINY.vocabulary
    assert known.encode(["ab c"]) == [[3, 4, 2, 5, 2]]
    assert known.decode([3, 4, 2, 5, 2, 1]) == "ab c"
    assert np.ptp(known.encode(["abcu"])[0]) == 21
