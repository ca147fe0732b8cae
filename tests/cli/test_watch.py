"""`openwork watch`: what runs keep, written once to where others watch."""

import json
import sys
from types import SimpleNamespace

import pytest

from openwork.cli import watch
from openwork.cli.watch import numbers
from tests.cli.folders import openwork
from tests.study.studies import row, study


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A folder with one run, in which the test works; and what a writer is given instead of TensorBoard."""
    folder = study(tmp_path / "openwork-runs", [row()])
    rows = [{"step": 4, "accuracy": 0.5, "layers": {"fc": 0.25}}, {"step": 10, "accuracy": 0.75, "layers": {}}]
    (folder / row()["id"] / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    monkeypatch.chdir(tmp_path)
    calls = []
    fake = SimpleNamespace(write_run=lambda *given, **more: calls.append((*given, more)))
    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, f"openwork.integrations.{name}", fake)
        monkeypatch.setattr(f"openwork.integrations.{name}", fake, raising=False)
    return folder, calls


def test_rows_are_written_once_and_new_ones_later(written, monkeypatch, capsys):
    _, calls = written
    assert openwork(monkeypatch, "watch") == 0
    (place, rows, settings, _), *_ = calls
    assert place.name == f"L0-seed0-{row()['id'][:6]}"
    assert rows[:2] == [(4, {"accuracy": 0.5, "layers/fc": 0.25}), (10, {"accuracy": 0.75})]
    assert rows[2] == (11, {"final/accuracy": 0.97, "final/loss": 0.1, "final/sparsity": 0.9})
    assert settings["id"] == row()["id"]
    assert "3 rows of 1 run in " in capsys.readouterr().out.replace("\n", "")
    assert openwork(monkeypatch, "watch", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == {}
    assert len(calls) == 1


def test_a_run_in_two_directories_is_written_once_as_far_as_either_has_it(written, monkeypatch, capsys):
    folder, calls = written
    other = folder.parent / "other" / row()["id"]
    other.mkdir(parents=True)
    (other / "run.json").write_text("{}")
    (other / "metrics.jsonl").write_text(json.dumps({"step": 4, "accuracy": 0.5, "layers": {}}) + "\n")
    assert openwork(monkeypatch, "watch", "other", folder.name, folder, "--json") == 0
    assert [[step for step, _ in rows] for _, rows, *_ in calls] == [[4], [10, 11]]
    assert json.loads(capsys.readouterr().out)["rows"] == {row()["id"]: 3}


def test_each_place_has_its_own_memory(written, monkeypatch):
    _, calls = written
    openwork(monkeypatch, "watch", "openwork-runs")
    openwork(monkeypatch, "watch", "openwork-runs", "--to", "wandb", "--project", "mine")
    assert [more for *_, more in calls] == [{}, {"project": "mine"}]
    assert calls[1][0].name == row()["id"]


def test_a_variant_is_no_path_and_no_name_that_a_disk_refuses(tmp_path, monkeypatch):
    folder = study(tmp_path / "runs", [row(name, name) for name in ("L0, a/../../b", f"L0, {'中' * 300}")])
    for place in folder.iterdir():
        (place / "metrics.jsonl").write_text("")
    places = []
    written = SimpleNamespace(write_run=lambda place, rows, settings: places.append(place))
    monkeypatch.setattr("openwork.integrations.tensorboard", written, raising=False)
    monkeypatch.setitem(sys.modules, "openwork.integrations.tensorboard", written)
    assert openwork(monkeypatch, "watch", folder, "--out", tmp_path / "watched") == 0
    assert {place.parent for place in places} == {tmp_path / "watched"}
    for place in places:
        place.mkdir(parents=True)


@pytest.fixture
def places(monkeypatch):
    """The folders that a writer is given instead of TensorBoard."""
    found = []
    fake = SimpleNamespace(write_run=lambda place, rows, settings: found.append(place))
    monkeypatch.setattr("openwork.integrations.tensorboard", fake, raising=False)
    monkeypatch.setitem(sys.modules, "openwork.integrations.tensorboard", fake)
    return found


def evaluated(folder, step):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "accuracy": 0.5, "layers": {}}) + "\n")


@pytest.mark.parametrize("name", ["L0", "L0, a/b \N{BULLET} c", "lottery ticket, x"])
def test_a_run_keeps_its_folder_when_it_ends_and_its_name_is_known(name, tmp_path, monkeypatch, places):
    folder = study(tmp_path / "runs", [row(name)])
    (run,) = folder.iterdir()
    described = {"type": "Run", "task": {"type": "T"}, "technique": {"type": "L0"}, "seed": 0}
    (run / "run.json").write_text(json.dumps(described))
    (run / "result.json").rename(tmp_path / "result.json")
    evaluated(run, 4)
    assert openwork(monkeypatch, "watch", folder, "--out", tmp_path / "watched") == 0
    evaluated(run, 8)
    (tmp_path / "result.json").rename(run / "result.json")
    assert openwork(monkeypatch, "watch", folder, "--out", tmp_path / "watched") == 0
    assert len(places) == 2
    assert len({*places}) == 1


def test_variants_that_are_written_alike_have_folders_of_their_own(tmp_path, monkeypatch, places):
    """Even where their ids begin alike, and in every pass the same ones."""
    rows = [row(f"L0, {variant}", variant) for variant in ("a b", "a/b", "a_b", "\N{MATHEMATICAL BOLD SMALL A}" * 90)]
    folder = study(tmp_path / "runs", rows)
    runs = sorted(folder.iterdir())
    for run in runs:
        evaluated(run, 4)
    monkeypatch.setattr(watch, "_SHORT", 0, raising=False)
    for step in (20, 30):
        assert openwork(monkeypatch, "watch", folder, "--out", tmp_path / "watched") == 0
        for run in runs:
            evaluated(run, step)
    assert len(places) == 2 * len(runs)
    assert places[: len(runs)] == places[len(runs) :]
    assert len({*places}) == len(runs)
    for place in {*places}:
        place.mkdir()


def test_what_is_damaged_is_named_and_the_rest_is_written(written, monkeypatch, capsys):
    folder, calls = written
    (folder / "dddd000000000000").mkdir()
    (folder / "dddd000000000000" / "run.json").write_text("{")
    assert openwork(monkeypatch, "watch") == 4
    assert "dddd000000000000/run.json cannot be read" in capsys.readouterr().err.replace("\n", "")
    assert len(calls) == 1


def test_who_follows_is_told_once_of_what_is_damaged(written, monkeypatch, capsys):
    folder, calls = written
    (folder / "dddd000000000000").mkdir()
    (folder / "dddd000000000000" / "run.json").write_text("{")
    passes = iter([None, None])

    def sleep(seconds):
        if next(passes, KeyboardInterrupt) is KeyboardInterrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=sleep))
    assert openwork(monkeypatch, "watch", "--follow") == 130
    said = capsys.readouterr().err.replace("\n", "")
    assert (said.count("dddd000000000000/run.json cannot be read"), len(calls)) == (1, 1)
    assert openwork(monkeypatch, "watch", "--follow", "--json") == 2
    assert "--follow has none; leave one of them out" in capsys.readouterr().err


def test_a_missing_package_is_one_sentence(written, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "openwork.integrations.tensorboard")
    monkeypatch.delattr("openwork.integrations.tensorboard")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert openwork(monkeypatch, "watch") == 1
    assert 'TensorBoard is missing; pip install "openwork[tensorboard]"' in capsys.readouterr().err


def test_numbers_leave_out_what_is_none():
    assert numbers({"a": 1, "b": None, "c": "text"}, {"fc": 0.5}) == {"a": 1.0, "layers/fc": 0.5}
