"""Weights that FSDP2 spreads over processes by rows: which part is here, and sums and ranks over all processes.

A weight that is not sharded is the case of one process, `ALONE`, in which nothing is communicated.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Shards:
    """The processes that hold the rows of one tensor, in the order of the rows.

    Args:
        index: This process's place among them.
        size: How many they are.
        device: The type of device on which they communicate.
        group: Their process group; None for one process alone.
    """

    index: int = 0
    size: int = 1
    device: str = "cpu"
    group: "ProcessGroup | None" = None

    def sum(self, counts: list[Number]) -> list[Number]:
        """The elementwise sum over the processes; they must all call it."""
        if self.group is None:
            return counts
        kind = torch.float64 if any(isinstance(count, float) for count in counts) else torch.int64
        total = torch.tensor(counts, dtype=kind, device=self.device)
        torch.distributed.all_reduce(total, group=self.group)
        found: list[Number] = total.tolist()
        return found

    def add(self, counts: Tensor) -> None:
        """Adds the numbers of the other processes, in place and without a wait; they must all call it."""
        if self.group is not None:
            total = counts.to(self.device)
            torch.distributed.all_reduce(total, group=self.group)
            counts.copy_(total)

    def gather(self, table: list[list[int]]) -> list[list[list[int]]]:
        """The tables of all processes, in row order; they must all call it with as many rows and columns."""
        if self.group is None:
            return [table]
        all_tables = torch.zeros(self.size, len(table), len(table[0]), dtype=torch.int64, device="cpu")
        all_tables[self.index] = torch.tensor(table, device="cpu")
        self.add(all_tables)
        return all_tables.tolist()

    def own_rows(self, rows: int) -> slice:
        """Which of ``rows`` rows are here: chunks of ceil(rows / size), the last of which may be short or empty."""
        chunk = -(-rows // self.size)
        return slice(min(self.index * chunk, rows), min((self.index + 1) * chunk, rows))


ALONE = Shards()
_PLAIN = (nn.Parameter, Tensor)


def is_sharded(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Whether the tensor is a DTensor."""
    if type(tensor) in _PLAIN:  # asked several times for each weight and step
        return False
    # Importing DTensor takes half a second; where no module has imported it, there is none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_fsdp(module: nn.Module) -> "TypeGuard[FSDPModule]":
    """Whether ``fully_shard`` was called on the module."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def reshard(model: nn.Module) -> None:
    """Puts the shards back into modules in which an FSDP2 forward without a backward has left whole weights."""
    for part in model.modules():
        if is_fsdp(part):
            part.reshard()


def is_offloaded(tensor: Tensor) -> bool:
    """Whether FSDP2 keeps the tensor's part on the CPU and computes elsewhere.

    Its gradient may still be on its way when a hook on the parameter runs.
    """
    return is_sharded(tensor) and tensor.device.type != tensor.device_mesh.device_type


def shards_of(*tensors: Tensor) -> Shards:
    """The processes that hold the rows of these tensors.

    Raises:
        ValueError: If the tensors are not all sharded over the same processes, or one is not sharded by whole rows.
    """
    return _shards(tensors[0]) if len(tensors) == 1 else one_order(_shards(tensor) for tensor in tensors)


def one_order(shards: Iterable[Shards]) -> Shards:
    """Those of all tensors that have these. Raises ValueError where they differ."""
    found = set(shards)
    if len(found) != 1:
        raise ValueError(
            "the weights are not all sharded over the same processes, so they have no common order; apply fully_shard "
            "to all of them, or use an allocation that ranks each tensor by itself, such as Uniform()"
        )
    return found.pop()


def local(tensor: Tensor) -> Tensor:
    """The part that is here, which shares the tensor's memory; the tensor itself where it is not sharded."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def version(tensor: Tensor) -> int:
    """A number that grows with every write to the tensor, through a DTensor or through its local part."""
    return tensor._version + local(tensor)._version if is_sharded(tensor) else tensor._version


def rows_like(values: Tensor, like: Tensor) -> Tensor:
    """The part of ``values`` that is here, on the device of ``values``.

    Args:
        values: A whole tensor, or one sharded as ``like``.
        like: A tensor that is sharded over the same processes; where it is not sharded, all rows are here.
    """
    if is_sharded(values) or not is_sharded(like):
        return local(values)
    return values[shards_of(like).own_rows(len(values))].clone()  # a view would keep the whole tensor in memory


def shard_like(part: Tensor, like: Tensor, whole: Tensor | None = None) -> Tensor:
    """The tensor whose parts the processes give, sharded as ``like``; ``part`` itself where ``like`` is not sharded.

    Args:
        part: What is here.
        like: A tensor that is sharded by rows, or not at all.
        whole: Any tensor of the whole shape; by default ``like``.
    """
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    whole = like if whole is None else whole
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def gathered(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, without a gradient, where its part is; the processes must all call this."""
    if not is_sharded(tensor):
        return tensor.detach()
    with torch.no_grad():
        return tensor.full_tensor()


def beside(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that all processes have, as one that can be computed with ``like``, which may be sharded."""
    tensor = tensor.to(like.device)
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(tensor, like.device_mesh, [Replicate()] * like.device_mesh.ndim, run_check=False)


def sum_each(counts: Sequence[Number], shards: Sequence[Shards]) -> list[Number]:
    """Each number, summed over the processes that hold the shards of its tensor.

    Args:
        counts: The numbers of this process.
        shards: Those of each number; numbers with the same processes share one communication.
    """
    found = list(counts)
    places: dict[Shards, list[int]] = {}
    for place, group in enumerate(shards):
        places.setdefault(group, []).append(place)
    for group, chosen in places.items():
        for place, total in zip(chosen, group.sum([counts[place] for place in chosen]), strict=True):
            found[place] = total
    return found


def _shards(tensor: Tensor) -> Shards:
    if not is_sharded(tensor):
        return ALONE
    from torch.distributed.tensor import Shard

    mesh = tensor.device_mesh
    split = [axis for axis, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    # By exact type: the strided shards of FSDP over tensor parallelism are a subclass in some versions of torch.
    if len(split) != 1 or type(tensor.placements[split[0]]) is not Shard or not tensor.placements[split[0]].is_shard(0):
        raise ValueError(
            f"a weight of shape {tuple(tensor.shape)} has the placements {tensor.placements}, and openwork needs "
            "whole rows over one mesh dimension; use fully_shard without tensor parallelism or shard_placement_fn"
        )
    place = mesh.get_coordinate()
    assert place is not None  # the process holds a part of the tensor, so it is in the mesh
    return Shards(place[split[0]], mesh.size(split[0]), mesh.device_type, mesh.get_group(split[0]))
