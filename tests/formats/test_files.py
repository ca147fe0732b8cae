"""Replacing files, and creating folders."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from openwork.formats.files import creating, refuse_stream, replacing


def write(path, text="new"):
    with replacing(path) as temporary:
        temporary.write_text(text)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write(tmp_path / "x")
        with replacing(tmp_path / "y") as temporary:
            save_file({"y": torch.ones(2)}, temporary)  # from 0.8.0 on it puts one there that nobody else may read
    finally:
        os.umask(before)
    for path in ("x", "y"):
        assert (tmp_path / path).stat().st_mode & 0o777 == mode, path


def test_a_replaced_file_keeps_its_mode(tmp_path):
    (tmp_path / "x").write_text("old")
    (tmp_path / "x").chmod(0o640)
    write(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "new"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "x", "half\ud800")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "old")]


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")  # as a full disk does: without a name


def forbidden(name, *_, **__):
    raise PermissionError(errno.EACCES, "Permission denied", str(name))


def test_a_full_disk_and_a_forbidden_folder_name_the_path_that_was_given(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")
    for function, fails, what in [("fsync", full, r"\[Errno 28\] No space"), ("open", forbidden, r"\[Errno 13\] Perm")]:
        monkeypatch.setattr(os, function, fails)
        with pytest.raises(OSError, match=rf"{what}[^/]*: '{tmp_path}/x'$"):
            write(tmp_path / "x")
        monkeypatch.undo()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "old")]
    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/new'$"),
        creating(tmp_path / "new") as new,
    ):
        (new / "file").write_text("all")
    monkeypatch.undo()
    monkeypatch.setattr(os, "mkdir", forbidden)
    with pytest.raises(PermissionError, match=rf"Permission denied: '{tmp_path}/new'$"), creating(tmp_path / "new"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"'{tmp_path}/source'$"), replacing(tmp_path / "x"):
        (tmp_path / "source").read_text()


def test_a_folder_appears_when_all_of_it_is_there(tmp_path):
    with creating(tmp_path / "new") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file").write_text("all")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "sub" / "file").read_text() == "all"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_failure_leaves_no_folder(tmp_path):
    def stopped():
        with creating(tmp_path / "new") as temporary:
            (temporary / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_another_process_has_made_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(FileExistsError, match="exists, and nothing is overwritten"), creating(tmp_path / "new"):
        (tmp_path / "new").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_pipe_and_a_stream_are_no_files_to_replace(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out").symlink_to("/proc/self/fd/1")  # as /dev/stdout is, whatever that is
    before = {path.name: path.lstat() for path in tmp_path.iterdir()}
    for name in ("pipe", "out"):
        with pytest.raises(ValueError, match=f"cannot write .*/{name}, which is a device or a pipe; give another name"):
            write(tmp_path / name)
    assert {path.name: path.lstat() for path in tmp_path.iterdir()} == before
    (tmp_path / "x").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    write(tmp_path / "link")
    assert (tmp_path / "link").read_text() == "new"


def test_a_stream_that_is_redirected_to_a_file_is_none_to_replace(tmp_path):
    (tmp_path / "first").symlink_to("second")
    with (tmp_path / "rows.csv").open("w") as file:
        number = file.fileno()
        (tmp_path / "second").symlink_to(f"/proc/self/fd/{number}")  # as /dev/stdout is a link
        for name in (f"/dev/fd/{number}", f"/proc/self/fd/{number}", tmp_path / "first", tmp_path / "second"):
            with pytest.raises(
                ValueError, match=f"cannot write {name}, which is a device or a pipe; give another name"
            ):
                refuse_stream(Path(name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "rows.csv", "second"]
