"""openwork makes PyTorch models sparse while they train, and measures what that costs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from openwork.public import *  # noqa: F403
    from openwork.public import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        """A public name. It is imported when it is first used, as `openwork --help` needs no torch."""
        public = import_module("openwork.public")
        if name != "__all__" and name not in public.__all__:
            raise AttributeError(f"module 'openwork' has no attribute {name!r}")
        return globals().setdefault(name, getattr(public, name))

    def __dir__() -> list[str]:
        return [*__getattr__("__all__"), "__version__"]
