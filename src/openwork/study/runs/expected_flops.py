"""What a training step's forward pass would cost if zero weights cost nothing: Gale et al. 2019, figure 7.

Gale, Elsen & Hooker 2019, arXiv 1902.09574, appendix C. Simulated: the zeros are multiplied like any other number.
"""

from openwork.core.sparsifier import Sparsifier
from openwork.inspect.flops import Flops


def expected_flops(dense: Flops, sparsifier: Sparsifier) -> float:
    """The expected FLOPs of one training example's forward pass, as a fraction of the dense model's, 0-1.

    The FLOPs of a selected weight shrink with its expected fraction of non-zeros in training; all others are dense.

    Args:
        dense: The FLOPs of the same model when dense, as `openwork.inspect.flops.count_flops` counts them.
        sparsifier: What makes the model sparse.
    """
    nonzero = sparsifier.expected_nonzero()
    sizes = {weight.name: weight.parameter.numel() for weight in sparsifier.weights}
    saved = sum(dense.weights.get(name, (0, 0))[0] * (1 - nonzero[name] / size) for name, size in sizes.items())
    return float(1 - saved / dense.dense)
