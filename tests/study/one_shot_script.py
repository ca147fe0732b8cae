"""The scripts of ``results/one-shot``, which lie in no package, as modules."""

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / "results" / "one-shot"


@cache
def script(name: str) -> ModuleType:
    """``results/one-shot/NAME.py``, which imports its neighbours."""
    sys.path.insert(0, str(FOLDER))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
