"""What is done to a model before it is trained: nothing, a technique of openwork, a peer's masks, or naive layers."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as _prune

import openwork as ow
from openwork.core.technique import Technique

from . import naive

SPARSITY = 0.9
COEFFICIENT = 1e-9  # of penalties: they cost what they cost, and practically change nothing
prune: Any = _prune  # its functions are untyped


class Prepared(NamedTuple):
    """What training has to do.

    Args:
        penalty: What is added to the loss, or None.
        attach: Called with the optimizer.
        replayed: Called after each replay of a CUDA graph of the step, which runs no hooks.
    """

    penalty: Callable[[], Tensor] | None
    attach: Callable[[torch.optim.Optimizer], object]
    replayed: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Args:
        prepare: Changes a model.
        compiled: Whether the step is compiled.
        fullgraph: Whether its graph must be one; not asked of peers.
        slow: How long it compiles beside others; the slowest are compiled first.
    """

    prepare: Callable[[nn.Module], Prepared]
    compiled: bool = field(default=True, kw_only=True)
    fullgraph: bool = field(default=True, kw_only=True)
    slow: int = field(default=1, kw_only=True)


def nothing(model: nn.Module) -> Prepared:
    """The dense model."""
    return Prepared(None, lambda optimizer: None)


def technique(make: Callable[[], Technique]) -> Callable[[nn.Module], Prepared]:
    """A technique as its users write it."""

    def prepare(model: nn.Module) -> Prepared:
        sparsifier = ow.sparsify(model, make())
        return Prepared(sparsifier.penalty, sparsifier.attach, sparsifier.step)

    return prepare


def variational(**settings: Any) -> Callable[[nn.Module], Prepared]:
    """Variational dropout."""
    return technique(lambda: ow.VariationalDropout(ow.Constant(COEFFICIENT), **settings))


def masks(hidden: Any) -> Callable[[nn.Module], Prepared]:
    """Masks at 90 % from the beginning, without an update in the timed steps."""
    return technique(lambda: ow.GradualMagnitude(ow.OneShot(SPARSITY), hidden=hidden))


def naive_layers(kind: type[naive.NaiveLayer], start: float) -> Callable[[nn.Module], Prepared]:
    """`naive.wrap`."""

    def prepare(model: nn.Module) -> Prepared:
        penalty = naive.wrap(model, kind, start)
        return Prepared(lambda: COEFFICIENT * penalty(), lambda optimizer: None)

    return prepare


def prunable(model: nn.Module) -> list[str]:
    """The names of the layers that every variant makes sparse."""
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
    return [name for name, layer in model.named_modules() if isinstance(layer, kinds)]


def torch_prune(model: nn.Module) -> Prepared:
    """Masks in the forward, by torch.nn.utils.prune, which takes no weights that lie channels last."""
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for name in prunable(model):
        prune.l1_unstructured(model.get_submodule(name), "weight", SPARSITY)
    return nothing(model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def ao_pruning(model: nn.Module) -> Prepared:
    """Masks in a parametrisation, by torch.ao.pruning."""
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    module: Any = importlib.import_module("torch.ao.pruning")
    sparsifier = module.WeightNormSparsifier(SPARSITY, sparse_block_shape=(1, 1), zeros_per_block=1)
    sparsifier.prepare(model, [{"tensor_fqn": f"{name}.weight"} for name in prunable(model)])
    sparsifier.step()
    return nothing(model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]


REGROWING = ow.Constant(SPARSITY, every=1_000, stop=2_000)  # between its updates
NAIVE_VD = naive_layers(naive.NaiveVariationalDropout, -10.0)
NAIVE_L0 = naive_layers(naive.NaiveL0, 2.2)
VARIANTS: dict[str, Variant] = {
    "dense": Variant(nothing),
    'masks, hidden="lost"': Variant(masks("lost")),
    'masks, hidden="frozen"': Variant(masks("frozen")),
    'masks, hidden="trained"': Variant(masks("trained")),
    "RigL": Variant(technique(lambda: ow.RigL(REGROWING))),
    "SET": Variant(technique(lambda: ow.SET(REGROWING))),
    "movement": Variant(technique(lambda: ow.Movement(ow.OneShot(SPARSITY, at=1)))),
    "soft movement": Variant(technique(lambda: ow.SoftMovement(ow.Constant(COEFFICIENT)))),
    "STR": Variant(technique(lambda: ow.STR(-7.0))),
    "SR-STE": Variant(technique(lambda: ow.SRSTE(ow.Constant(COEFFICIENT)))),
    "Top-KAST": Variant(
        technique(lambda: ow.TopKAST(ow.Constant(COEFFICIENT), sparsity=SPARSITY, backward_sparsity=0.8, every=1_000))
    ),
    "torch.nn.utils.prune": Variant(torch_prune, fullgraph=False),
    "torch.ao.pruning": Variant(ao_pruning, fullgraph=False),
    "L0": Variant(technique(lambda: ow.L0(ow.Constant(COEFFICIENT))), slow=2),
    "naive L0": Variant(NAIVE_L0, fullgraph=False, slow=2),
    "naive L0, eager": Variant(NAIVE_L0, compiled=False),
    "variational dropout, fast": Variant(variational(memory="fast"), slow=3),
    "variational dropout, small": Variant(variational(memory="small"), slow=3),
    "naive variational dropout": Variant(NAIVE_VD, fullgraph=False, slow=3),
    "naive variational dropout, eager": Variant(NAIVE_VD, compiled=False),
    "dense, eager": Variant(nothing, compiled=False),
}
"""By name, in the order of the tables."""

BY_DEFAULT = tuple(name for name in VARIANTS if "eager" not in name and "trained" not in name)
