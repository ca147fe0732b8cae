"""Scores on validation data, wherever they are measured, kept and shown beside those of the test set."""

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from typer.testing import CliRunner

import openwork as ow
from openwork.cli import app
from openwork.cli.training import _print_results
from openwork.study.data import whitening
from openwork.study.data.cifar10 import cifar10, normalized
from openwork.study.data.images import Images
from openwork.study.data.number_words import number_words
from openwork.study.evaluation.metric import ACCURACY, BLEU
from openwork.study.report.page import write_report
from openwork.study.results.statistics import summarize
from openwork.study.results.store import read_results
from openwork.study.results.thresholds import AtThreshold, Judged, keep_thresholds, read_thresholds
from openwork.study.runs.execute import execute
from openwork.study.runs.live import restore
from openwork.study.runs.run import Run
from openwork.study.tasks import cifar10 as tasks
from openwork.study.tasks.cifar10 import Cifar10Vgg, Cifar10WideResNet
from openwork.study.tasks.cifar10_resnet import Cifar10ResNet, _enlarged
from openwork.study.tasks.lenet import DigitsLeNet300100
from openwork.study.tasks.number_words import NumberWords
from openwork.study.tasks.wmt import TextTranslation
from tests.helpers import raises
from tests.study.studies import results, row, study
from tests.study.test_cifar10 import write

CPU = torch.device("cpu")
WORDS = NumberWords(width=16, hidden=16, heads=2, layers=1, rows=4)


def openwork(*arguments):
    """The answer of a command, which must not fail."""
    answer = CliRunner().invoke(app, list(map(str, arguments)))
    assert not answer.exit_code, answer.exception
    return answer


# --- eval -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of variational dropout on 1,000 digits, and its folder."""
    run = Run(DigitsLeNet300100(held_out=437), ow.VariationalDropout(ow.Constant(1e-4), log_sigma2=-4.0), steps=60)
    folder = tmp_path_factory.mktemp("study")
    return execute(run, folder, evaluations=1), folder / run.id


def test_eval_measures_on_the_data_that_it_is_told(trained):
    result, folder = trained
    live = restore(folder)
    found = {}
    for on in ("test", "validation"):
        (one,) = json.loads(openwork("eval", folder, "--on", on, "--json").stdout)["evaluated"]
        data = getattr(live.run.task.data(CPU), on)
        right = (live.finalized_copy()(data.images).argmax(1) == data.labels).sum()
        assert (one["judged_on"], one["accuracy"]) == (on, pytest.approx(int(right) / len(data.labels)))
        found[on] = one
    assert found["test"]["accuracy"] == result.after["accuracy"] != found["validation"]["accuracy"]
    assert json.loads(openwork("eval", folder, "--json").stdout)["evaluated"] == [found["test"]]
    assert "on validation data" in re.sub(r"\s+", " ", openwork("eval", folder, "--on", "validation").stdout)
    assert "on the test set" in re.sub(r"\s+", " ", openwork("eval", folder).stdout)
    assert not (folder / "thresholds.json").exists()


def test_thresholds_on_validation_are_points_of_a_task_of_their_own(trained, tmp_path):
    result, folder = trained
    copied = tmp_path / folder.name
    copied.mkdir()
    for name in ("checkpoint.pt", "result.json"):
        (copied / name).write_bytes((folder / name).read_bytes())
    openwork("eval", copied, "--on", "validation", "--threshold", "3", "--threshold", "0")
    openwork("eval", copied, "--threshold", "3", "--threshold", "0")
    rows = {one.id.removeprefix(result.id): one for one in read_results(tmp_path)}
    assert rows.keys() == {"", "@0", "@0,validation", "@3,validation"}  # the run's own on the test set is its result
    digits = "LeNet-300-100, digits 8x8, 437 held out"
    assert {name: (one.task, one.metric.name, one.judged_on) for name, one in rows.items()} == {
        "": (digits, "accuracy", "test"),
        "@0": (digits, "accuracy", "test"),
        "@0,validation": (f"{digits}, validation", "validation accuracy", "validation"),
        "@3,validation": (f"{digits}, validation", "validation accuracy", "validation"),
    }
    # As a run that was trained to be judged on validation data has it.
    tuned = Run(
        replace(DigitsLeNet300100(held_out=437), judged_on="validation"), restore(folder).run.technique, steps=60
    )
    again = execute(tuned, tmp_path / "tuned", evaluations=1)
    assert (again.group, again.score) == (rows["@3,validation"].group, rows["@3,validation"].score)
    assert len(summarize(rows.values())) == 4


