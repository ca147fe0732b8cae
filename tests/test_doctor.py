"""`openwork doctor`: every operation of kernels/ with its way on this machine, as a table and as JSON."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import openwork
from openwork.cli import main
from openwork.kernels import compiled, paths

FOLDER = Path(openwork.__file__).parent / "kernels"
MODULES = {file.stem: importlib.import_module(f"openwork.kernels.{file.stem}") for file in FOLDER.glob("[!_]*.py")}
OPERATIONS = sorted(name for name, module in MODULES.items() if hasattr(module, "path"))


@pytest.fixture
def doctor(monkeypatch, capsys):
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["openwork", "doctor", *arguments])
        monkeypatch.setattr(compiled, "load", lambda: "there is no C++ compiler")  # compiling takes ten seconds
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        return capsys.readouterr().out

    return run


def ways(text: str) -> dict[str, dict[str, tuple[str, str]]]:
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for one in json.loads(text)["operations"]:
        found.setdefault(one["operation"], {}).update(dict.fromkeys(one["dtypes"], (one["way"], one["why"])))
    return found


def test_every_operation_of_the_kernels_is_there(doctor):
    assert {"csr", "lanes", "semi_structured", "sparse", "stacked"} <= set(OPERATIONS)
    assert sorted(ways(doctor("--json"))) == OPERATIONS
    printed = doctor()
    assert all(f"\n  {name} " in printed for name in OPERATIONS)
    assert "\n  sparse            float32, bfloat16, float16   plain   there is no C++ compiler" in printed
    for text in (f"torch     {torch.__version__}", f"openwork  {openwork.__version__}", "triton    ", "compiler  "):
        assert text in printed


def test_an_old_gpu_takes_the_plain_twins(doctor, monkeypatch):
    monkeypatch.setattr(paths, "HAS_TRITON", True)
    seen = SimpleNamespace(major=7, minor=0, name="Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: seen)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: seen.name)
    text = doctor("--device", "cuda", "--json")
    assert ways(text)["lanes"]["bfloat16"] == ("plain", "the kernel needs compute capability 8.0 or higher, not 7.0")
    assert json.loads(text)["machine"]["GPU"].endswith("Tesla V100, compute capability 7.0")


def test_a_new_gpu_without_triton_takes_the_plain_twins(doctor, monkeypatch):
    monkeypatch.setattr(paths, "HAS_TRITON", False)
    found = ways(doctor("--device", "cuda", "--json"))
    for name in ("lanes", "stacked"):
        assert found[name]["float32"] == ("plain", "Triton is not installed; `pip install triton` brings it")


def test_half_precision_is_told_apart(doctor, monkeypatch):
    monkeypatch.setattr(paths, "HAS_TRITON", True)
    seen = SimpleNamespace(major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: seen)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    found = ways(doctor("--device", "cuda", "--json"))["semi_structured"]
    assert found["float32"] == ("none", "2:4 is computed in bfloat16 and float16 alone")
    assert found["float16"] == found["bfloat16"] != found["float32"]


def test_a_device_that_is_not_there_is_told_and_no_error(doctor, monkeypatch):
    def raised(device):
        raise RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU")

    monkeypatch.setattr(paths, "HAS_TRITON", True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", raised)
    assert "CUDA is out of reach: Found no NVIDIA driver on your system" in doctor("--device", "cuda")


def test_a_missing_compiler_is_told(doctor, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "there is no C++ compiler (no-such-compiler); install one, or set CXX to its name" in doctor()


def test_an_unknown_device_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["openwork", "doctor", "--device", "tpu"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "unknown device 'tpu'; give cpu, cuda or cuda:N" in " ".join(capsys.readouterr().err.split())
