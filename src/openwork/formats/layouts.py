"""The weights of any state: plain ones, those of other libraries' layouts, masked ones; and what is no weight."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from openwork.formats.computed import bitmask, four_bits, parametrized, pruned, symmetric, weight_norm, zero_point
from openwork.formats.held import ON_MODEL, Held, State, UnreadableLayoutError, masked

_LAYOUTS = (pruned, parametrized, weight_norm, bitmask, four_bits, symmetric, zero_point)
_NNCF_HOOK = re.compile(r"(.*?)__nncf_hooks\.(?:post|pre)_hooks\.(.+)__\d+\.\d+\.(?:binary_)?mask")
_NNCF_OPERATION = re.compile(r"(.*\.)?pre_ops\.\d+\.(?:op|operand)\.(?:(weight|bias)_ctx\.)?_?binary_mask")
_APEX = re.compile(r"(.*\.)?__(.+)_mma_(mask|pruned_p)")
_SCALE = re.compile(r"(.*_)?(scales?(_inv)?|zero_points?)|SCB|weight_format")
# The last part of a name -> whose codes these are. Which of their weights are zero depends on zero points that these
# formats pack in ways that the tensors do not tell.
_CODES = {
    "qweight": "GPTQ or AWQ codes",
    "weight_packed": "packed codes of compressed-tensors",
    "W_q": "HQQ codes",
    "Qidxs": "QuIP# codes",
    "codebooks": "AQLM codes",
    "B_24": "Marlin's packed 2:4 codes",
}


def held_weights(
    tensors: Mapping[str, Tensor], *layouts: Callable[[str, State], Held | None]
) -> tuple[list[Held], dict[str, str]]:
    """The weights among the tensors of a state, in their order, and why the other tensors are none, by name.

    Args:
        tensors: All tensors of a state; they are not read.
        layouts: More layouts than those of other libraries.

    Raises:
        UnreadableLayoutError: If it cannot be known from them which weights are zero.
    """
    state = State(tensors)
    _refuse_codes(state)
    held: dict[str, Held] = {}
    for name in state:
        found = next((one for one in (layout(name, state) for layout in (*layouts, *_LAYOUTS)) if one), None)
        if found:
            held[name] = found
    used = {part for one in held.values() for part in one.parts}
    plain = [name for name in state if name not in used]
    for name, tensor in state.items():
        if name not in used:
            held[name] = Held(name, (name,), lambda tensor=tensor: tensor)  # type: ignore[misc]  # binds it now
    no_weights = _apply_masks(state, held, plain)
    return [held[name] for name in state if name in held and name not in no_weights], no_weights


def _apply_masks(state: State, held: dict[str, Held], names: list[str]) -> dict[str, str]:
    """Multiplies weights by the masks that lie beside them; why masks and scales are no weights, by name."""
    by_weight = {one.name: first for first, one in held.items()}
    no_weights = {}
    for name in names:
        targets = [by_weight[weight] for weight in _masked(name) if weight in by_weight and weight != name]
        fitting = next((first for first in targets if state[first].shape == state[name].shape), None)
        if fitting:
            held[fitting] = _with_mask(held[fitting], name, state[name])
        reason = _no_weight(name, state) or ("mask" if fitting else "")
        if reason:
            no_weights[name] = reason
    return no_weights


def _with_mask(weight: Held, name: str, mask: Tensor) -> Held:
    learned = "__nncf_hooks" in name and name.endswith(".mask")  # NNCF keeps where sigmoid(mask) > 0.5

    def value() -> Tensor:
        if not learned and mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise UnreadableLayoutError(
                f"{name} is a mask with other numbers than 0 and 1, so that nobody can tell which weights of "
                f"{weight.name} are zero; {ON_MODEL}"
            )
        return masked(weight.value(), mask > 0 if learned else mask)

    return replace(weight, parts=(*weight.parts, name), value=value, layout=weight.layout or "a mask beside the weight")


def _masked(name: str) -> Iterator[str]:
    """The names of the weights that a tensor of this name may be the mask of, the likeliest first."""
    hook, operation, apex = _NNCF_HOOK.fullmatch(name), _NNCF_OPERATION.fullmatch(name), _APEX.fullmatch(name)
    if hook:
        yield hook[1] + hook[2].replace(":", ".")
    elif operation:
        yield (operation[1] or "") + (operation[2] or "weight")
    elif apex:
        yield from [(apex[1] or "") + apex[2]] if apex[3] == "mask" else []
    else:
        for ending in ("_binary_mask", "_mask", ".mask"):
            if name.endswith(ending):
                yield name.removesuffix(ending)
        prefix, _, leaf = name.rpartition(".")
        if leaf in ("mask", "binary_mask"):
            yield f"{prefix}.weight" if prefix else "weight"


def _no_weight(name: str, state: State) -> str:
    """Why a tensor is no weight, or ""."""
    module, _, leaf = name.rpartition(".")
    if leaf == "mask" or leaf.endswith("_mask") or _NNCF_OPERATION.fullmatch(name):
        return "mask"
    if _APEX.fullmatch(name):
        return "pruned values that are kept aside"
    if leaf == "masked_bias" or (leaf == "bias" and state[name].dim() == 4 and state[name].shape[:2] == (1, 1)):
        return "mask of an attention"
    beside = state.under(f"{module}." if module else "") if _SCALE.fullmatch(leaf) else ()
    for other in beside:
        if state[other].dtype.itemsize == 1 and (state[other].dim() > 1 or other.endswith(".qweight")):
            return "scale of quantized values"
    return ""


def _refuse_codes(state: State) -> None:
    """Raises UnreadableLayoutError for the first weight whose zeros are not those of its codes."""
    for name, tensor in state.items():
        leaf = name.rpartition(".")[2]
        what, cure = (
            "" if symmetric(name, state) else _CODES.get(leaf, ""),
            "give the checkpoint that they were made from",
        )
        if not what and leaf.endswith("_blocks") and name.removesuffix("_blocks") + "_scales" in state:
            what = "MXFP4 codes"
        elif leaf == "meta" and name.removesuffix("meta") + "packed" in state:
            what = "the positions of packed 2:4 values"
        elif leaf == "weight" and _is_integer(tensor) and not (four_bits(name, state) or zero_point(name, state)):
            what = f"codes of type {str(tensor.dtype).removeprefix('torch.')}"
        elif leaf == "mask_scores" or (leaf == "scores" and ".parametrizations." in f".{name}"):
            what, cure = "scores that a library makes masks from", ON_MODEL
        if what:
            raise UnreadableLayoutError(f"{name} holds {what}, which do not say which weights are zero; {cure}")


def _is_integer(tensor: Tensor) -> bool:
    """Whether it is a matrix of integers other than int8, whose zero is that of symmetric quantization."""
    numbers = tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized
    return tensor.dim() > 1 and not numbers and tensor.dtype not in (torch.int8, torch.bool)
