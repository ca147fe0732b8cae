import os
import resource
import subprocess
import sys

import pytest
import torch

from openwork.study.files import write_atomically, write_text


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


SCRIPT = """
import resource, signal, sys, torch
from pathlib import Path
from openwork.study.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # what a full disk does to a write
try:
    write_atomically(Path(sys.argv[1]), lambda path: torch.save(torch.zeros(50_000), path))
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="this system has no limit on file sizes")
def test_a_full_disk_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save(torch.ones(3), path)
    answer = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True)
    assert "cannot write" in answer.stdout or "File too large" in answer.stdout
    assert torch.equal(torch.load(path), torch.ones(3))
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


def test_of_several_processes_the_first_alone_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("openwork.study.files.rank", lambda: 1)
    write_text(tmp_path / "a", "text")
    assert not list(tmp_path.iterdir())
