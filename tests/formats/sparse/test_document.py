"""docs/files.md specifies the format: its reader, run here, reads what `save` writes."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard

import openwork as ow
from openwork.formats.sparse import symbols
from openwork.formats.sparse.dtypes import DTYPES

TEXT = (Path(__file__).parents[3] / "docs" / "files.md").read_text(encoding="utf-8")
USE, READER = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)


@pytest.fixture(scope="module")
def reader():
    """Its functions by name."""
    names: dict[str, Any] = {}
    exec(compile(READER, "docs/files.md", "exec"), names)
    return names


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(USE, "docs/files.md", "exec"), {})


@pytest.mark.filterwarnings("ignore:unclosed file")
@pytest.mark.parametrize("name", DTYPES)
def test_the_reader_of_the_document_reads_every_dtype_and_code(name, tmp_path, reader):
    rng = np.random.default_rng(0)
    dtype = DTYPES[name]
    state = {}
    for density in (0, 0.001, 0.02, 0.1, 0.5, 1):
        for scale in (0.01, 1, 100):
            values = rng.normal(size=(50, 100)) * scale
            pruned = np.where(np.abs(values) >= np.quantile(np.abs(values), 1 - density), values, 0)
            state[f"{density} {scale}"] = torch.from_numpy(pruned).to(dtype.torch)
            if dtype.signed_zero:
                state[f"signed {density} {scale}"] = torch.from_numpy(pruned * (values < 0)).to(dtype.torch)
    state["tied"] = state["0.1 1"]
    state["scalar"] = state["1 1"][0, 0]
    saved = ow.save(state, tmp_path / "x.safetensors")
    assert len({*saved.codes.values()}) > 1
    found = reader["read"](tmp_path / "x.safetensors")
    assert found.keys() == state.keys()
    for key, tensor in state.items():
        expected = tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
        assert bytes(found[key] if isinstance(found[key], bytes) else found[key].tobytes()) == expected, key


@pytest.mark.parametrize("kind", symbols.SYMBOLS)
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 1])
def test_the_reader_of_the_document_reads_every_code_of_symbols(kind, share, reader):
    rng = np.random.default_rng(0)
    found = np.where(rng.random(5001) < share, rng.integers(0, 256, 5001), 120).astype(np.uint8)
    parts = [zstandard.ZstdDecompressor().decompress(part) for part in symbols.SYMBOLS[kind].encode(found)]
    read = reader["symbols"](*(np.frombuffer(part, np.uint8) for part in parts), kind, len(found))
    assert read.tolist() == found.tolist()
