"""What a training step's forward pass would cost if zero weights cost nothing: Gale et al. 2019, figure 7.

Gale, Elsen & Hooker 2019, arXiv 1902.09574, appendix C. Simulated: the zeros are multiplied like any other number.
"""

from openwork.inspect.flops import Flops
from openwork.study.runs.density import Density


def expected_flops(dense: Flops, density: Density) -> float:
    """The expected FLOPs of one training example's forward pass, as a fraction of the dense model's, 0-1.

    The FLOPs of a selected weight shrink with its expected fraction of non-zeros in training; all others are dense.

    Args:
        dense: The FLOPs of the same model when dense, as `openwork.inspect.flops.count_flops` counts them.
        density: The counts of its selected weights.
    """
    nonzero, sizes = density.expected_nonzero, density.weights
    saved = sum(dense.weights.get(name, (0, 0))[0] * (1 - nonzero[name] / size) for name, size in sizes.items())
    return float(1 - saved / dense.dense)
