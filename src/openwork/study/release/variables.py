"""The variables of a checkpoint by name: which of them are a model's weights, and which are left."""

import re
from collections.abc import Iterable

from torch import Tensor

from openwork.formats.tensorflow.bundle import Bundle

WEIGHTS = ("weights", "kernel")
"""What the release calls a weight matrix: layers of model_pruning the one, those of variational dropout the other."""
BIASES = ("biases", "bias")
_INSIDE = r"(?:/[^/]+){0,2}"  # scopes that a layer may add of its own: fully_connected, or its name once more


class Variables:
    """The variables of a checkpoint, and which of them have been used.

    Args:
        bundle: The checkpoint.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.names = bundle.names
        self.used: set[str] = set()
        self._known = set(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def matching(self, pattern: str) -> list[str]:
        """The names that end in what a regular expression matches, from the beginning of a scope on."""
        whole = re.compile(rf"(?:.*/)?(?:{pattern})")
        return [name for name in self.names if whole.fullmatch(name)]

    def of(self, scope: str, leaves: Iterable[str]) -> str | None:
        """The variable of a layer; None if there is none.

        Args:
            scope: A regular expression of the layer's scope; what comes before it does not matter.
            leaves: What the variable may be called.

        Raises:
            ValueError: If there are several.
        """
        found = self.matching(f"(?:{scope}){_INSIDE}/(?:{'|'.join(leaves)})")
        if len(found) > 1:
            raise ValueError(
                f"{self.bundle.prefix} has both {found[0]!r} and {found[1]!r}, of which only one can be the model's; "
                "is it a checkpoint of the release?"
            )
        return found[0] if found else None

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a variable."""
        return self.bundle.shape(name)

    def tensor(self, name: str) -> Tensor:
        """The value of a variable, which then counts as used; raises ValueError as `Bundle.tensor` does."""
        self.used.add(name)
        return self.bundle.tensor(name)

    def unused(self) -> dict[str, list[str]]:
        """The other variables by the last part of their names: Adam, threshold, global_step."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            if name not in self.used:
                found.setdefault(name.rpartition("/")[2], []).append(name)
        return found
