"""The file of compiled kernels in the cache."""

from pathlib import Path

import pytest
import torch

from openwork.kernels import compiled


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
