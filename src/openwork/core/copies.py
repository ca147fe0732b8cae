"""Copies of models."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from openwork.core.forward import first_line

MAKE_PLAIN: list[Callable[[nn.Module], None]] = []
"""Of each mechanism that changes modules, what gives those of a copy their plain classes again."""


def plain_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """What `copied_model` returns, with plain modules, whichever sparsifiers are at work on the model."""
    copied = copied_model(model, memo)
    for make_plain in MAKE_PLAIN:
        make_plain(copied)
    return copied


def copied_model(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy of ``model``, in which tensors that it has computed are plain values.

    torch copies no tensor with a graph. Modules hold such ones as attributes: the weight that the hooks of
    ``torch.nn.utils.weight_norm``, ``spectral_norm`` and ``prune`` compute anew before each forward, kept outputs. One
    that is computed once and then trained through, such as ``self.scale = self.alpha.exp()`` in ``__init__``, has its
    value in the copy and no longer follows its parameter.

    Args:
        model: The model.
        memo: What stands in the copy for an object of the model, by its id: the object itself, to share it. Afterwards
            it also has what stands there for all others.

    Raises:
        ValueError: If the model cannot be copied; names what prevents it.
    """
    shared = dict(memo or {})
    try:
        with _Values():
            copied: nn.Module = copy.deepcopy(model, memo)
    except (MemoryError, torch.OutOfMemoryError):  # which a caller may know how to cure
        raise
    except Exception as error:
        if (found := _obstacle(model, shared)) is not None:
            what, why = found
            raise ValueError(
                f"the model cannot be copied, as copy.deepcopy does not take {what} ({first_line(why)}); take it out "
                "meanwhile, or give it a __deepcopy__"
            ) from error
        raise ValueError(
            f"the model cannot be copied ({first_line(error)}); give one that copy.deepcopy takes"
        ) from error
    return copied


def _obstacle(model: nn.Module, shared: dict[int, Any]) -> tuple[str, Exception] | None:
    """What prevents a copy of the model, and what it raises; None where each module can be copied by itself.

    A module is copied without those inside it, the deepest first, so that no more than its own tensors are in memory.
    """
    others = {module for module in model.modules() if id(module) in shared}
    modules = dict(model.named_modules(memo=others))
    known = {id(module): module for module in modules.values()}
    for name, module in reversed(modules.items()):
        around = {key: other for key, other in known.items() if other is not module}
        if (why := _refusal(module, shared | around)) is None:
            continue
        for key, value in {**module._parameters, **module._buffers, **vars(module)}.items():
            if (more := _refusal(value, shared | known)) is not None:
                return f"the attribute {f'{name}.{key}' if name else key}", more
        return (f"the module {name}", why) if name else None
    return None


def _refusal(value: object, memo: dict[int, Any]) -> Exception | None:
    """What a copy of the value raises; None where there is one, or no memory for it."""
    try:
        with _Values():
            copy.deepcopy(value, memo)
    except (MemoryError, torch.OutOfMemoryError):
        return None
    except Exception as error:
        return error
    return None


class _Values(TorchFunctionMode):
    """Inside, a deep copy of a tensor with a graph is one without it."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if tensor._base is not None and tensor._base.is_leaf:  # reads the parameter's memory, in the copy no longer
            raise ValueError(f"an attribute of shape {tuple(tensor.shape)} is a view of a leaf tensor")
        with torch.no_grad():
            memo[id(tensor)] = tensor.clone()
        return memo[id(tensor)]
