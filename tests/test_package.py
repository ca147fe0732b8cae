"""What a user installs and imports."""

import gc
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import torch

import openwork
from openwork.compiler import constant
from tests.processes import run_afresh

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "openwork"
KINDS = {".py", ".typed", ".html", ".js", ".csv", ".h", ".cpp", ".json", ".txt"}


@pytest.fixture(scope="module")
def core_only(tmp_path_factory):
    return json.loads(run_afresh("core_only", tmp_path_factory.mktemp("core")))


def test_torch_numpy_and_safetensors_are_enough_to_sparsify_and_prune_and_save(core_only):
    assert core_only["sparsified"] == 0.5
    assert core_only["pruned"]["0.weight"] == 0.75


def test_what_needs_more_says_what_to_install(core_only):
    assert core_only["said"].endswith('pip install "openwork[files]"')


def test_import_openwork_imports_nothing_else(core_only):
    assert core_only["alone"] == ["openwork"]


def test_a_public_name_imports_what_it_needs_alone(core_only):
    assert core_only["first"]["openwork.core.sparsify"]
    assert not core_only["first"]["openwork.public"]
    assert not core_only["first"]["openwork.inference.accelerate"]


def test_the_public_names_import_neither_the_compiler_nor_sympy(core_only):
    # Each takes as long as torch, which does without them until it compiles or exports.
    added = {name for name in core_only["added"] if name.startswith(("torch", "sympy", "mpmath", "networkx"))}
    assert added <= {"torch.utils"}


def test_the_public_names_do_not_import_what_only_their_calls_need(core_only):
    assert core_only["early"] == []


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_of_garbage_is_after_an_import_as_it_was(monkeypatch, collects):
    monkeypatch.delitem(vars(openwork), "sparsify", raising=False)
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        assert callable(openwork.sparsify)
        assert gc.isenabled() is collects
        with pytest.raises(AttributeError, match="has no attribute 'sparsity'"):
            openwork.sparsity  # noqa: B018
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()


def test_a_constant_for_the_compiler_has_the_mark_of_torch():
    def function():
        return 1

    theirs = dict(vars(torch.compiler.assume_constant_result(function)))
    vars(function).clear()
    assert vars(constant(function)) == theirs != {}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The files of the sdist by name, and of the wheel that is built from it, with their sizes."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("built")
    hatchling = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    environment = os.environ | {"HATCH_BUILD_NO_HOOKS": "true"}  # as where torch is missing: no kernels are compiled
    subprocess.run([*hatchling, "-t", "sdist"], cwd=ROOT, env=environment, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    subprocess.run([*hatchling, "-t", "wheel"], cwd=source, env=environment, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return source, zipfile.ZipFile(wheel), sdist.stat().st_size, wheel.stat().st_size


def test_the_wheel_holds_the_package_and_nothing_else(built):
    _, wheel, *_ = built
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    own = {path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.rglob("*") if path.suffix in KINDS}
    assert names == own
    assert "openwork/py.typed" in names
    assert {Path(name).name for name in wheel.namelist() if "/licenses/" in name} == {"LICENSE", "THIRD_PARTY.md"}


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    source, *_ = built
    assert {path.name for path in source.iterdir()} == {
        "src", "hatch_build.py", "pyproject.toml", "PKG-INFO", "README.md", "CHANGELOG.md", "LICENSE", "THIRD_PARTY.md",
        "CITATION.cff", ".gitignore",
    }  # fmt: skip


def test_wheel_and_sdist_are_small(built):
    *_, sdist, wheel = built
    assert sdist < 1_000_000
    assert wheel < 1_300_000


def test_the_version_is_written_in_one_place(built):
    _, wheel, *_ = built
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    fields = message_from_bytes(wheel.read(metadata))
    assert fields["Version"] == openwork.__version__
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == openwork.__version__
    needed = [name for name in fields.get_all("Requires-Dist") if "extra ==" not in name]
    assert sorted(re.match(r"\w+", name)[0] for name in needed) == ["numpy", "safetensors", "torch"]


def test_every_file_that_is_no_python_has_its_licence_listed():
    text = (ROOT / "THIRD_PARTY.md").read_text()
    for path in SOURCE.rglob("*"):
        if path.suffix in KINDS - {".py"}:
            assert f"{path.name}`" in text, f"{path}: whose is it? Say so in THIRD_PARTY.md"
    for name in re.findall(r"`((?:src|docs|tests)/[^`]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_citation_is_one():
    # https://github.com/citation-file-format/citation-file-format: the fields that its schema 1.2.0 requires.
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= found.keys()
    assert found["cff-version"] == "1.2.0"
    assert found["license"] == "Apache-2.0"
    assert "version" not in found  # it is written in one place


def test_a_report_page_carries_the_notices_of_the_libraries_that_it_contains():
    notices, script, _ = (SOURCE / "study/report/page.html").read_text().partition("<script>$bundle</script>")
    assert script
    for text in ("Interactive Data Lab", "Mike Bostock", "BSD 3-Clause License\nRedistribution", "ISC License\nPerm"):
        assert text in notices


def test_every_supported_python_and_torch_is_in_the_table_of_tested_ones():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tested = re.findall(r"^\| (3\.\d+)\.\d+ \| (\d+\.\d+)", (ROOT / "docs" / "versions.md").read_text(), re.M)
    pythons = [name[-4:] for name in pyproject["classifiers"] if ":: Python :: 3." in name]
    assert sorted({python for python, _ in tested}) == pythons
    assert pyproject["requires-python"] == f">={pythons[0]}"
    (oldest,) = [name.removeprefix("torch>=") for name in pyproject["dependencies"] if "torch" in name]
    assert min((torch for _, torch in tested), key=lambda name: [*map(int, name.split("."))]) == oldest
