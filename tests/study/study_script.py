"""The scripts that execute the studies of results/, as modules."""

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

RESULTS = Path(__file__).parents[2] / "results"


@cache
def script(study: str = "mnist") -> ModuleType:
    """``results/STUDY/run.py``, which lies in no package."""
    spec = spec_from_file_location(f"{study.replace('-', '_')}_run", RESULTS / study / "run.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def driver() -> ModuleType:
    """``results/driver.py``, which the scripts share."""
    script()
    return sys.modules["driver"]


def words(study: str) -> str:
    """What ``results/STUDY/README.md`` says, as one line."""
    return " ".join((RESULTS / study / "README.md").read_text(encoding="utf-8").split())