def test_data_that_a_task_does_not_have_are_refused(tmp_path):
    run = Run(DigitsLeNet300100(), None, steps=1)
    execute(run, tmp_path, evaluations=1)
    answer = CliRunner().invoke(app, ["eval", str(tmp_path / run.id), "--on", "validation"])
    assert "judged_on='validation' needs images that are not trained on, got held_out=0" in str(answer.exception)


def test_what_is_measured_again_replaces_only_what_was_measured_on_the_same_data(tmp_path):
    def found(accuracy, judged=None):
        return AtThreshold(1.0, {}, "threshold=1", {"accuracy": accuracy}, 0.5, 0.25, judged)

    validation = Judged("validation", "digits, validation", ACCURACY.on("validation"))
    keep_thresholds(tmp_path, [found(0.5), found(0.6, validation)])
    keep_thresholds(tmp_path, [found(0.7, validation)])
    assert read_thresholds(tmp_path) == [found(0.5), found(0.7, validation)]


@pytest.mark.parametrize(
    ("judged", "message"),
    [
        ("validation", "one is judged on neither 'test' nor 'validation'"),
        ({"on": "training"}, "one is judged on neither 'test' nor 'validation'"),
        ({"on": "validation", "task": "digits"}, "the metric of one cannot be read, KeyError('metric')"),
        ({"on": "validation", "task": "digits", "metric": {"key": ""}}, "the metric of one cannot be read"),
    ],
)
def test_damaged_words_of_where_a_threshold_was_measured_are_named(tmp_path, judged, message):
    keep_thresholds(tmp_path, [AtThreshold(1.0, {}, "", {"accuracy": 0.5}, 0.5, 0.25)])
    content = json.loads((tmp_path / "thresholds.json").read_text())
    content["thresholds"][0]["judged"] = judged
    (tmp_path / "thresholds.json").write_text(json.dumps(content))
    with raises(ValueError, message, "delete it, and evaluate the run's thresholds again"):
        read_thresholds(tmp_path)


# --- what people read -----------------------------------------------------------------------------------------------


def on_validation(one):
    """The same run, judged on validation data."""
    changed = {**one, "task": f"{one['task']}, validation", "judged_on": "validation", "watched_on": "validation"}
    return {**changed, "metric": asdict(ACCURACY.on("validation")), "run": {**one["run"], "judged_on": "validation"}}


def test_a_report_shows_validation_and_test_apart_and_says_which_is_which(tmp_path):
    rows = [row(accuracy=0.9), on_validation(row(accuracy=0.8))]
    text = write_report(study(tmp_path, rows), tmp_path / "report").read_text()
    assert "<h2>digits</h2>" in text
    assert "<h2>digits, validation</h2>" in text
    assert "with real zeros, on the test set or validation data, as the title of a task says." in text
    for title in ("digits: test accuracy against sparsity", "digits, validation: validation accuracy against sparsity"):
        assert title in text
    (tables,) = re.findall(r"^const tables = (.*);$", text, re.M)
    columns = json.loads(tables)["runs"]["columns"]
    assert [name for name in columns if name[0] in ("on", "accuracy")] == [
        ["on", "measured on", "text"],
        ["accuracy", "accuracy", "percent"],
    ]


def test_a_report_of_one_kind_says_that_kind(tmp_path):
    text = write_report(study(tmp_path / "a", [row()]), tmp_path / "test").read_text()
    assert "with real zeros, on the test set." in text
    assert "measured on" not in text
    text = write_report(study(tmp_path / "b", [on_validation(row())]), tmp_path / "validation").read_text()
    assert "Validation accuracy and sparsity are those of the finalized model: plain" in text
    assert "with real zeros, on validation data." in text
    assert "test accuracy" not in text


