"""The script that executes the small study, as a module."""

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

PATH = Path(__file__).parents[2] / "results" / "mnist" / "run.py"


@cache
def script() -> ModuleType:
    """``results/mnist/run.py``, which lies in no package."""
    spec = spec_from_file_location("small_study_run", PATH)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
