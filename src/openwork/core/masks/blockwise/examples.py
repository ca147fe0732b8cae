"""Example inputs: what batches give to a model, and which of their positions are padding."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from openwork.core.forward import call_on_batch, check_batches, inputs_of, plain_attention
from openwork.core.masks.blockwise.padding import counted_of, find_added
from openwork.core.snapshot import snapshot


@dataclass(frozen=True)
class Example:
    """What a model is called with.

    Args:
        args: By position.
        kwargs: By name.
        counted: Masks, True where a position is no padding, (batch, positions), each for what has these many positions.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    counted: tuple[Tensor, ...]

    def run(self, model: nn.Module) -> None:
        """Runs the model on it."""
        args, kwargs = copied((self.args, self.kwargs))
        call_on_batch(model, args, kwargs)


def copied(value: Any) -> Any:
    """The value with a copy of each tensor in it, for what may write to its inputs in place.

    What is one tensor at several places stays one.
    """
    copies: dict[int, Tensor] = {}

    def copy(each: Any) -> Any:
        if isinstance(each, Tensor) and id(each) not in copies:
            copies[id(each)] = each.clone()
        return copies.get(id(each), each)

    return tree_map(copy, value)


def examples_of(model: nn.Module, batches: Iterable[Any]) -> list[Example]:
    """The examples, which are read once: a loader that shuffles gives others each time.

    Args:
        model: The model.
        batches: Batches as loaders give them.

    Raises:
        TypeError: If ``batches`` is one tensor or cannot be iterated, or a batch holds nothing that the model takes.
        ValueError: If there is no batch, one is NaN or infinite, or all is padding.
    """
    check_batches(batches)
    given = []
    for number, batch in enumerate(batches):
        args, kwargs = inputs_of(model, batch)
        for name, value in (*enumerate(args), *kwargs.items()):
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                continue
            hides = value == -math.inf if "mask" in str(name) else False  # as attention adds it to its scores
            if not (value.isfinite() | hides).all():
                raise ValueError(f"batch {number} holds NaN or infinite inputs; leave it out, or mend what reads it")
        given.append((args, kwargs))
    if not given:
        raise ValueError("there is no batch to take inputs from; pass at least one batch of inputs")
    added = find_added([kwargs for _, kwargs in given])
    examples = [Example(args, kwargs, counted_of(model, kwargs, added)) for args, kwargs in given]
    if all(example.counted and not any(mask.any() for mask in example.counted) for example in examples):
        raise ValueError(
            "the attention_mask of every batch is 0, or hides all positions, so that there is no token to look at; "
            "check the masks"
        )
    return examples


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """The model in evaluation, without gradients, caches and fused attention; it is put back afterwards."""
    restore = snapshot(model)
    # A cache would grow each time that a block sees the same inputs again.
    configs = {id(config): config for m in model.modules() if (config := getattr(m, "config", None)) is not None}
    cached = [config for config in configs.values() if getattr(config, "use_cache", False) is True]
    hooks = [
        module.register_forward_pre_hook(_check_ids(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and type(module).forward is nn.Embedding.forward
    ]
    try:
        model.eval()
        for config in cached:
            config.use_cache = False
        # Tensors of inference mode do not say whether somebody has written to them.
        with torch.inference_mode(mode=False), torch.no_grad(), plain_attention():
            yield
    finally:
        for config in cached:
            config.use_cache = True
        for hook in hooks:
            hook.remove()
        restore()


def _check_ids(name: str) -> Any:
    def check(module: nn.Embedding, args: tuple[Any, ...]) -> None:
        ids = args[0] if args else None
        if (
            isinstance(ids, Tensor)
            and ids.numel()
            and not 0 <= int(ids.min()) <= int(ids.max()) < module.num_embeddings
        ):
            wrong = int(ids.max()) if int(ids.min()) >= 0 else int(ids.min())
            raise ValueError(
                f"the batches ask {name} for row {wrong}, and it has {module.num_embeddings}; use the model's own "
                "tokenizer, and texts that are no longer than the model takes"
            )

    return check
