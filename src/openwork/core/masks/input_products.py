"""X X^T of a layer's inputs: all that a layer-wise least-squares problem needs to know of its data."""

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from openwork.core.masks.evidence import Evidence, Kept, View

_PANEL = 256
"""Columns of a panel. Of two panels' product only one half is computed, since it is symmetric."""

_LATEST: MutableMapping[Tensor, tuple[int | None, Tensor]] = WeakTensorKeyDictionary()
"""By rows, their version and their products."""


@dataclass(frozen=True)
class InputProducts(Evidence):
    """The sum over all rows x of the outer products x xᵀ, and how many rows there were.

    "products" is (in, in) or (in * kernel, in * kernel), in float32 at least; where a weight holds several matrices,
    such as those of experts, it is (matrices, in, in). "rows" is a whole number, or one for each matrix.
    """

    def input(self, kept: Kept, rows: Tensor) -> None:
        """Adds the products of these rows."""
        products = _products_of_rows(rows)
        kept["products"] = kept["products"].add_(products) if "products" in kept else products.clone()
        kept["rows"] = kept.get("rows", torch.zeros((), dtype=torch.int64)) + len(rows)


def products_of(view: View) -> Tensor:
    """What `InputProducts` kept, (matrices, in * kernel, in * kernel), also where there is one matrix."""
    products = view.evidence["products"]
    return products if products.dim() == 3 else products[None]


def wanda_scores(view: View) -> Tensor:
    """|W_ij| * ||X_j||_2, for the allocations of techniques that solve."""
    return view.weight.abs() * view.per_input(products_of(view).diagonal(dim1=1, dim2=2).sqrt())


def _products_of_rows(rows: Tensor) -> Tensor:
    """``rows.T @ rows``, computed once for layers that get the same rows, as query, key and value do, while these live.

    It takes little more than half the time of the whole product.
    """
    version = None if rows.is_inference() else rows._version  # which those of inference mode do not have
    known, products = _LATEST.get(rows, (None, None))
    if products is None or version is None or known != version:
        size = rows.shape[-1]
        products = rows.new_empty(size, size)
        for begin in range(0, size, _PANEL):
            end = min(begin + _PANEL, size)
            products[begin:end, begin:].addmm_(rows[:, begin:end].T, rows[:, begin:], beta=0)
            products[end:, begin:end] = products[begin:end, end:].T
        _LATEST[rows] = version, products
    return products
