"""The script of results/large trains tiny networks to the end: its rows, thresholds, statistics, and going on."""

import csv
from dataclasses import replace

import pytest

import openwork as ow
from openwork.study.data.number_words import number_words
from openwork.study.experiments import large_resnet50, large_transformer
from openwork.study.fleet import memory
from openwork.study.tasks import cifar10_resnet, translation
from openwork.study.tasks.cifar10_resnet import Cifar10ResNet
from openwork.study.tasks.number_words import NumberWords
from tests.study.study_script import driver, script
from tests.study.test_fleet_networks import splits

run = script("large")
STEPS = 4
NOW = {"begin": 1, "end": 3, "every": 1}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Networks of a few channels and four steps, trained side by side as large ones are."""
    images = splits(3, 32, 32)

    def task(**settings):
        return Cifar10ResNet(depth=18, batch_size=8, held_out=8, **{"width": 0.02} | settings)

    def words(preset):
        return NumberWords(width=8, hidden=8, heads=2, layers=1, rows=2, warmup=0.2)

    monkeypatch.setattr(memory, "FULL", 0)
    monkeypatch.setattr(cifar10_resnet, "_enlarged", lambda *_: images)
    monkeypatch.setattr(large_resnet50, "_task", task)
    monkeypatch.setattr(large_resnet50, "_steps", lambda _: STEPS)
    monkeypatch.setattr(large_resnet50, "_schedule", lambda level, *_: ow.Cubic(level, **NOW))
    monkeypatch.setattr(large_transformer, "small_task", words)
    monkeypatch.setattr(large_transformer, "SMALL_STEPS", STEPS)
    monkeypatch.setattr(NumberWords, "pairs", lambda _, split: number_words(split)[:2])
    monkeypatch.setattr(translation, "EXTRA_LENGTH", 1)
    monkeypatch.setattr(run, "THRESHOLDS", (0.0, 3.0))
    monkeypatch.setattr(run, "BATCHES", 2)


def train(tmp_path, monkeypatch, wanted, *arguments):
    """The rows after the script has executed these of its pieces, each a letter and the runs."""
    pieces = [(letter, replace(run.pieces(tmp_path)[0][1], runs=lambda own=own: keyed(own))) for letter, own in wanted]
    monkeypatch.setattr(run, "pieces", lambda _: pieces)
    run.main([str(tmp_path / "rows"), "--runs", str(tmp_path / "runs"), *arguments])
    with (tmp_path / "rows" / "rows.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def keyed(runs):
    """The runs by the keys of rows, whose threshold is empty."""
    return {(*key, ""): each for key, each in runs.items()}


def few(runs, count):
    return dict(list(runs.items())[:count])


def test_rows_have_thresholds_of_dropout_and_new_statistics_of_l0_and_go_on_where_they_were(
    tmp_path, monkeypatch, capsys
):
    dropout, l0 = few(large_transformer.learned("variational dropout", 1.0), 1), few(large_resnet50.between(), 2)
    wanted = [("F", dropout), ("J", l0)]
    assert len(train(tmp_path, monkeypatch, wanted, "--parts", "F")) == 3  # as trained, and at two thresholds
    assert "F rows" in capsys.readouterr().out
    rows = train(tmp_path, monkeypatch, wanted)
    assert "F rows" not in capsys.readouterr().out
    assert [row["threshold"] for row in rows] == ["", "0", "3", "", ""]
    assert [row["status"] for row in rows] == ["finished"] * 5
    assert rows[0]["bleu"]
    assert any(row["bleu"] for row in rows[1:3])
    assert all(row["validation"] for row in rows)
    assert [bool(row["recalibrated"]) for row in rows] == [False] * 3 + [True] * 2
    assert [row["fleet"] for row in rows] == ["", "", "", "2", "2"]
    assert not list((tmp_path / "runs").glob("*/result.json"))  # what nothing starts from is removed


def test_pilots_have_no_test_figures(tmp_path, monkeypatch):
    (row,) = train(tmp_path, monkeypatch, [("J", few(large_resnet50.pilots_of_gates(), 1))])
    assert (row["accuracy"], row["loss"]) == ("", "")
    assert row["validation"]
    assert row["recalibrated"]


@pytest.mark.slow
def test_masks_and_what_keeps_their_zeros_are_rows_and_the_mask_stays_for_its_other_replicas(tmp_path, monkeypatch):
    wanted = [("I", large_resnet50.masks(0.9, 0, [0])), ("I", large_resnet50.masks(0.9, 0, [1]))]
    rows = train(tmp_path, monkeypatch, wanted)
    assert len(rows) == 1 + 7 + 7
    assert len({row["sparsity"] for row in rows}) == 1
    assert len(list((tmp_path / "runs").glob("*/result.json"))) == 1


def test_a_transformer_with_dropout_waits_to_be_trained_alone(tmp_path, monkeypatch, capsys):
    def words(preset):
        return NumberWords(width=8, hidden=8, heads=2, layers=1, rows=2, attention_dropout=0.1)

    monkeypatch.setattr(large_transformer, "small_task", words)
    wanted = [("F", few(large_transformer.told("dense"), 2))]
    assert train(tmp_path, monkeypatch, wanted) == []
    assert "2 runs with dropout wait for --alone" in capsys.readouterr().out
    first, second = wanted[0][1].values()
    with driver().only_here(tmp_path / "runs", [first]):
        assert [row["id"] for row in train(tmp_path, monkeypatch, wanted, "--alone")] == [second.id]
    assert "other processes execute 1 piece; call again" in capsys.readouterr().out
    assert len(train(tmp_path, monkeypatch, wanted, "--alone")) == 2


def test_a_process_may_train_the_runs_of_some_techniques_alone(tmp_path, monkeypatch):
    wanted = [("B", {key: each for key, each in large_resnet50.compared(20, [0]).items() if key[2] in ("0", "0.9")})]
    assert {key[1] for key in wanted[0][1]} == {"dense", "magnitude", "random"}
    rows = train(tmp_path, monkeypatch, wanted, "--alone", "--techniques", "dense", "random")
    assert sorted(row["technique"] for row in rows) == ["dense", "random"]


def test_what_depends_on_rows_is_asked_for_when_its_turn_has_come(tmp_path, monkeypatch):
    pilots, finals = few(large_resnet50.pilots_of_gates(), 1), few(large_resnet50.between(), 1)
    piece, done = run.pieces(tmp_path)[0][1], (tmp_path / "rows.csv").exists
    pieces = [
        ("J", replace(piece, runs=lambda: keyed(pilots))),
        ("J", replace(piece, runs=lambda: keyed(finals) if done() else {})),
    ]
    monkeypatch.setattr(run, "pieces", lambda _: pieces)
    run.main([str(tmp_path), "--runs", str(tmp_path / "runs"), "--alone"])
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 2


def test_what_is_too_long_is_not_begun(tmp_path, monkeypatch, capsys):
    wanted = [("J", few(large_resnet50.between(), 1))]
    with pytest.raises(FileNotFoundError):
        train(tmp_path, monkeypatch, wanted, "--seconds", "0.1")
    assert "call again" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lanes", "0"],
        ["--lanes", "two"],
        ["--parts", ""],
        ["--techniques", "dense"],
        ["--alone", "--techniques", "magnitud"],
        ["--alone", "--techniques", "dense", "magnitud"],
        ["--alone", "--parts", "B", "--techniques", "L0"],
    ],
    ids=" ".join,
)
def test_arguments_that_make_no_sense_end_with_a_sentence(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run.main([str(tmp_path), "--runs", str(tmp_path), *arguments])
    assert "error: " in capsys.readouterr().err
