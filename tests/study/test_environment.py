"""A run says which commit of openwork it ran, also where there is no git."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from openwork.study.runs.environment import commit_of

NOTED = json.dumps({"url": "https://example.org/a", "vcs_info": {"vcs": "git", "commit_id": 2 * "0123456789abcdef"}})


@pytest.fixture
def package(tmp_path):
    """A package in a source tree without history."""
    folder = tmp_path / "tree" / "src" / "openwork"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    return folder


def git(tree: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org", *arguments]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True).stdout.strip()


def committed(tree: Path) -> str:
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "All")
    return git(tree, "rev-parse", "--short=12", "HEAD")


def installed(folder: Path, origin: str) -> None:
    """What pip writes beside a package that it has installed into this folder."""
    info = folder / "openwork-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: openwork\nVersion: 0.1.0\n")
    (info / "direct_url.json").write_text(origin)


def test_a_repository_says_its_commit_and_whether_the_package_differs_from_it(package):
    tree = package.parents[1]
    commit = committed(tree)
    (tree / "results.csv").write_text("a result, which changes no run")
    (tree / ".openwork-commit").write_text("another commit")
    assert commit_of(package) == commit
    (package / "new.py").write_text("")
    assert commit_of(package) == f"{commit}-dirty"
    (package / "new.py").unlink()
    (package / "__init__.py").write_text("changed = True\n")
    assert commit_of(package) == f"{commit}-dirty"
    git(tree, "add", ".")
    assert commit_of(package) == f"{commit}-dirty"  # staged is not committed


def test_without_git_a_file_beside_src_says_it(package):
    assert commit_of(package) is None
    path = package.parents[1] / ".openwork-commit"
    path.write_text("0123456789ab-dirty\n")
    assert commit_of(package) == "0123456789ab-dirty"
    path.write_text("\n")
    assert commit_of(package) is None
    path.write_bytes(b"\xff")
    assert commit_of(package) is None


def test_a_copy_in_somebody_else_s_repository_is_none_of_its_commits(package):
    tree = package.parents[1]
    (tree / ".gitignore").write_text("src\n")
    committed(tree)
    assert commit_of(package) is None
    (tree / ".openwork-commit").write_text("0123456789ab")
    assert commit_of(package) == "0123456789ab"


def test_an_installation_from_a_repository_says_what_pip_has_noted(package, monkeypatch):
    installed(package.parent, NOTED)
    monkeypatch.syspath_prepend(str(package.parent))
    assert commit_of(package) == "0123456789ab"


@pytest.mark.parametrize("origin", ['{"url": "file:///home", "dir_info": {}}', "not JSON"])
def test_an_installation_from_elsewhere_says_nothing(package, monkeypatch, origin):
    installed(package.parent, origin)
    monkeypatch.syspath_prepend(str(package.parent))
    assert commit_of(package) is None


def test_another_installation_than_the_one_that_runs_says_nothing(package, monkeypatch, tmp_path):
    (tmp_path / "openwork").mkdir()
    installed(tmp_path, NOTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert commit_of(package) is None
    assert commit_of(tmp_path / "openwork") == "0123456789ab"


def test_without_the_command_git_the_file_is_read(package, monkeypatch):
    committed(package.parents[1])
    (package.parents[1] / ".openwork-commit").write_text("0123456789ab")
    monkeypatch.setenv("PATH", str(Path(sys.prefix) / "nowhere"))
    assert commit_of(package) == "0123456789ab"
