"""Weights that other libraries compute from several tensors: one function for each layout.

Each takes a tensor's name and the state, and returns the weight whose numbers that tensor holds, or None.
"""

import re

import torch
from torch import Tensor

from openwork.formats.decode import around_zero_point, from_4_bits, from_bitmask
from openwork.formats.held import ON_MODEL, Held, State, UnreadableLayoutError

_PARAMETRIZED = re.compile(r"(.*\.)?parametrizations\.([^.]+)\.(original[01]?)")


def pruned(name: str, state: State) -> Held | None:
    """torch.nn.utils.prune: X_orig and X_mask; torch.nn.utils.spectral_norm: X_orig, X_u and X_v."""
    if not name.endswith("_orig"):
        return None
    base, tensor = name.removesuffix("_orig"), state[name]
    mask = state.get(f"{base}_mask")
    if mask is not None and mask.shape == tensor.shape:
        return Held(base, (name, f"{base}_mask"), lambda: tensor * mask, "torch.nn.utils.prune")
    if f"{base}_u" in state:  # divided by a number that is not zero
        vectors = [part for part in (f"{base}_u", f"{base}_v") if part in state]
        return Held(base, (name, *vectors), lambda: tensor, "spectral_norm")
    return None


def parametrized(name: str, state: State) -> Held | None:
    """torch.nn.utils.parametrize: masks, spectral_norm and weight_norm.

    Raises:
        UnreadableLayoutError: For any other parametrization, as no state tells what it computes.
    """
    match = _PARAMETRIZED.fullmatch(name)
    if not match:
        return None
    weight, prefix, original = (match[1] or "") + match[2], name.removesuffix(match[3]), state[name]
    if match[3] == "original0" and f"{prefix}original1" in state:
        return None  # a part of the other
    rest = {part.removeprefix(prefix): part for part in state.under(prefix) if part != name}
    masks = [p for key, p in rest.items() if re.fullmatch(r"\d+\.mask", key) and state[p].shape == original.shape]
    vectors = [part for key, part in rest.items() if re.fullmatch(r"\d+\._[uv]", key)]
    if match[3] == "original1" and [*rest] == ["original0"] and _is_norm_of(state[rest["original0"]], original):
        norm = state[rest["original0"]]
        return Held(weight, (name, rest["original0"]), lambda: _normed(original, norm), "weight_norm")
    if match[3] != "original" or not rest or len(masks) + len(vectors) < len(rest):
        raise UnreadableLayoutError(
            f"{weight} is computed from {name} by a parametrization, and its state does not say which weights are "
            f"zero; {ON_MODEL}"
        )

    def value() -> Tensor:
        product = original
        for part in masks:
            product = product * state[part]
        return product

    layout = "a parametrization with a mask" if masks else "spectral_norm"
    return Held(weight, (name, *masks, *vectors), value, layout)


def weight_norm(name: str, state: State) -> Held | None:
    """torch.nn.utils.weight_norm: X_g and X_v."""
    base, leaf, v = name.removesuffix("_v"), name.rpartition(".")[2], state[name]
    g = state.get(f"{base}_g") if leaf.startswith("weight") and leaf.endswith("_v") else None
    if g is None or not _is_norm_of(g, v):
        return None
    return Held(base, (name, f"{base}_g"), lambda: _normed(v, g), "weight_norm")


def _is_norm_of(g: Tensor, v: Tensor) -> bool:
    """Whether g holds one norm for each slice of v, or one for all."""
    return g.dim() in (0, v.dim()) and all(n in (1, m) for n, m in zip(g.shape, v.shape, strict=False))


def _normed(v: Tensor, g: Tensor) -> Tensor:
    dims = [d for d in range(v.dim()) if not g.dim() or g.shape[d] == 1]
    norms: Tensor = torch.linalg.vector_norm(v, dim=dims, keepdim=True)
    return v * (g / norms)


def bitmask(name: str, state: State) -> Held | None:
    """compressed-tensors: X.compressed, X.bitmask and X.shape."""
    base, values = name.removesuffix(".compressed"), state[name]
    bits, shape = state.get(f"{base}.bitmask"), state.get(f"{base}.shape")
    if base == name or bits is None or shape is None:
        return None
    parts = [f"{base}.{end}" for end in ("bitmask", "shape", "row_offsets") if f"{base}.{end}" in state]
    return Held(base, (name, *parts), lambda: from_bitmask(values, bits, shape), "compressed-tensors' bit masks")


def four_bits(name: str, state: State) -> Held | None:
    """bitsandbytes, 4 bits: X, X.absmax, X.quant_map and X.quant_state.bitsandbytes__nf4."""
    if f"{name}.quant_map" not in state or f"{name}.absmax" not in state:
        return None
    beside = {part.removeprefix(f"{name}."): part for part in state.under(f"{name}.")}
    if not any(key.startswith("quant_state.") for key in beside):
        return None
    codes, parts = state[name], {key: state[part] for key, part in beside.items()}
    return Held(name, (name, *beside.values()), lambda: from_4_bits(codes, parts), "bitsandbytes' 4-bit codes")


def symmetric(name: str, state: State) -> Held | None:
    """8-bit codes X.qweight without zero points: a code is zero where the weight is."""
    module, _, leaf = name.rpartition(".")
    points = ("qzeros", "zeros", "zero_point", "zero_points")
    if leaf != "qweight" or state[name].dtype != torch.int8 or any(f"{module}.{point}" in state for point in points):
        return None
    return Held(module or name, (name,), lambda: state[name], "symmetric 8-bit codes")


def zero_point(name: str, state: State) -> Held | None:
    """8-bit codes X with X_zero_point."""
    codes, point = state[name], state.get(f"{name}_zero_point")
    if point is None or codes.dtype not in (torch.int8, torch.uint8) or codes.dim() < 2:
        return None
    parts = (name, f"{name}_zero_point")
    return Held(name, parts, lambda: around_zero_point(codes, point), "8-bit codes with a zero point")
