"""Binary dropout whose noise costs little where it is compiled."""

import torch
from torch import Tensor, nn

_BITS = 24  # of a hash; the probability is exact to 2**-25


class Dropout(nn.Dropout):
    """As nn.Dropout; compiled, a hash of a unit's index and of two numbers from torch's generator decides its fate.

    A compiled nn.Dropout draws a number of Philox for every unit, some ninety integer operations, and keeps the mask
    for the backward pass. A fifth of these operations make a hash that is as good for this purpose, and cheap enough to
    be computed again.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The input with units zeroed at random, each with probability ``p``, and the others divided by 1 - p.

        In evaluation, the input itself.
        """
        if not (self.training and 0 < self.p < 1 and torch.compiler.is_compiling()):
            return super().forward(input)
        seeds = torch.randint(-(2**31), 2**31 - 1, (2,), dtype=torch.int32, device=input.device)
        units = torch.arange(input.numel(), dtype=torch.int32, device=input.device).view(input.shape)
        # An odd factor as well as an offset: with the offset alone, two masks would often be shifts of each other.
        hashed = mixed(units * (seeds[0] | 1) + seeds[1])
        keep = _shifted(hashed, 32 - _BITS) >= round(self.p * 2**_BITS)
        return torch.where(keep, input / (1 - self.p), 0.0)


def mixed(x: Tensor) -> Tensor:
    """A bijection of int32 in which each bit of the result depends on all bits of ``x``.

    Two rounds of multiplication and shifts: lowbias32 of C. Wellons' hash prospector, 2018.
    """
    x = (x ^ _shifted(x, 16)) * 0x7FEB352D
    x = (x ^ _shifted(x, 15)) * (0x846CA68B - 2**32)
    return x ^ _shifted(x, 16)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return x.bitwise_right_shift(bits).bitwise_and(2 ** (32 - bits) - 1)
