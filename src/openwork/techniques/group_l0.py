"""Group L0: Louizos, Welling & Kingma 2018, arXiv 1712.01312, sections 2.2 and 4: gates that close whole units.

A Linear has one hard-concrete gate for each input unit, a convolution one for each output map, and each gate multiplies
all weights of its group. The penalty counts the weights whose gate is open; the constants are those of `l0.py`.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from openwork.core.parameters.technique import Reparameterization
from openwork.core.parameters.weight import ReparameterizedWeight
from openwork.core.selection import Weight
from openwork.kernels.gates import stretched
from openwork.techniques.l0 import check_gates, expected_l2, hard_concrete, initial_log_alpha, open_probability

LIMIT = math.log(100)  # of |log alpha|, as in the authors' code


@dataclass(frozen=True)
class GroupL0(Reparameterization):
    """Learns log alpha for each input unit of a Linear and each output map of a convolution.

    For matrices (out, in) and kernels (out, in, ...). Weights that are stored otherwise have their gates on the same
    axes: a transposed convolution (in, out, ...) one for each input map, the Conv1D of transformers (in, out) one for
    each output, and experts in one tensor (experts, ...) one for each expert. Embeddings have no input units to close,
    and are refused.

    With a dropout of 0.5 the gates begin at 0.5: each layer of a trained model gives half of what it did, before the
    first step, and the logger "openwork" says so as INFO. A dropout of 0.05 leaves gates of 1 in evaluation.

    Args:
        coefficient: The factor of the expected count of non-zero weights, of the order 1 / (number of training
            examples).
        dropout: The initial probability that a gate is closed, in (0, 1): log alpha ~ N(log((1 - p) / p), 0.01).
        weight_decay: Adds weight_decay * sum P(z != 0) theta^2 / 2 to the loss, as the authors' code does.

    Raises:
        ValueError: If ``dropout`` is outside (0, 1), or ``weight_decay`` is negative.
    """

    varying: ClassVar[tuple[str, ...]] = ("coefficient", "dropout")

    dropout: float = field(default=0.5, kw_only=True)
    weight_decay: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_gates(self.dropout, self.weight_decay)

    def fitting(self, weights: list[Weight]) -> tuple[list[Weight], dict[str, str]]:
        """All of the weights.

        Raises:
            ValueError: If some belong to embeddings, at any of their places.
        """
        sites = (site for weight in weights for site in weight.sites)
        names = [site.name for site in sites if isinstance(site.module, nn.Embedding | nn.EmbeddingBag)]
        if names:
            raise ValueError(
                "GroupL0 cannot close the units of an embedding, whose inputs are tokens; leave it out with "
                f"select=excluding({', '.join(map(repr, names))})"
            )
        return weights, {}

    def distribution(self, weight: Tensor, generator: torch.Generator) -> "GatedGroups":
        """Gates whose log alpha is drawn from ``generator``."""
        return GatedGroups(weight, self, generator)


class GatedGroups(ReparameterizedWeight):
    """theta * z; ``log_alpha`` has shape (1, in) for a matrix and (out, 1, ...) for a kernel."""

    by_rows = True

    def __init__(self, weight: Tensor, technique: GroupL0, generator: torch.Generator) -> None:
        super().__init__()
        if weight.dim() < 2:
            raise ValueError(f"GroupL0 needs matrices or kernels, got shape {tuple(weight.shape)}; select those alone")
        self.technique = technique
        shape = (1, weight.shape[1]) if weight.dim() == 2 else (weight.shape[0], *(1,) * (weight.dim() - 1))
        self.log_alpha = nn.Parameter(initial_log_alpha(shape, technique.dropout, generator).to(weight))

    def sample(self, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Theta * z with a z for each group: in a forward one draw for the whole batch."""
        return weight * hard_concrete(self.log_alpha, generator)

    def effective(self, weight: Tensor) -> Tensor:
        """Theta times the deterministic gates, which are 0 for whole groups."""
        return weight * stretched(torch.sigmoid(self.log_alpha))

    def penalty(self, weight: Tensor) -> Tensor:
        """The expected number of weights in open groups."""
        shared = [size for size, groups in zip(weight.shape, self.log_alpha.shape, strict=True) if groups == 1]
        return open_probability(self.log_alpha).sum() * math.prod(shared)  # the weights of each group that are here

    def cost(self, weight: Tensor, coefficient: Tensor) -> Tensor:
        """Coefficient * penalty, and the expected L2 norm where it has a factor."""
        cost = super().cost(weight, coefficient)
        factor = self.technique.weight_decay
        return cost + expected_l2(self.log_alpha, weight, factor) if factor else cost

    def expected_nonzero(self, weight: Tensor) -> Tensor:
        """The penalty."""
        return self.penalty(weight)

    def follow(self, weight: Tensor, step: int, coefficient: Tensor) -> None:
        """Keeps log alpha in [log 0.01, log 100]."""
        self.log_alpha.clamp_(-LIMIT, LIMIT)
