"""What a layer with a random weight computes with under FSDP2: whole tensors in float32 at least."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn

from openwork.core.parameters.weight import ReparameterizedWeight
from openwork.core.precision import LOW, exact
from openwork.core.sharded import is_sharded, rows_like, shard_like

_AS_IT_IS = nullcontext()


def ready(distribution: ReparameterizedWeight) -> AbstractContextManager[None]:
    """Within it, the distribution holds what a forward computes with: whole tensors in float32 at least.

    Otherwise that is so in all but two cases: FSDP2's ``MixedPrecisionPolicy`` makes the gathered tensors bfloat16, and
    what `sparsify` adds to a model after ``fully_shard`` has not been gathered.
    """
    tensors = distribution.parameters() if distribution._modules else distribution._parameters.values()  # every forward
    for tensor in tensors:
        if tensor is not None and (tensor.dtype in LOW or is_sharded(tensor)):
            return _ready(distribution)
    return _AS_IT_IS


@contextmanager
def _ready(distribution: ReparameterizedWeight) -> Iterator[None]:
    own = [(module._parameters, dict(module._parameters)) for module in distribution.modules()]
    try:
        for place, parameters in own:
            for name, parameter in parameters.items():
                if parameter is not None:
                    place[name] = _whole(exact(parameter))  # type: ignore[assignment]
        yield
    finally:
        for place, parameters in own:
            place.update(parameters)


def _whole(parameter: Tensor) -> Tensor:
    """All of a tensor; the gradient is averaged over the processes, as FSDP2 does."""
    if not is_sharded(parameter):
        return parameter
    from torch.distributed.tensor import Partial

    processes = parameter.device_mesh.size()
    whole: Tensor = parameter.full_tensor(grad_placements=[Partial()] * parameter.device_mesh.ndim)
    if whole.requires_grad:
        whole.register_hook(lambda gradient: gradient / processes)  # type: ignore[no-untyped-call]
    return whole


def shard(distribution: ReparameterizedWeight, weight: Tensor) -> None:
    """Shards what is learned with a weight as ``fully_shard`` would have done, where that has come before."""
    for module in distribution.modules() if is_sharded(weight) else ():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if not parameter.dim():
                kind = type(distribution).__name__
                raise ValueError(f"{name} of a {kind} has the shape (), which FSDP2 cannot shard; make it (1,)")
            part = shard_like(rows_like(parameter.detach(), weight), weight, parameter)
            module._parameters[name] = nn.Parameter(part, requires_grad=parameter.requires_grad)
