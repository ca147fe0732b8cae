"""Models that are not ready to be shrunk or permuted."""

from torch import nn
from torch.nn.parameter import is_lazy

from openwork.core.ownership import RANDOM, holder
from openwork.core.sharded import is_sharded


def check_finalized(model: nn.Module, verb: str = "shrink") -> None:
    """Looks at every parameter.

    Args:
        model: The model.
        verb: What is to be done with it.

    Raises:
        ValueError: If one is still being sparsified, is spread over processes, has no values or is not finite.
    """
    for path, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is None:
                continue
            name = f"{path}.{leaf}" if path else leaf
            if holder(module, leaf) or leaf in module.__dict__.get(RANDOM, {}):
                raise ValueError(
                    f"{name} is still being sparsified; call finalize() on its sparsifier first, or {verb} its "
                    "finalized_copy()"
                )
            plain = leaf.removesuffix("_orig")
            if plain != leaf and f"{plain}_mask" in module._buffers:
                raise ValueError(
                    f"{name} is still masked by torch.nn.utils.prune; call prune.remove(module, {plain!r}) first"
                )
            if is_lazy(parameter):
                raise ValueError(f"{name} is not initialised yet; call the model once")
            if is_sharded(parameter):
                raise ValueError(f"{name} is spread over processes; {verb} the whole model in one process")
            if parameter.is_meta:
                raise ValueError(f"{name} is on the meta device and has no values; load the weights first")
            if parameter.is_floating_point() and not parameter.detach().isfinite().all():
                raise ValueError(
                    f"{name} holds NaN or infinity, and 0 times these is not 0; {verb} a model whose weights are finite"
                )
