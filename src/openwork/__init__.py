"""openwork makes PyTorch models sparse while they train, and measures what that costs."""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from openwork.public import *  # noqa: F403
    from openwork.public import __all__ as __all__
else:

    @cache
    def _modules() -> dict[str, str]:
        """The module of each public name, as `public.py` imports them: all of them together take 0.2 s."""
        import ast
        from pathlib import Path

        nodes = ast.parse(Path(__file__).with_name("public.py").read_text(encoding="utf-8")).body
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        return {alias.name: node.module for node in imports for alias in node.names}

    def __getattr__(name: str) -> Any:
        """A public name. It is imported when it is first used, as `openwork --help` needs no torch."""
        import gc

        module = "openwork.public" if name == "__all__" else _modules().get(name)
        if module is None:
            raise AttributeError(f"module 'openwork' has no attribute {name!r}")
        collects = gc.isenabled()
        gc.disable()  # what an import makes stays; to search it, and all of torch's objects, for garbage takes 0.1 s
        try:
            return globals().setdefault(name, getattr(import_module(module), name))
        finally:
            if collects:
                gc.enable()

    def __dir__() -> list[str]:
        return [*__getattr__("__all__"), "__version__"]
