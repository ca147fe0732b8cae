"""Compiling the kernels for CPUs: the cache, several processes at once, and wheels."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from openwork.kernels import compiled
from tests.kernels.test_sparse import needs_compiler

ROOT = Path(__file__).parents[2]
LOAD = "from openwork.kernels import compiled; print(compiled.load())"


def environment(**changes):
    return {**os.environ, "PYTHONPATH": ":".join(sys.path), **changes}


def load_elsewhere(**changes):
    return subprocess.Popen(
        [sys.executable, "-c", LOAD], env=environment(**changes), stdout=subprocess.PIPE, text=True, cwd="/"
    )


def test_a_library_is_for_one_source_torch_machine_and_capability(tmp_path, monkeypatch):
    name = compiled.library_name("AVX2")
    assert name != compiled.library_name("AVX512")
    (tmp_path / "sparse.cpp").write_text("other")
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "FOLDER", tmp_path)
        assert compiled.library_name("AVX2") != name
    with monkeypatch.context() as patch:
        patch.setattr(compiled.torch, "__version__", "1.0")
        assert compiled.library_name("AVX2") != name
    assert compiled.library_name("AVX2") == name


def test_a_compiler_that_fails_leaves_no_file_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match=r"false failed \(no message\)"):
        compiled.compile_to(tmp_path / "made.so", "DEFAULT")
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_a_reason(tmp_path):
    (tmp_path / "file").write_text("")
    process = load_elsewhere(OPENWORK_CACHE=str(tmp_path / "file" / "cache"))
    assert "the kernel for CPUs cannot be used" in process.communicate()[0]
    assert process.returncode == 0


@needs_compiler
@pytest.mark.slow
def test_processes_that_compile_at_once_leave_one_whole_library(tmp_path):
    processes = [load_elsewhere(OPENWORK_CACHE=str(tmp_path)) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == ["None"] * 3
    assert len(list(tmp_path.iterdir())) == 1


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling (extra dev)")
def test_a_wheel_that_is_built_beside_torch_needs_no_compiler(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, env=environment())
    (wheel,) = tmp_path.glob("*.whl")
    assert "none-any" not in wheel.name
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path / "installed")
    process = load_elsewhere(
        PYTHONPATH=str(tmp_path / "installed"), CXX="no-such-compiler", OPENWORK_CACHE=str(tmp_path / "cache")
    )
    assert process.communicate()[0].strip() == "None"
    assert not (tmp_path / "cache").exists()


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling (extra dev)")
def test_a_wheel_that_is_built_without_a_compiler_has_the_sources(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, env=environment(CXX="no-such-compiler"))
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("py3-none-any.whl")
    with zipfile.ZipFile(wheel) as files:
        assert "openwork/kernels/cpp/sparse.cpp" in files.namelist()
        assert not [name for name in files.namelist() if name.endswith(".so")]


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """What is loaded, from a cache that is compiled in no time, for files that say "good"."""
    found = []

    def load(path):
        found.append(Path(path).read_text())
        if found[-1] != "good":
            raise OSError(f"Could not load this library: {path}")

    monkeypatch.setenv("OPENWORK_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "library_name", lambda capability: "kernel.so")
    monkeypatch.setattr(compiled, "compile_to", lambda path, capability: path.write_text("good"))
    monkeypatch.setattr(torch.ops, "load_library", load)
    monkeypatch.setattr(compiled, "FOLDER", tmp_path / "package")  # where no library lies
    return found


def load():
    return compiled.load.__wrapped__()  # without its memory


def test_the_cached_file_is_compiled_once(loaded, tmp_path):
    assert load() is None
    (tmp_path / "kernel.so").write_text("good")
    assert load() is None
    assert loaded == ["good", "good"]


def test_a_damaged_file_in_the_cache_is_compiled_again(loaded, tmp_path):
    (tmp_path / "kernel.so").write_text("damaged")
    assert load() is None
    assert loaded == ["damaged", "good"]


def test_a_file_that_stays_damaged_is_a_reason(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "compile_to", lambda path, capability: path.write_text("damaged"))
    assert "cannot be used: Could not load this library" in load()
    assert loaded == ["damaged", "damaged"]


def test_a_damaged_file_of_the_package_is_a_reason_and_not_written(loaded, tmp_path):
    shipped = tmp_path / "package" / "kernel.so"
    shipped.parent.mkdir()
    shipped.write_text("damaged")
    assert "cannot be used" in load()
    assert shipped.read_text() == "damaged"


def test_an_empty_name_of_the_cache_is_none(monkeypatch):
    monkeypatch.setenv("OPENWORK_CACHE", "")
    assert compiled._cache() == Path.home() / ".cache" / "openwork"