def test_the_command_line_says_that_an_accuracy_is_that_of_validation(capsys):
    _print_results(results([on_validation(row())]))
    assert "validation accuracy" in re.sub(r"\s+", " ", capsys.readouterr().out)


# --- CIFAR-10 -------------------------------------------------------------------------------------------------------


def quick(images, scale, regularization):
    """A mean and a matrix that depend on the images, as those of whitening; its 3,072 eigenvectors take ten seconds."""
    pixels = images.flatten(1).double() / scale
    return pixels.mean(0), torch.diag((pixels.var(0) + regularization).rsqrt())


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A made-up data set in place of CIFAR-10: 64 training and 40 test images."""
    monkeypatch.setenv("OPENWORK_DATA", str(tmp_path))
    monkeypatch.setattr(whitening, "_zca", quick)
    write(tmp_path / "cifar10")
    yield tmp_path
    for cached in (tasks._normalized, _enlarged, tasks._whitened):
        cached.cache_clear()


def test_networks_on_cifar10_hold_out_the_last_images(small):
    raw = {split: cifar10(split) for split in ("train", "test")}
    kept, held = raw["train"].images[:54], raw["train"].images[54:]
    for task in (Cifar10WideResNet(held_out=10), Cifar10ResNet(held_out=10)):
        found = task.data(CPU)
        assert torch.equal(found.train.images, kept)
        corners = [data.images[..., 0, 0] for data in found[1:]]  # which enlarging keeps
        assert all(
            torch.allclose(corner, normalized(images)[..., 0, 0])
            for corner, images in zip(corners, (held, raw["test"].images), strict=True)
        )
    found = Cifar10Vgg(held_out=10).data(CPU)
    train, validation = whitening.whitened(
        Images(kept, raw["train"].labels[:54]), Images(held, raw["train"].labels[54:]), scale=1.0
    )
    assert torch.equal(found.train.images, train.images)
    torch.testing.assert_close(found.validation.images, validation.images)
    assert Cifar10Vgg(held_out=5_000).title == "VGG-like x 1, CIFAR-10, 5,000 held out"


def test_networks_on_cifar10_take_a_shared_order_of_batches(small):
    for kind in (Cifar10WideResNet, Cifar10ResNet, Cifar10Vgg):
        one, other = (next(kind(batch_size=4, order=3).batches(seed, 2, CPU))[0] for seed in (0, 1))
        assert torch.equal(one, other)


# --- translation ----------------------------------------------------------------------------------------------------


def test_translations_are_judged_on_the_development_set_while_settings_are_chosen(tmp_path, monkeypatch):
    read = []

    def pairs(self, split):
        read.append(split)
        return number_words(split)[:2]

    monkeypatch.setattr(NumberWords, "pairs", pairs)
    result = execute(Run(WORDS, None, steps=2), tmp_path, evaluations=1)
    # In training, before finalizing, and for BLEU and the next tokens of the model that is reported.
    assert read == ["dev", "dev", "test", "test"]
    assert (result.watched_on, result.judged_on) == ("validation", "test")
    assert (result.before.keys() - {"sparsity"}, "bleu" in result.after) == ({"accuracy", "loss"}, True)
    read.clear()
    tuned = execute(Run(WORDS.judge_on("validation"), None, steps=2), tmp_path, evaluations=1)
    assert set(read) == {"dev"}
    assert (tuned.task, tuned.metric) == ("Transformer, number words, validation", BLEU.on("validation"))
    assert tuned.after["loss"] == tuned.before["loss"] == result.before["loss"]
    assert "bleu" in tuned.before


def test_the_title_of_a_translation_names_the_set_that_is_judged():
    task = TextTranslation(training=("news",))
    assert task.title == "Transformer 512, en-de, newstest2014"
    assert task.judge_on("validation").title == "Transformer 512, en-de, newstest2013, validation"
    assert Run(task, None, 5).id != Run(task.judge_on("validation"), None, 5).id
    assert task.judge_on("validation").judge_on("test") == task
