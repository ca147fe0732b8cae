"""Sparse layers by the kernels that compute them fastest on this machine, and dense ones where none is faster."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from openwork.core.chosen import check_model, choose_weights
from openwork.core.ownership import refuse_held
from openwork.core.selection import weight_matrices
from openwork.core.sharded import is_sharded
from openwork.inference.accelerated import Accelerated
from openwork.inference.alternative import Alternative


def accelerate(
    model: nn.Module,
    sample: Any,
    *,
    alternatives: Sequence[Alternative] | None = None,
    rounds: int = 20,
    graph: bool = False,
) -> Accelerated:
    """A copy of a sparse model for inference, each layer of which is computed in the way that is fastest here.

    It measures every layer that has zeros, with the inputs that ``sample`` brings it, and converts those that a sparse
    kernel computes faster than the dense one beyond noise. If the whole model is then no faster, all layers stay dense.
    The model that is given stays as it is; tensors of layers that are not converted are shared with it.

    The copy is in evaluation mode, computes no gradients of converted layers, takes other batch sizes than the
    sample's, and can be compiled. Time it with the batch size and the number of threads that it will run with.

    Args:
        model: A finalized model, on the device where it is to run.
        sample: Its input: a tuple holds several arguments, a mapping keyword arguments.
        alternatives: What to try beside dense layers; by default all kernels for the device.
        rounds: How often to measure each layer and the model, at least 4.
        graph: On a GPU, measure replays of CUDA graphs, for a model that will run so (as with
            ``torch.compile(mode="reduce-overhead")``); otherwise calls from Python, whose time small layers hide in.

    Returns:
        The copy as ``model``, and what was measured; prints as a table.

    Raises:
        TypeError: If ``model`` is no module, or wraps one, or ``alternatives`` are none.
        ValueError: If the sample does not fit, the model is still being sparsified, is sharded, is accelerated
            already or has no weights, or ``rounds`` is below 4.
    """
    check_model(model)
    if not (alternatives is None or (isinstance(alternatives, Sequence) and all(map(_is_kernel, alternatives)))):
        raise TypeError(
            f"alternatives are kernels with misfit() and convert(), got {alternatives!r}; pass a list of them"
        )
    if rounds < 4:
        raise ValueError(f"rounds must be at least 4 to tell a gain from noise, got {rounds}")
    weights, _ = choose_weights(model, weight_matrices, changes=False)
    refuse_held(weights)
    for weight in weights:
        if is_sharded(weight.parameter):
            raise ValueError(f"{weight.name} is sharded over processes; gather the model's weights and accelerate that")
    device = weights[0].parameter.device
    if graph and device.type != "cuda":
        raise ValueError(f"graph=True measures CUDA graphs, but the model is on {device}; move it or leave graph out")
    from openwork.inference.accelerating import accelerating  # not before it is called

    return accelerating(model, sample, device, alternatives, rounds, graph)


def _is_kernel(one: object) -> bool:
    return hasattr(one, "misfit") and hasattr(one, "convert")
