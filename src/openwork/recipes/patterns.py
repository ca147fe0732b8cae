"""mask_type and mask_structure of recipes as patterns of openwork."""

import re
from typing import Any

_NAMED = {"filter": "ow.Rows()", "channel": "ow.Columns()"}


def pattern_of(mask: Any, sparsity: float) -> tuple[str | None, float, list[str]]:
    """The pattern as Python, None for single weights; the sparsity that it allows; and what changes.

    N:M there says that N of M weights are removed; `NM` here how many stay.

    Args:
        mask: The recipe's value, such as "2:4", "block4", [1, 4] or "filter".
        sparsity: The recipe's final sparsity.

    Raises:
        ValueError: If there is no such pattern.
    """
    if mask in (None, "unstructured", "0:0"):
        return None, sparsity, []
    if isinstance(mask, str) and mask in _NAMED:
        return _NAMED[mask], sparsity, []
    if mask in ("block", "block4"):
        mask = [1, 4]
    if isinstance(mask, list) and len(mask) == 2 and all(isinstance(side, int) for side in mask):
        notes = ["in a convolution a block lies along the kernel's positions; there along the input channels"]
        return f"ow.Block({mask[0]}, {mask[1]})", sparsity, notes
    found = re.fullmatch(r"(\d+):(\d+)", str(mask))
    if not found or not 0 < int(found[1]) < int(found[2]):
        raise ValueError(f"the mask {str(mask)[:60]!r} has no pattern here; write unstructured, n:m, block4 or filter")
    removed, group = int(found[1]), int(found[2])
    final = removed / group
    notes = [f"{mask} has the sparsity {final:g}, whatever the recipe says"] if abs(final - sparsity) > 1e-9 else []
    return f"ow.NM({group - removed}, {group})", final, notes
