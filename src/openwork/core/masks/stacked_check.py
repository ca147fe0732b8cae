"""Whether the masks of several models can be stacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from openwork.core.masks.mechanism import Masking
    from openwork.core.masks.weight import MaskedWeight


def check_stack(members: Sequence[Masking], parameters: Mapping[str, Tensor]) -> None:
    """Checks that the masks of these members can be stacked.

    Raises:
        ValueError: If techniques differ in their class or in what they do with hidden values, if weights differ in
            name, shape, dtype, device or evidence, if they are sharded, or if parameters are no rows of stacked ones.
    """
    first = members[0]
    wanted = [_kind(weight) for weight in first.weights]
    for index, member in enumerate(members):
        technique, then = member.technique, first.technique
        if type(technique) is not type(then) or technique.hidden != then.hidden:
            raise ValueError(
                f"{technique} (member {index}) cannot be stacked with {then}: class and hidden= must be equal; train "
                "these models in two groups"
            )
        if any(weight.sharded for weight in member.weights):
            raise ValueError(
                f"{technique} (member {index}) cannot be stacked: fully_shard spreads its weights over processes; "
                "train these models one by one"
            )
        for weight, like in zip(member.weights, wanted, strict=False):
            if (kind := _kind(weight)) != like:
                raise ValueError(
                    f"{weight.name} (member {index}) cannot be stacked: name, shape, dtype, device and evidence are "
                    f"{kind}, and {like} in the first model; train these models in two groups"
                )
        if len(member.weights) != len(first.weights):
            raise ValueError(
                f"member {index} cannot be stacked: it has {len(member.weights)} selected weights and the first model "
                f"{len(first.weights)}; train these models in two groups"
            )
    for place, name in enumerate(weight.name for weight in first.weights):
        for index, (member, row) in enumerate(zip(members, parameters[name], strict=True)):
            if row.data_ptr() != member.weights[place].local.data_ptr():
                raise ValueError(
                    f"{name} (member {index}) cannot be stacked: it is not row {index} of the stacked "
                    "parameter; pass what core.stacked.stacked() made of the models' own"
                )


def _kind(weight: MaskedWeight) -> tuple[object, ...]:
    """All that must be equal in all members."""
    values, kept = weight.local, weight.evidence
    evidence = {name: (tuple(kept[name].shape), kept[name].dtype) for name in sorted(weight.lasting)}
    return weight.name, tuple(values.shape), values.dtype, values.device, evidence
