"""Who may import whom: the picture in docs/design.md."""

import ast
import importlib
import sys
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "openwork"
# The first prefix that fits a module says what else it may import here; its own folder is always allowed, and
# "openwork" stands for the public names alone.
ALLOWED = {
    "openwork.core.masks": ["openwork.core", "openwork.kernels"],
    "openwork.core.parameters": ["openwork.core", "openwork.kernels", "openwork.noise"],
    "openwork.core": [],
    "openwork.techniques": ["openwork.core", "openwork.kernels", "openwork.noise"],
    "openwork.kernels": ["openwork.noise", "openwork.compiler"],
    "openwork.noise": ["openwork.compiler", "openwork.quantile"],
    "openwork.quantile": [],
    "openwork.compiler": [],
    "openwork.words": [],
    "openwork.formats.sparse": ["openwork.core", "openwork.formats.files"],
    "openwork.formats.onnx": ["openwork.core", "openwork.formats.files"],
    "openwork.formats": [],
    "openwork.inference": ["openwork.core", "openwork.kernels", "openwork.inspect"],
    "openwork.inspect": ["openwork.core", "openwork.formats", "openwork.techniques"],
    "openwork.integrations": ["openwork.core", "openwork.formats.files"],
    "openwork.recipes": [],
    "openwork.study.models": ["openwork.noise"],
    "openwork.study.data": ["openwork.study.files", "openwork.formats"],
    "openwork.study.evaluation": [],
    "openwork.study.processes": [],
    "openwork.study.exits": [],
    "openwork.study.locks": ["openwork.study.files"],
    "openwork.study.files": ["openwork.formats.files", "openwork.study.processes"],
    "openwork.study.training": ["openwork.noise", "openwork.study.tasks", "openwork.study.processes"],
    "openwork.study.tasks": [
        "openwork.core.optimizers",
        "openwork.core.selection",
        "openwork.core.sparsifier",
        "openwork.study.data",
        "openwork.study.evaluation",
        "openwork.study.models",
        "openwork.study.processes",
    ],
    "openwork.study.results": ["openwork.study.evaluation", "openwork.study.files", "openwork.study.locks"],
    "openwork.study.published": ["openwork.study.results", "openwork.study.evaluation", "openwork.study.files"],
    "openwork.study.release": ["openwork.formats", "openwork.study.models"],
    "openwork.study.report": [
        "openwork.study.published",
        "openwork.study.results",
        "openwork.study.evaluation",
        "openwork.study.files",
    ],
    "openwork.study.runs": [
        "openwork",
        "openwork.core",
        "openwork.techniques",
        "openwork.formats",
        "openwork.inspect",
        "openwork.study.evaluation",
        "openwork.study.exits",
        "openwork.study.files",
        "openwork.study.locks",
        "openwork.study.models",
        "openwork.study.processes",
        "openwork.study.results",
        "openwork.study.tasks",
        "openwork.study.training",
    ],
    "openwork.study.fleet": [
        "openwork.core",
        "openwork.kernels",
        "openwork.noise",
        "openwork.study.exits",
        "openwork.study.files",
        "openwork.study.results",
        "openwork.study.runs",
        "openwork.study.tasks",
        "openwork.study.training",
    ],
    "openwork.study.sweeps": [
        "openwork.study.fleet",
        "openwork.study.files",
        "openwork.study.processes",
        "openwork.study.results",
        "openwork.study.runs",
        "openwork.study.tasks",
        "openwork.study.training",
    ],
    "openwork.study.experiments": [
        "openwork.core",
        "openwork.techniques",
        "openwork.study.data",
        "openwork.study.runs",
        "openwork.study.tasks",
    ],
    "openwork.study": [],
    "openwork.cli": [
        "openwork",
        "openwork.core",
        "openwork.formats",
        "openwork.inference",
        "openwork.inspect",
        "openwork.integrations",
        "openwork.kernels",
        "openwork.recipes",
        "openwork.study",
    ],
    "openwork": [
        "openwork.public",
        "openwork.core",
        "openwork.techniques",
        "openwork.formats",
        "openwork.inference",
        "openwork.inspect",
    ],
}
CORE_ONLY = {"torch", "numpy", "safetensors", "openwork"}  # what a plain `pip install openwork` brings

# Each integration also imports its own host, and nothing else does.
HOSTS = {
    "openwork.integrations.lightning": "lightning",
    "openwork.integrations.peft": "peft",
    "openwork.integrations.tensorboard": "tensorboard",
    "openwork.integrations.wandb": "wandb",
    "openwork.integrations.pretrained": "transformers",
    "openwork.integrations.texts": "transformers",
    "openwork.integrations.transformers": "transformers",
}
# What parts of the library import where they use it, and say which extra brings it.
EXTRAS = {
    "openwork.formats.sparse": {"zstandard"},
    "openwork.formats.onnx": {"onnx", "onnxruntime"},
    "openwork.kernels.triton": {"triton"},
    "openwork.recipes": {"yaml"},
}


@cache
def modules() -> dict[str, Path]:
    return {
        ".".join(("openwork", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }


@cache
def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def rule(module: str) -> str:
    return next(prefix for prefix in ALLOWED if module == prefix or module.startswith(prefix + "."))


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_in_one_direction(module):
    prefix = rule(module)
    for name in imported(modules()[module]):
        if name.partition(".")[0] == "openwork":
            allowed = (prefix, "openwork.words", *ALLOWED[prefix])  # words.py itself imports nothing
            fits = name in allowed or any(name.startswith(f"{p}.") for p in allowed if p != "openwork")
            assert fits, f"{module} imports {name}; {prefix} may import {ALLOWED[prefix]}"


@pytest.mark.parametrize("module", sorted(m for m in modules() if m.startswith("openwork.core.")))
def test_the_mechanisms_do_not_know_each_other_and_the_core_knows_their_techniques_alone(module):
    mechanisms = ("openwork.core.masks", "openwork.core.parameters")
    for name in imported(modules()[module]):
        if name.startswith(mechanisms):
            own = next((prefix for prefix in mechanisms if module.startswith(prefix)), None)
            assert name.startswith(own) if own else name.endswith(".technique"), f"{module} imports {name}"


@pytest.mark.parametrize("module", sorted(m for m in modules() if not m.startswith(("openwork.study", "openwork.cli"))))
def test_the_library_needs_no_extras(module):
    for name in imported(modules()[module]):
        package = name.partition(".")[0]
        extras = next((names for prefix, names in EXTRAS.items() if module.startswith(prefix)), set())
        allowed = {*CORE_ONLY, *extras, HOSTS.get(module)}
        assert package in allowed or package in sys.stdlib_module_names, f"{module} imports {name}"


@pytest.mark.parametrize("module", HOSTS)
def test_a_missing_host_says_what_to_install(module, monkeypatch):
    monkeypatch.setitem(sys.modules, HOSTS[module], None)  # importing it raises ImportError
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(ImportError, match=rf'pip install "openwork\[{HOSTS[module]}\]"'):
        importlib.import_module(module)


def test_the_training_loop_and_the_models_know_no_technique():
    for folder in ("training", "models"):
        for path in (SOURCE / "study" / folder).glob("*.py"):
            text = path.read_text().lower()
            assert not any(word in text for word in ("magnitude", "variational", "hard_concrete", "openwork.core"))
