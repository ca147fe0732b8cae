"""The rows of the matrix that two processes run together, with gloo on the CPU."""

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from .cases import NET, Case
from .libraries import Library, OpenworkMasks
from .training import BEGIN, ClaimError, Row, Training, check_count


class Deep(nn.Module):
    """(N, 16) -> (N, 16): five Linear layers of one size, so that confusing two of them shows in the result only."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 16) -> (N, 16)."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


DEEP = Case(Deep, NET.inputs, tuple(f"layers.{index}.weight" for index in range(5)))


def _begin(library: type[Library]) -> int:
    """Libraries that change the model's structure when they prune do so before it is wrapped."""
    return BEGIN if issubclass(library, OpenworkMasks) else 0


def ddp(library: type[Library]) -> None:
    """Raises what is wrong with data-parallel training."""
    training = Training(library, DEEP, begin=_begin(library), wrap=DistributedDataParallel, seed=dist.get_rank())
    training.salt = dist.get_rank()  # other data on each rank
    training.run()
    plain = training.finish()
    weights = torch.cat([plain.get_parameter(name).detach().flatten() for name in training.case.weights])
    both = [torch.empty_like(weights) for _ in range(2)]
    dist.all_gather(both, weights)
    if not torch.equal(both[0] == 0, both[1] == 0):
        raise ClaimError(f"{int(((both[0] == 0) != (both[1] == 0)).sum())} zeros differ between the two processes")
    if not torch.equal(both[0], both[1]):
        raise ClaimError("the weights differ between the two processes")


def fsdp2(library: type[Library]) -> None:
    """Raises what is wrong with sharded training."""
    training = Training(library, begin=_begin(library), wrap=_shard)
    training.salt = dist.get_rank()
    for _ in range(8):
        training.step()
    state = get_model_state_dict(training.model, options=StateDictOptions(full_state_dict=True))
    torch.manual_seed(99)
    inputs = training.case.inputs()
    output = training.output(training.model, inputs)
    if dist.get_rank() == 0:
        # The whole state in a twin that was never sharded says which weights are zero, whatever the library's format.
        twin = Training(library, begin=_begin(library))
        twin.library.model.load_state_dict(state)
        twin.steps = training.steps
        if not torch.allclose(twin.output(twin.model, inputs), output, atol=1e-5):
            raise ClaimError("the sharded model computes something else than its whole state_dict")
        target = None if library.learned else twin.library.sparsity
        for name, weight in twin.library.weights(twin.model).items():
            check_count(name, weight, target, training.steps)
    dist.barrier()


def _shard(model: nn.Module) -> nn.Module:
    for child in list(model.children()):
        if any(True for _ in child.parameters(recurse=False)):
            fully_shard(child)
    fully_shard(model)
    return model


ROWS = [
    Row(
        "DistributedDataParallel",
        "habit",
        "two processes that start from other weights and see other data end with the same zeros and weights",
        ddp,
        processes=2,
    ),
    Row(
        "FSDP2",
        "habit",
        "`fully_shard` on two processes: the zeros are in the whole state_dict, which computes what the shards compute",
        fsdp2,
        processes=2,
    ),
]
