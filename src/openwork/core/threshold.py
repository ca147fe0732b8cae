"""Exact-count thresholds: which k scores are the largest, with ties broken by a seeded draw."""

import hashlib
import math

import torch
from torch import Tensor

_SMALL = 1 << 16  # under this many values a plain selection is as fast as sampling first
_SAMPLE = 1 << 14


def keep_count(n: int, sparsity: float) -> int:
    """How many of ``n`` weights stay at ``sparsity`` in [0, 1): floor(n * (1 - sparsity)), as the paper counts."""
    # 100 * (1 - 0.9) is 9.999999999999998 in binary; the user means 10.
    return math.floor(n * (1.0 - sparsity) + 1e-6)


def seeded_generator(seed: int, step: int, name: str) -> torch.Generator:
    """A CPU generator that depends on (seed, step, name) alone: the same on every rank, device and after a restart."""
    digest = hashlib.blake2b(f"{seed}/{step}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest of ``values`` (1-D, no NaN; 1 <= k <= n), shape ().

    On a CPU, large inputs are bracketed by a strided sample first (Floyd & Rivest 1975, "Expected time bounds for
    selection"), so that only about 3 % of the values are ever ordered. The result is exact whatever the sample.
    """
    n = values.numel()
    if values.device.type != "cpu" or n < _SMALL:
        return kth_largest_plain(values, k)
    sample = values[:: n // _SAMPLE].sort(descending=True).values
    m = sample.numel()
    margin = 4 * math.isqrt(m)  # 4 standard deviations or more of the sample rank of the k-th value
    rank = k * m // n
    high = sample[rank - margin] if rank >= margin else values.new_tensor(math.inf)
    low = sample[rank + margin] if rank + margin < m else values.new_tensor(-math.inf)
    above = values > high
    skipped = int(above.sum())
    window = values[(values >= low).logical_and_(above.logical_not_())]
    if not skipped < k <= skipped + window.numel():  # the sample missed: rare, and only costs time
        return kth_largest_plain(values, k)
    if high == low:  # one value fills the window, as the zeros of a sparse tensor do
        return high
    return kth_largest_plain(window, k - skipped)


def kth_largest_plain(values: Tensor, k: int) -> Tensor:
    """The k-th largest of ``values`` (1-D) by one library call; the twin of `kth_largest`."""
    if values.device.type == "cpu":
        # Quickselect; on a GPU kthvalue is 30 times slower than topk.
        return values.kthvalue(values.numel() - k + 1).values
    return values.topk(k, sorted=False).values.min()


def keep_largest(scores: Tensor, keep: int, generator: torch.Generator) -> Tensor:
    """A bool mask of ``scores``' shape that is True at the ``keep`` largest scores: exactly that many.

    Ties at the threshold are drawn by ``generator`` (CPU), so that equal scores do not empty the last rows. Scores of
    -inf and NaN are never kept, also where fewer than ``keep`` others exist. Raises ValueError unless 0 <= keep <= n.
    """
    if not 0 <= keep <= scores.numel():
        raise ValueError(f"cannot keep {keep} of {scores.numel()} scores")
    flat = scores.detach().flatten()
    usable = flat > -math.inf  # False for NaN too
    available = int(usable.sum())
    if keep >= available:
        return usable.view_as(scores)
    if keep == 0:
        return torch.zeros_like(usable).view_as(scores)
    if available < flat.numel():
        flat = torch.where(usable, flat, -math.inf)
    threshold = kth_largest(flat, keep)
    mask = flat >= threshold
    surplus = int(mask.sum()) - keep
    if surplus:
        ties = (flat == threshold).nonzero().flatten()
        chosen = torch.randperm(ties.numel(), generator=generator)[:surplus]
        mask[ties[chosen.to(ties.device)]] = False
    return mask.view_as(scores)
