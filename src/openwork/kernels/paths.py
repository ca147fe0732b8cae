"""Which way an operation goes on a device, and why; `openwork doctor` prints it."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from openwork.compiler import constant

HAS_TRITON = importlib.util.find_spec("triton") is not None

OLDEST = (8, 0)
"""The least compute capability that our Triton kernels are written for."""

MOST = 2**31 - 2**16
"""So many elements have places that int32 holds, those behind them in a kernel's last block included."""

_FORMATS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Path(NamedTuple):
    """The way that an operation goes.

    Args:
        name: "Triton", "compiled", the name of a library, "plain" for torch's own operations, or "none" for an
            operation that is refused there.
        why: What decided it, in a few words.
    """

    name: str
    why: str


def triton_or_plain(device: torch.device, dtype: torch.dtype, dtypes: Sequence[torch.dtype] = _DTYPES) -> Path:
    """Triton's kernel where it can run, else the plain twin: the `path` of most operations.

    Args:
        device: That the operation's tensors lie on.
        dtype: Of what it computes with.
        dtypes: Those that the kernel takes.
    """
    if device.type != "cuda":
        return Path("plain", f"the kernel computes on a GPU, not on {device.type}")
    if not HAS_TRITON:
        return Path("plain", "Triton is not installed; `pip install triton` brings it")
    found = capability(device)
    if isinstance(found, str):
        return Path("plain", found)
    number = ".".join(map(str, found))
    if found < OLDEST:
        return Path("plain", f"the kernel needs compute capability {OLDEST[0]}.{OLDEST[1]} or higher, not {number}")
    if dtype not in dtypes:
        return Path("plain", f"the kernel computes in {' and '.join(map(short, dtypes))} alone")
    return Path("Triton", f"compute capability {number}")


def in_one_piece(*tensors: Tensor) -> bool:
    """Whether tensors of one shape fill their memory, all in one order: that of their axes, or with channels last."""
    if all(map(Tensor.is_contiguous, tensors)):  # soon said, for it is asked of each weight and step
        return True
    return any(all(tensor.is_contiguous(memory_format=each) for tensor in tensors) for each in _FORMATS)


def capability(device: torch.device) -> tuple[int, int] | str:
    """The compute capability of a GPU; why there is none where torch does not reach it."""
    try:
        found = torch.cuda.get_device_properties(device)
    except (RuntimeError, AssertionError) as error:  # no driver, no GPU, a torch for CPUs, another number
        return f"CUDA is out of reach: {(str(error) or type(error).__name__).splitlines()[0].partition('. ')[0]}"
    return found.major, found.minor


def transformed() -> bool:
    """Whether torch.func, forward-mode differentiation or torch.export looks on, which need torch's own operations."""
    # An export records what happens inside a function, for autograd to differentiate later.
    if torch._C._are_functorch_transforms_active() or _exporting():
        return True
    return forward_mode()


def forward_mode() -> bool:
    """Whether forward-mode differentiation looks on."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


@constant
def _exporting() -> bool:
    """Whether torch.export looks on. Asked outside of what is traced: there torch up to 2.11 always says yes."""
    return torch.compiler.is_exporting()


def batched(gradient: torch.Tensor) -> bool:
    """Whether it stands for many gradients at once, from which nothing can be written to an ordinary tensor."""
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch
    return functorch.is_functorch_wrapped_tensor(gradient) or functorch.is_legacy_batchedtensor(gradient)


def short(dtype: torch.dtype) -> str:
    """The dtype without "torch."."""
    return str(dtype).removeprefix("torch.")


def operations() -> dict[str, Callable[[torch.device, torch.dtype], Path]]:
    """`path` of each module of this folder that has one, by the module's name."""
    names = sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(__package__).__path__))
    modules: dict[str, Any] = {name: importlib.import_module(f"{__package__}.{name}") for name in names}
    return {name: module.path for name, module in modules.items() if hasattr(module, "path")}
