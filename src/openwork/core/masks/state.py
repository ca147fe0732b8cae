"""A sparsifier's masks, hidden values and evidence as a state dict, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from openwork.core.masks.weight import MaskedWeight
from openwork.core.sharded import rows_like, shard_like

Named = dict[str, Tensor]


def collect(weights: Sequence[MaskedWeight], *, hidden: bool) -> dict[str, Any]:
    """Masks, hidden values, where weights may be kept, and evidence, by name; sharded like the weights.

    All is there from the start: torch.distributed.checkpoint reads only what a fresh sparsifier's state has too.
    """

    def whole(weight: MaskedWeight, part: Tensor | None, start: Tensor) -> Tensor:
        return shard_like(start if part is None else part, weight.parameter)

    return {
        "masks": {w.name: shard_like(w.mask.bool(), w.parameter) for w in weights},
        "hidden": {w.name: whole(w, w.hidden, w.local.detach().clone()) for w in weights} if hidden else {},
        "allowed": {w.name: whole(w, w.allowed, torch.ones_like(w.mask, dtype=torch.bool)) for w in weights},
        "evidence": {w.name: {key: w.evidence[key] for key in sorted(w.lasting)} for w in weights if w.lasting},
    }


def check(state: Mapping[str, Any], weights: Sequence[MaskedWeight]) -> None:
    """Raises ValueError, naming the first weight that does not fit, for another model's state or a damaged one."""
    if not {"seed", "steps", "masks", "hidden", "allowed", "evidence"} <= state.keys():
        raise ValueError("the state holds no masks; pass what Sparsifier.state_dict() returned")
    expected = {w.name: tuple(w.parameter.shape) for w in weights}
    for kind in ("masks", "hidden", "allowed"):
        shapes = {name: tuple(tensor.shape) for name, tensor in state[kind].items()}
        if shapes != expected and (shapes or kind != "hidden"):
            _refuse(kind, shapes, expected)
    for weight in weights:
        shapes = {f"{weight.name} {k}": tuple(v.shape) for k, v in state["evidence"].get(weight.name, {}).items()}
        needed = {f"{weight.name} {key}": tuple(weight.evidence[key].shape) for key in weight.lasting}
        if shapes != needed:
            _refuse("evidence", shapes, needed)


def restore(state: Mapping[str, Any], weights: Sequence[MaskedWeight]) -> None:
    """Takes over a state that `check` has accepted."""
    for weight in weights:

        def part(values: Tensor, weight: MaskedWeight = weight) -> Tensor:
            parameter = weight.parameter
            return rows_like(values.detach(), parameter).to(weight.local, copy=True)

        name = weight.name
        hidden = part(state["hidden"][name]) if state["hidden"] else None
        allowed = part(state["allowed"][name]).bool()
        evidence = {
            key: value.detach().to(weight.evidence[key], copy=True)
            for key, value in state["evidence"].get(name, {}).items()
        }
        weight.replace(part(state["masks"][name]), hidden, None if bool(allowed.all()) else allowed, evidence)


def _refuse(kind: str, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    name = next(n for n in {**shapes, **expected} if shapes.get(n) != expected.get(n))
    raise ValueError(
        f"the state's {kind} do not fit the model: {name} is {shapes.get(name, 'absent')} in the state and "
        f"{expected.get(name, 'not selected')} here; build the sparsifier with the same model and selection"
    )
