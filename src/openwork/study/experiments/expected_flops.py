"""What a training step's forward pass would cost if zero weights cost nothing: Gale et al. 2019, figure 7.

Gale, Elsen & Hooker 2019, arXiv 1902.09574, appendix C. Simulated: the zeros are multiplied like any other number.
"""

from openwork.core.sparsifier import Sparsifier
from openwork.core.technique import ReparameterizedWeight
from openwork.inspect.flops import Flops
from openwork.techniques.l0 import HardConcreteWeight, open_probability


def expected_flops(dense: Flops, sparsifier: Sparsifier) -> float:
    """The expected FLOPs of one training example's forward pass, as a fraction of the dense model's, 0-1.

    dense: those of the same model, as `openwork.inspect.flops.count_flops` counts; what it attributes to a selected
    weight shrinks with the expected fraction of non-zeros of that weight in training, all else is dense.
    """
    nonzero = expected_nonzero(sparsifier)
    sizes = {weight.name: weight.parameter.numel() for weight in sparsifier.weights}
    saved = sum(dense.weights.get(name, (0, 0))[0] * (1 - nonzero[name] / size) for name, size in sizes.items())
    return float(1 - saved / dense.dense)


def expected_nonzero(sparsifier: Sparsifier) -> dict[str, float]:
    """The expected number of non-zeros of each selected weight in a training step, by name."""
    numbers = {}
    for weight in sparsifier.weights:
        site = weight.sites[0]
        random = site.module._modules.get("reparam")
        distribution = random._modules[site.leaf] if random else None
        if isinstance(distribution, HardConcreteWeight):
            numbers[weight.name] = float(open_probability(distribution.log_alpha.detach()).sum())
        elif isinstance(distribution, ReparameterizedWeight):
            numbers[weight.name] = float(weight.parameter.numel())
        else:
            numbers[weight.name] = float(weight.parameter.count_nonzero())
    return numbers
