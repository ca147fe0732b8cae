"""Mixtures of experts: modules that send each position to some of their parts, which see it without its place."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from openwork.core.masks.blockwise.blocks import is_expert, mixture_of
from openwork.core.masks.blockwise.chains import first_tensor, forward_of
from openwork.core.masks.inputs import counted_in, counting
from openwork.core.masks.shown import are_multiplied
from openwork.core.selection import Weight


def mixtures_in(model: nn.Module, weights: Sequence[Weight], block: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules that get the positions for the experts of a block, the outer one first, by the experts' names."""
    inside = {id(module) for module in block.modules()}
    found: dict[str, list[nn.Module]] = {}
    for weight in filter(is_expert, weights):
        around = [model.get_submodule(mixture_of(weight))]
        around += [weight.sites[0].module] if are_multiplied(weight) else []
        found[weight.name] = [module for module in around if id(module) in inside]
    return found


@contextmanager
def tokens_alone(mixtures: Sequence[nn.Module], counted: Sequence[Tensor]) -> Iterator[None]:
    """Gives mixtures the positions that count, as one example; what they would make of the others becomes 0.

    Nobody sees which of an expert's rows are padding.

    Args:
        mixtures: Modules whose output at a position depends on that position alone.
        counted: As `counting` takes it.
    """
    with ExitStack() as stack:
        for module in mixtures:
            stack.enter_context(forward_of(module, _on_tokens(module.forward, counted)))
        yield


def _on_tokens(forward: Callable[..., Any], counted: Sequence[Tensor]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        places = _places(counted, args, kwargs)
        if places is None:
            return forward(*args, **kwargs)
        axes, number, flat = places.dim(), int(places.sum()), places.flatten()

        def pick(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if value.shape[:axes] == places.shape:
                return value[places] if axes == 1 else value[places][None]
            return value[flat] if value.shape[:1] == flat.shape else value

        def put(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if axes == 2 and value.shape[:2] == (1, number):
                whole = value.new_zeros(*places.shape, *value.shape[2:])
                whole[places] = value[0]
                return whole
            if value.shape[:1] != (number,):
                return value
            whole = value.new_zeros(len(flat), *value.shape[1:])
            whole[flat] = value
            return whole

        given, named = tree_map(pick, (args, kwargs))
        with counting(()):
            return tree_map(put, forward(*given, **named))

    return run


def _places(counted: Sequence[Tensor], args: Any, kwargs: Any) -> Tensor | None:
    """Which positions of a module's first input count; None where it has others, or none or all of them count."""
    first = first_tensor((args, kwargs))
    places = None if first is None else counted_in(counted, first.shape[:-1])
    if first is None or places is None or not places.any() or places.all():
        return None
    return places.to(first.device)


def alone(
    mixtures: Mapping[str, Sequence[nn.Module]], counted: Sequence[Tensor], run: Callable[[], object]
) -> list[nn.Module]:
    """Those whose output at a position depends on that position alone, as far as a run of them shows.

    Warns where there is none for an expert.

    Args:
        mixtures: What `mixtures_in` found.
        counted: As `counting` takes it.
        run: Runs them.
    """
    found: dict[int, nn.Module] = {}
    with ExitStack() as stack:
        for module in {id(module): module for several in mixtures.values() for module in several}.values():
            stack.enter_context(forward_of(module, _comparing(module, counted, found)))
        run()
    for name, several in mixtures.items():
        if not any(id(module) in found for module in several):
            whose = f"the experts of a {type(several[0]).__name__}" if several else f"an expert such as {name}"
            warnings.warn(
                f"it cannot be seen which inputs of {whose} are padding, so that all count; leave padding out of the "
                "batches, or name blocks that get all positions",
                stacklevel=2,
            )
            break
    return [*found.values()]


def _comparing(module: nn.Module, counted: Sequence[Tensor], found: dict[int, nn.Module]) -> Callable[..., Any]:
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        places = _places(counted, args, kwargs)
        part = None if places is None else _on_tokens(forward, counted)(*args, **kwargs)
        whole = forward(*args, **kwargs)  # which may write to its inputs
        if places is not None and _equal(first_tensor(whole), first_tensor(part), places):
            found[id(module)] = module
        return whole

    return run


def _equal(whole: Tensor | None, part: Tensor | None, places: Tensor) -> bool:
    """Whether two outputs agree where positions count."""
    if whole is None or part is None or whole.shape != part.shape:
        return False
    places = places if whole.shape[: places.dim()] == places.shape else places.flatten()
    if whole.shape[: places.dim()] != places.shape:
        return False
    one, other = whole[places].float(), part[places].float()
    return bool((one - other).norm() <= 0.01 * one.norm())  # a product of other sizes rounds otherwise


def has_padding(counted: Sequence[Tensor]) -> bool:
    """Whether a position does not count."""
    return not all(bool(mask.all()) for mask in counted)
