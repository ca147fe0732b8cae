"""Cholesky factors of X Xᵀ, which may be singular: few rows, equal inputs, inputs that are always 0."""

import torch
from torch import Tensor

from openwork.core.precision import where_float64_is

_SMALL = 96
"""Rows of a triangle that is inverted in one piece."""


def damped(products: Tensor, damping: float) -> Tensor:
    """``products`` (..., n, n), to whose diagonal ``damping`` times its mean is added; 1 where all is 0."""
    # In float64, as a sum of numbers that float32 holds need not fit it.
    diagonal = where_float64_is(products.diagonal(dim1=-2, dim2=-1))
    mean = diagonal.mean(-1, dtype=torch.float64)[..., None].to(products)
    found = products.clone()
    found.diagonal(dim1=-2, dim2=-1).add_(torch.where(mean > 0, damping * mean, 1))
    return found


def cholesky(matrix: Tensor, name: str) -> Tensor:
    """The lower factor L of ``matrix`` = L Lᵀ, symmetric; tried again in float64, and then with more on the diagonal.

    Args:
        matrix: (..., n, n).
        name: The weight's, for the error.

    Raises:
        ValueError: If there is none.
    """
    for dtype, more in ((matrix.dtype, 0.0), *((torch.float64, more) for more in (0.0, 1e-8, 1e-4, 1e-2))):
        tried = matrix if dtype == matrix.dtype else where_float64_is(matrix).to(dtype)
        factor, failed = torch.linalg.cholesky_ex(damped(tried, more) if more else tried)
        if not bool(failed.any()):
            found: Tensor = factor.to(matrix)
            return found
    raise ValueError(
        f"X Xᵀ of the inputs of {name} has no Cholesky factor even with 1 % on its diagonal; check the calibration "
        "batches for huge numbers, or give the technique more damping"
    )


def backward_root(matrix: Tensor, name: str) -> Tensor:
    """The upper triangle R with R Rᵀ = ``matrix``, symmetric (..., n, n): its inverse U has UᵀU = ``matrix``⁻¹.

    It is the lower factor of the matrix with its rows and columns in the opposite order, in that order.
    """
    return cholesky(matrix.flip(-1, -2), name).flip(-1, -2)


def invert_upper(upper: Tensor) -> Tensor:
    """The inverse of an upper triangle (..., n, n), mostly by products, which are faster than solving column by column.

    The inverse of (A B; 0 C) is (A⁻¹ -A⁻¹ B C⁻¹; 0 C⁻¹).
    """
    found = torch.zeros_like(upper)

    def fill(begin: int, end: int) -> None:
        if end - begin <= _SMALL:
            unit = torch.eye(end - begin, dtype=upper.dtype, device=upper.device)
            part = upper[..., begin:end, begin:end]
            found[..., begin:end, begin:end] = torch.linalg.solve_triangular(part, unit.expand_as(part), upper=True)
            return
        middle = (begin + end) // 2
        fill(begin, middle)
        fill(middle, end)
        first, last = found[..., begin:middle, begin:middle], found[..., middle:end, middle:end]
        found[..., begin:middle, middle:end] = -(first @ upper[..., begin:middle, middle:end]) @ last

    fill(0, upper.shape[-1])
    return found
