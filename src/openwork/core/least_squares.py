"""Least squares under a mask that is fixed: the weights with which a sparse layer comes nearest to the dense one.

For each output, with S the weights that its mask keeps, G = X Xᵀ of the layer's inputs and λ = ridge * mean(diag G):

    minimise |w X - w₀ X|² + λ |w - w₀|²  over w that is 0 outside S,   that is   (G + λI)_SS w_S = ((G + λI) w₀)_S

Conjugate gradients solve all outputs at once: a step is one product of the weights with G, and no output needs a matrix
of its own. They are preconditioned by the diagonal.
"""

import torch
from torch import Tensor


@torch.no_grad()
def refit(
    weight: Tensor,
    mask: Tensor,
    products: Tensor,
    *,
    dense: Tensor | None = None,
    targets: Tensor | None = None,
    ridge: float = 0.01,
    steps: int = 100,
    tolerance: float = 1e-4,
) -> Tensor:
    """The least-squares weights under ``mask``, of the shape of ``weight``; float32 at least, 0 where nothing is kept.

    Args:
        weight: (out, in) or (matrices, out, in): where to begin, such as the pruned weights. A convolution's matrix is
            (out, in * kernel).
        mask: Bool of the same shape, True = keep.
        products: X Xᵀ, (in, in) or (matrices, in, in), as `InputProducts` sums it.
        dense: The weights whose outputs are to be met, w₀; by default ``weight``.
        targets: W₀ X₀ Xᵀ, of the shape of ``weight``, where the outputs to be met are those for other inputs X₀, such
            as the dense model's own; by default W₀ X Xᵀ.
        ridge: λ over the mean of the diagonal, >= 0. It keeps directions that the data does not show at ``dense``.
        steps: Steps of conjugate gradients at most.
        tolerance: The norm of the residual, over that of the right side, at which an output is done.

    Raises:
        ValueError: If the shapes do not fit, or ``products`` or ``weight`` hold NaN or infinities.
    """
    _check(weight, mask, products, targets)
    dtype = torch.promote_types(torch.promote_types(weight.dtype, products.dtype), torch.float32)
    products, goal = products.to(dtype), (weight if dense is None else dense).to(dtype)
    diagonal = products.diagonal(dim1=-2, dim2=-1)
    damping = ridge * diagonal.mean(-1)[..., None, None]
    right = (goal @ products if targets is None else targets.to(dtype)) + damping * goal
    right = torch.where(mask, right, 0)
    scale = diagonal[..., None, :] + damping
    scale = torch.where(scale > 0, scale, 1)  # an input that is always 0, without a ridge: its weight may be anything

    found = torch.where(mask, weight.to(dtype), 0)
    residual = right - torch.where(mask, found @ products + damping * found, 0)
    enough = tolerance * right.norm(dim=-1, keepdim=True)
    step = residual / scale
    size = (residual * step).sum(-1, keepdim=True)
    for number in range(steps):
        if number % 10 == 0 and bool((residual.norm(dim=-1, keepdim=True) <= enough).all()):
            break  # looked at now and then only, since a GPU waits for it
        moved = torch.where(mask, step @ products + damping * step, 0)
        curvature = (step * moved).sum(-1, keepdim=True)
        length = torch.where(curvature > 0, size / curvature, 0)  # 0 where an output is solved exactly
        found, residual = found + length * step, residual - length * moved
        scaled = residual / scale
        before, size = size, (residual * scaled).sum(-1, keepdim=True)
        step = scaled + torch.where(before > 0, size / before, 0) * step
    return found


def _check(weight: Tensor, mask: Tensor, products: Tensor, targets: Tensor | None) -> None:
    inputs = weight.shape[-1]
    if mask.shape != weight.shape or (targets is not None and targets.shape != weight.shape):
        other = mask if mask.shape != weight.shape else targets
        raise ValueError(
            f"weight, mask and targets must have one shape, got {tuple(weight.shape)} and "
            f"{tuple(other.shape) if other is not None else ()}; pass all as (out, in) or (matrices, out, in)"
        )
    if products.shape not in ((inputs, inputs), (*weight.shape[:-2], inputs, inputs)):
        raise ValueError(
            f"products of shape {tuple(products.shape)} do not fit a weight of shape {tuple(weight.shape)}; pass X Xᵀ "
            "of its inputs, (in, in) or (matrices, in, in)"
        )
    if not bool(products.isfinite().all() & weight.isfinite().all()):
        raise ValueError("weights or products hold NaN or infinities; check the calibration batches and the model")
