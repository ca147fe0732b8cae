"""Binary dropout whose noise costs little where it is compiled, and is a run's own where noise comes from a key."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.noise import chosen, draws_for, is_keyed, keyed


class Dropout(nn.Dropout):
    """As nn.Dropout, with the noise of `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """The input with units zeroed at random, each with probability ``p``, and the others divided by 1 - p.

        In evaluation, the input itself.
        """
        return dropout(input, self.p, self.training)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """As torch's; by a key, and wherever it is compiled, a hash decides the fate of each unit.

    A compiled dropout of torch's draws a number of Philox for every unit, some ninety integer operations, and keeps the
    mask for the backward pass. A fifth of these operations make a hash that is as good for this purpose, and cheap
    enough to be computed again.

    Args:
        x: The units.
        p: The probability that a unit becomes zero; the others are divided by 1 - p.
        training: Whether anything happens.
    """
    if not (training and 0 < p < 1):
        return F.dropout(x, p, training)
    if is_keyed():
        draws_for("dropout")  # the n-th dropout of a forward is its n-th draw
        return torch.where(chosen(p, x), 0.0, x / (1 - p))
    if not torch.compiler.is_compiling():
        return F.dropout(x, p, training)
    with keyed(torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device=x.device)):
        return torch.where(chosen(p, x), 0.0, x / (1 - p))
