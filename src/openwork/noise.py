"""Noise in a tensor's dtype and on its device: torch's own, or, within `keyed`, a hash of a key, a name and a place.

By a key, training draws the same noise alone and among thousands of stacked models, on a CPU and, to four digits, on a
GPU, eagerly and compiled, and however many processes share its batches.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from openwork.compiler import constant
from openwork.quantile import normal_quantile

_STEP, _PART = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03  # odd, so that no two steps or parts of a seed share a key
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_PRIME = 2**61 - 1


def key(seed: int, step: int, part: int = 0) -> int:
    """The key of a part of a step's batch, in [-2^63, 2^63).

    Args:
        seed: The training's, from 0 to 2^63 - 1.
        step: The number of completed steps.
        part: The part's number.
    """
    return _signed(_mixed64(_mixed64(seed + _STEP) + step * _STEP + part * _PART))


def keys(seeds: Tensor, step: int | Tensor) -> Tensor:
    """The `key` of a step for each of these seeds, int64 like them, computed on their device.

    Args:
        seeds: int64, of any shape.
        step: The number of completed steps.
    """
    steps = _signed(step * _STEP) if isinstance(step, int) else step * _signed(_STEP)
    return _mixed64s(_mixed64s(seeds + _signed(_STEP)) + steps)


@contextmanager
def keyed(key: Tensor) -> Iterator[None]:
    """Within it, noise is a hash of ``key``, of the weight's name, of how often that has drawn, and of the place.

    What a checkpoint of ``torch.utils.checkpoint`` computes again draws the same as the latest forward pass, in which
    each name must have drawn once.

    Args:
        key: int64, shape (), what `key` or `keys` return; batched under ``torch.func.vmap``.
    """
    global _source
    outer, _source = _source, _Source(key)
    try:
        yield
    finally:
        _source = outer


def is_keyed() -> bool:
    """Whether noise comes from a key now."""
    return _in_force() is not None


def draws_for(name: str) -> None:
    """Notes the name of the weight whose noise comes next."""
    if (source := _in_force()) is not None:
        source.name = name


class Draw(NamedTuple):
    """One draw of noise, which can be computed again: the words of its hash.

    Args:
        factor: Odd, int32, shape ().
        offset: int32, shape ().
    """

    factor: Tensor
    offset: Tensor


def next_key(device: torch.device) -> tuple[Tensor, int]:
    """What decides the noise that comes next: a key on the device, which draws may share, and the draw's own number.

    Outside `keyed`, torch's generator draws a key on the device.

    Args:
        device: Where the noise will be.
    """
    source = _drawing()
    if source is None:
        return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device=device), _number("", 1)
    return source.key.to(device), source.number()


def draw_of(key: Tensor, number: int, *, again: bool = False) -> Draw:
    """The draw of this key and number.

    Args:
        key: int64, shape ().
        number: In [-2^63, 2^63).
        again: Whether this is a backward pass, in which a compiler is to compute the words once more.
    """
    # The same bits by other operations: what forward and backward pass share would be kept for each layer.
    word = key.bitwise_not().bitwise_xor(~number) if again else key.bitwise_xor(number)
    # An odd factor as well as an offset: with the offset alone, two draws would often be shifts of each other.
    return Draw(word.to(torch.int32).bitwise_or(1), word.bitwise_right_shift(32).to(torch.int32))


def next_draw(device: torch.device) -> Draw:
    """The noise that comes next: by the key or, outside `keyed`, by one that torch's generator draws on the device."""
    return draw_of(*next_key(device))


def normal_of(draw: Draw, shape: Sequence[int], like: Tensor) -> Tensor:
    """The standard normal noise of a draw: what `normal` returns where this draw comes next.

    Args:
        draw: What `next_draw` returns.
        shape: The noise's shape.
        like: A tensor of the wanted dtype, on the wanted device.
    """
    exact = torch.promote_types(like.dtype, torch.float32)
    places = _hashed(draw, shape, like.device).bitwise_right_shift_(8).to(exact)  # in [-2^23, 2^23)
    middles = places.mul_(2.0**-23).add_(2.0**-24)  # of 2^24 intervals of (-1, 1), all exact
    if _fused(like.device) and exact == torch.float32:
        return normal_quantile(middles).to(like.dtype)
    return middles.erfinv_().mul_(math.sqrt(2)).to(like.dtype)


def _fused(device: torch.device) -> bool:
    """Whether a compiler computes noise together with what is around it on a GPU, where its instructions count."""
    return device.type == "cuda" and torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()


def middles_of(draw: Draw, shape: Sequence[int], like: Tensor, *, again: bool = False) -> Tensor:
    """The uniform noise of a draw in (-1, 1): the middles of 2^24 intervals, all exact in float32.

    Args:
        draw: What `next_draw` returns.
        shape: The noise's shape.
        like: A float32 or float64 tensor on the wanted device.
        again: Whether this is a backward pass, in which a compiler is to compute the noise once more.
    """
    places = _hashed(draw, shape, like.device, again=again).bitwise_right_shift_(8).to(like.dtype)  # in [-2^23, 2^23)
    return places.mul_(2.0**-23).add_(2.0**-24)


def normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise; by a key between -5.4 and 5.4, and with 2^24 values.

    Args:
        shape: The noise's shape.
        like: A tensor of the wanted dtype, on the wanted device.
        generator: On that device, instead of a key and of torch's own.
    """
    if generator is not None:
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
    source = _drawing()
    if source is None:  # a compiler that does not know the batch size yet wants the call without a generator
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    return normal_of(source.draw(), shape, like)


def uniform(shape: Sequence[int], like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Noise in [0, 1); by a key multiples of 2^-24, or of the dtype's precision.

    Args:
        shape: The noise's shape.
        like: A tensor of the wanted dtype, on the wanted device.
        generator: On that device, instead of a key and of torch's own.
    """
    if generator is not None:
        return torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
    source = _drawing()
    if source is None:
        return torch.rand(shape, dtype=like.dtype, device=like.device)
    bits = {torch.float16: 11, torch.bfloat16: 8}.get(like.dtype, 24)  # more would round to 1
    return _shifted(_hashed(source.draw(), shape, like.device), 32 - bits).to(like.dtype).mul_(2.0**-bits)


def chosen(p: float, like: Tensor) -> Tensor:
    """True with probability ``p``, exact to 2^-25; bool, of ``like``'s shape, by a key or from torch's generator."""
    source = _drawing()
    if source is None:
        return torch.rand_like(like, dtype=torch.float32) < p
    return _shifted(_hashed(source.draw(), like.shape, like.device), 8) < round(p * 2**24)


def mixed(x: Tensor) -> Tensor:
    """A bijection of int32 in which each bit of the result depends on all bits of ``x``.

    Two rounds of multiplication and shifts: lowbias32 of C. Wellons' hash prospector, 2018.
    """
    x = _shifted(x, 16).bitwise_xor_(x).mul_(0x7FEB352D)
    x = _shifted(x, 15).bitwise_xor_(x).mul_(0x846CA68B - 2**32)
    return _shifted(x, 16).bitwise_xor_(x)


def _hashed(draw: Draw, shape: Sequence[int], device: torch.device, *, again: bool = False) -> Tensor:
    """A random int32 for each place."""
    # Counted from 1 where they are computed again: a compiler that sees the same operations in forward and backward
    # pass does not compute them again, since layers of one shape share them, but keeps the noise of every layer.
    first, offset = (1, draw.offset - draw.factor) if again else (0, draw.offset)
    places = torch.arange(first, first + math.prod(shape), dtype=torch.int32, device=device).view(shape)
    return mixed((places * draw.factor).add_(offset))


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return x.bitwise_right_shift(bits).bitwise_and_(2 ** (32 - bits) - 1)


class _Source:
    """A key, and how often each name has drawn by it."""

    def __init__(self, key: Tensor) -> None:
        self.key = key
        self.name = ""
        self.drawn: dict[str, int] = {}

    def number(self) -> int:
        """That of the next draw for the current name."""
        drawn = self.drawn.get(self.name, 0)
        if not _again():
            drawn = self.drawn[self.name] = drawn + 1
        elif drawn != 1:
            raise RuntimeError(
                f"a checkpoint computes again what has drawn noise {drawn} times by one key for {self.name!r}, so that "
                "it is not known which draw it was; leave that part of the model out of the checkpoint"
            )
        return _number(self.name, drawn)

    def draw(self) -> Draw:
        """The next one for the current name."""
        return draw_of(self.key, self.number())


_source: _Source | None = None
_latest: _Source | None = None
"""What the noise of the latest forward pass came from."""


def _again() -> bool:
    """Whether a backward pass is going on, in which only a checkpoint draws noise: as in the forward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _in_force() -> _Source | None:
    return _latest if _again() else _source


def _drawing() -> _Source | None:
    """What noise comes from now; None for torch's generator."""
    global _latest
    source = _in_force()
    if not torch.compiler.is_compiling():
        _latest = source
    return source


def _number(name: str, drawn: int) -> int:
    """That of a name's draw, of which it has so many then."""
    return _signed(_mixed64(_as_number(name) + drawn * _STEP))


@constant  # Dynamo of torch 2.11 knows no int.from_bytes
def _as_number(name: str) -> int:
    """The name's bytes as one number, modulo a prime."""
    return int.from_bytes(name.encode(), "little") % _PRIME


def _mixed64(x: int) -> int:
    """A bijection of [0, 2^64), as `mixed` is one of int32: that of splitmix64 (Steele, Lea & Flood 2014)."""
    x %= 2**64
    x = (x ^ (x >> 30)) * _FIRST % 2**64
    x = (x ^ (x >> 27)) * _SECOND % 2**64
    return x ^ (x >> 31)


def _mixed64s(x: Tensor) -> Tensor:
    """`_mixed64` of int64."""
    for bits, factor in ((30, _FIRST), (27, _SECOND)):
        x = (x ^ (x >> bits & 2 ** (64 - bits) - 1)) * _signed(factor)
    return x ^ (x >> 31 & 2**33 - 1)


def _signed(x: int, bits: int = 64) -> int:
    """``x`` modulo 2^bits as a number with a sign."""
    half = 1 << bits - 1
    return (x + half) % (2 * half) - half
