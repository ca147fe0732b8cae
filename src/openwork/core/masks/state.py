"""A sparsifier's masks, hidden values and evidence as a state dict, and back."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from openwork.core.masks.weight import MaskedWeight
from openwork.core.sharded import is_sharded, local, rows_like, shard_like


def collect(weights: Sequence[MaskedWeight], *, hidden: bool) -> dict[str, Any]:
    """Masks, hidden values, where weights may be kept, and evidence, by name; sharded like the weights.

    Every entry is there from the start: torch.distributed.checkpoint reads only what a fresh sparsifier's state has.

    Args:
        weights: The weights.
        hidden: Whether the technique remembers hidden values.
    """

    def whole(weight: MaskedWeight, part: Tensor | None, start: Callable[[], Tensor]) -> Tensor:
        return shard_like(start() if part is None else part, weight.parameter)

    return {
        "masks": {w.name: shard_like(w.mask.clone(), w.parameter) for w in weights},
        "hidden": {w.name: whole(w, w.hidden, w.local.detach().clone) for w in weights} if hidden else {},
        "allowed": {w.name: whole(w, w.allowed, partial(torch.ones_like, w.mask)) for w in weights},
        "evidence": {w.name: {key: w.evidence[key] for key in sorted(w.lasting)} for w in weights if w.lasting},
    }


def check(state: Mapping[str, Any], weights: Sequence[MaskedWeight], *, hidden: bool) -> None:
    """Checks that a state fits the weights.

    Args:
        state: What `collect` returned, perhaps elsewhere.
        weights: The weights.
        hidden: Whether the technique remembers hidden values.

    Raises:
        ValueError: If the state is another model's or damaged; names the first weight that does not fit.
    """
    if not {"masks", "hidden", "allowed", "evidence"} <= state.keys():
        raise ValueError("the state holds no masks; pass what Sparsifier.state_dict() returned")
    expected = {w.name: tuple(w.parameter.shape) for w in weights}
    for kind in ("masks", "hidden", "allowed"):
        shapes = _shapes(kind, state[kind])
        if kind == "hidden" and bool(shapes) != hidden:
            raise ValueError(
                f"the state holds {'hidden' if shapes else 'no hidden'} values and this technique "
                f"{'remembers' if hidden else 'forgets'} them; sparsify with the hidden= that saved it"
            )
        if shapes != expected and (shapes or kind != "hidden"):
            _refuse(kind, shapes, expected)
    whole = [weight.name for weight in weights if not is_sharded(weight.parameter)]
    if name := next((name for name in whole if is_sharded(state["masks"][name])), None):
        raise ValueError(
            f"the state has shards of {name}, which is whole here; load it after fully_shard, or call full_tensor() on "
            "each of its tensors"
        )
    for kind in ("masks", "allowed"):
        for name, tensor in state[kind].items():
            if tensor.dtype != torch.bool:
                raise ValueError(
                    f"the state's {kind} must be bool, and that of {name} is {tensor.dtype}; is it damaged?"
                )
    found = state["evidence"] if isinstance(state["evidence"], Mapping) else {"": None}
    shapes = {f"{name} {key}": shape for name in found for key, shape in _shapes("evidence", found[name]).items()}
    needed = {f"{w.name} {key}": tuple(w.evidence[key].shape) for w in weights for key in w.lasting}
    if shapes != needed:
        _refuse("evidence", shapes, needed)


def _shapes(kind: str, tensors: object) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor. Raises ValueError where they are none."""
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError(f"the state's {kind} are no tensors by name; pass what Sparsifier.state_dict() returned")
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def restore(state: Mapping[str, Any], weights: Sequence[MaskedWeight]) -> None:
    """Takes over a state that `check` has accepted."""
    for weight in weights:

        def part(values: Tensor, dtype: torch.dtype = torch.bool, weight: MaskedWeight = weight) -> Tensor:
            parameter = weight.parameter
            return rows_like(values.detach(), parameter).to(parameter.device, dtype, copy=True)

        name = weight.name
        hidden = part(state["hidden"][name], weight.local.dtype) if state["hidden"] else None
        allowed = part(state["allowed"][name])
        evidence = {key: _like(weight.evidence[key], value) for key, value in state["evidence"].get(name, {}).items()}
        weight.replace(part(state["masks"][name]), hidden, None if bool(allowed.all()) else allowed, evidence)


def _like(own: Tensor, saved: Tensor) -> Tensor:
    """A copy of what was saved, sharded like the weight's own."""
    return shard_like(rows_like(saved.detach(), own).to(local(own), copy=True), own)


def _refuse(kind: str, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    name = next(n for n in {**shapes, **expected} if shapes.get(n) != expected.get(n))
    raise ValueError(
        f"the state's {kind} do not fit the model: {name} is {shapes.get(name, 'absent')} in the state and "
        f"{expected.get(name, 'not selected')} here; build the sparsifier with the same model and selection"
    )
