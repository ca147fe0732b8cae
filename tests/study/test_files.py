import os
import resource

import pytest
import torch

from openwork.study.files import remove_leftovers, write_atomically, write_text
from tests.processes import run


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system has no limit on file sizes")
def test_a_full_disk_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save(torch.ones(3), path)
    printed = run("save_on_full_disk", path)
    assert "cannot write" in printed or "File too large" in printed
    assert torch.equal(torch.load(path), torch.ones(3))
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_of_several_processes_the_first_alone_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("openwork.study.files.rank", lambda: 1)
    write_text(tmp_path / "a", "text")
    assert not list(tmp_path.iterdir())


def test_what_killed_writers_left_is_removed(tmp_path):
    for name in (".checkpoint.pt.0a1b2c3d", ".tmpzwVO5Z", "checkpoint.pt", ".hidden", "lock"):
        (tmp_path / name).touch()
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / ".8.safetensors.0a1b2c3d").touch()
    (tmp_path / ".tmpabcdef").mkdir()
    remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.rglob("*")}
    assert left == {"checkpoint.pt", ".hidden", "lock", "snapshots", ".tmpabcdef"}
