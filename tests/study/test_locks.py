"""Processes that change one file take turns, and neither loses what the other wrote."""

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from openwork.cli import watch
from openwork.study import files, locks
from openwork.study.locks import LockedError, locked
from openwork.study.results import folders, thresholds
from openwork.study.results.thresholds import AtThreshold, keep_thresholds, read_thresholds
from openwork.study.runs.claim import claim


def entry(threshold: float) -> AtThreshold:
    return AtThreshold(threshold, {}, f"threshold={threshold:g}", {"accuracy": 0.9}, 0.5, 0.4)


CHANGES: dict[str, tuple[object, list[Callable[[Path], object]], Callable[[Path], int]]] = {
    "names": (
        folders,
        [lambda path, name=name: folders.write_name(name, [f"{name}1"], path) for name in ("x", "y")],
        lambda path: len(folders.read_names(path)),
    ),
    "thresholds": (
        thresholds,
        [lambda path, value=value: keep_thresholds(path, [entry(value)]) for value in (1.0, 2.0)],
        lambda path: len(read_thresholds(path)),
    ),
    "watched runs": (
        files,
        [lambda path, id=id: watch._keep(path, "wandb", id, 5, id) for id in ("x", "y")],
        lambda path: len(watch._written(path)["wandb"]),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_of_two_who_add_to_one_file_at_once_neither_loses_what_the_other_added(what, tmp_path, monkeypatch):
    module, (first, second), kept = CHANGES[what]
    real, others = files.write_text, []

    def write_text(path: Path, text: str) -> None:
        if not others:  # the first one has read the file and is about to write it: the second comes
            others.append(threading.Thread(target=second, args=(tmp_path,)))
            others[0].start()
            others[0].join(0.5)
        real(path, text)

    monkeypatch.setattr(module, "write_text", write_text)
    first(tmp_path)
    others[0].join()
    assert kept(tmp_path) == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_a_lock_ends_where_its_file_cannot_be_removed(tmp_path, monkeypatch):
    def unlink(path: Path, missing_ok: bool) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(PermissionError), locked(tmp_path / "lock"):
            pass
        assert not locks._held
    with locked(tmp_path / "lock"):
        pass


def test_a_name_that_another_process_has_given_to_others_since_is_refused(tmp_path):
    folders.check_name("first", ["a1"], tmp_path)
    folders.write_name("first", ["b2"], tmp_path)  # the other process
    with pytest.raises(ValueError, match="'first' is the name of other runs"):
        folders.write_name("first", ["a1"], tmp_path)


def test_a_name_that_these_runs_have_already_writes_nothing(tmp_path, monkeypatch):
    assert folders.write_name("first", ["a1", "b2"], tmp_path) == 0

    def locked(*_: object, **__: object) -> None:
        raise AssertionError("the folder may be one that nobody may write to")

    monkeypatch.setattr(folders, "locked", locked)
    assert folders.write_name("first", ["a1"], tmp_path) == 1


def test_who_does_not_wait_is_told_who_holds_the_lock(tmp_path):
    with locked(tmp_path / "one"), pytest.raises(LockedError, match=r"process \d+ on "), locked(tmp_path / "one"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_lock(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(locks.os, "write", full)
    with pytest.raises(files.WriteError, match="No space left"), claim(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
