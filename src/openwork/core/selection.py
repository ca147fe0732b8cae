"""Which weights become sparse: predicates over the model's parameters, and the tensors that they find."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from openwork.core.beneath import computed_from
from openwork.core.layout import NORMS, Layout, holds_experts, is_called_weight, layout_of
from openwork.core.names import fits, listed
from openwork.core.numbers import unusable
from openwork.core.strict import check_strict, nothing_selected

Select = Callable[[str, nn.Parameter, nn.Module], bool]
"""(parameter name, parameter, the module that owns it) -> whether it is to become sparse."""

Selection = Select | str | Sequence[str]
"""What ``select`` takes: such a function, or the names of weights or layers, as `matching` takes them."""


@dataclass(frozen=True)
class Site:
    """One place where a parameter hangs: ``getattr(module, leaf)``.

    Args:
        name: The parameter's full name there.
        module: The module that owns it.
        leaf: The last part of the name.
        parent: The module that holds this one; the model itself where this is the model.
    """

    name: str
    module: nn.Module
    leaf: str
    parent: nn.Module


@dataclass(frozen=True)
class Weight:
    """One selected weight tensor.

    Args:
        name: The parameter's first name in the model.
        sites: Every place where the parameter hangs; several for tied weights.
    """

    name: str
    sites: tuple[Site, ...]

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as the module holds it now; looked up each time, since wrappers may replace it.

        Raises:
            ValueError: If the module no longer holds it.
        """
        parameter = self.sites[0].module._parameters.get(self.sites[0].leaf)
        if parameter is None:
            raise ValueError(
                f"{self.name} is no longer a parameter of the model; finalize the sparsifier before you remove it, and "
                "shard with fully_shard, not FSDP1"
            )
        return parameter

    @cached_property
    def layout(self) -> Layout | None:
        """How the module stores it; None where that is unknown, or it holds no matrices."""
        site = self.sites[0]
        return layout_of(site.module, site.leaf, self.parameter.shape)


def weight_matrices(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """True for the matrices and kernels of layers: the default selection.

    These are parameters of two or more dimensions, not of norms, that are called ``weight``, as in Linear,
    convolutions, embeddings and most modules of other libraries, ``..._weight``, as in MultiheadAttention, or
    ``weight_ih...``, ``weight_hh...`` and ``weight_hr...``, as in recurrent layers; the matrices of experts; and those
    whose layout was declared (`declare_layout`). Select other matrices by name.

    Args:
        name: The parameter's full name in the model; its last part decides.
        parameter: The parameter.
        module: The module that owns it.
    """
    leaf, shape = name.rpartition(".")[2], parameter.shape
    if len(shape) < 2 or isinstance(module, NORMS):
        return False
    return is_called_weight(leaf) or holds_experts(module, shape) or layout_of(module, leaf, shape) is not None


def all_parameters(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """True for every parameter, biases and norms included; narrow it with `matching` or `excluding`.

    Args:
        name: The parameter's full name in the model.
        parameter: The parameter.
        module: The module that owns it.
    """
    return True


@dataclass(frozen=True, repr=False)
class WeightsOf:
    """The selection that `weights_of` returns.

    Args:
        types: The types of modules whose weight is selected.

    Raises:
        TypeError: If there is none, or one is no type of module.
    """

    types: tuple[type[nn.Module], ...]

    def __post_init__(self) -> None:
        if not self.types or not all(isinstance(kind, type) and issubclass(kind, nn.Module) for kind in self.types):
            raise TypeError(f"weights_of takes types of modules such as nn.Linear, got {listed(self.types)}")

    def __call__(self, name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
        """Whether this is the ``weight``, or another matrix, of such a module."""
        if not isinstance(module, self.types):
            return False
        return name.rpartition(".")[2] == "weight" or weight_matrices(name, parameter, module)

    def __repr__(self) -> str:
        return f"weights_of({', '.join(kind.__name__ for kind in self.types)})"

    __str__ = __repr__


@dataclass(frozen=True, repr=False)
class _ByName:
    """What `Matching` and `Excluding` have in common."""

    picks: ClassVar[bool]
    """Whether each pattern must fit a selected weight; otherwise any parameter will do."""

    patterns: tuple[str, ...]
    among: Select = weight_matrices

    def __post_init__(self) -> None:
        call = type(self).__name__.lower()
        if not self.patterns or not all(isinstance(each, str) for each in self.patterns):
            raise TypeError(f"{call} takes names or patterns, as {call}('fc1', 'conv*'), got {listed(self.patterns)}")

    def named(self, names: Iterable[str]) -> str:
        """The first of the names that a pattern fits; "" where none does."""
        return next((name for name in names if any(fits(pattern, name) for pattern in self.patterns)), "")

    def __repr__(self) -> str:
        others = [] if self.among == weight_matrices else [f"among={getattr(self.among, '__name__', self.among)}"]
        return f"{type(self).__name__.lower()}({', '.join([*map(repr, self.patterns), *others])})"

    __str__ = __repr__


@dataclass(frozen=True, repr=False)
class Matching(_ByName):
    """The selection that `matching` returns.

    Args:
        patterns: Shell patterns, one of which a parameter's name must fit, or that of a module around it.
        among: The selection to choose from.

    Raises:
        TypeError: If there is no pattern, or one is no text.
    """

    picks: ClassVar[bool] = True

    def __call__(self, name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
        """Whether the name fits a pattern, and ``among`` selects it."""
        return bool(self.named([name])) and self.among(name, parameter, module)


@dataclass(frozen=True, repr=False)
class Excluding(_ByName):
    """The selection that `excluding` returns.

    Args:
        patterns: Shell patterns, none of which a parameter's name may fit, nor that of a module around it.
        among: The selection to choose from.

    Raises:
        TypeError: If there is no pattern, or one is no text.
    """

    picks: ClassVar[bool] = False

    def __call__(self, name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
        """Whether the name fits no pattern, and ``among`` selects it."""
        return not self.named([name]) and self.among(name, parameter, module)


def weights_of(*types: type[nn.Module]) -> WeightsOf:
    """Selects ``weight``, or what the default picks, of modules of ``types``: ``weights_of(nn.Linear, nn.Conv2d)``."""
    return WeightsOf(types)


def matching(*patterns: str, among: Select = weight_matrices) -> Matching:
    """Selects the parameters whose name fits a shell pattern: ``matching("encoder", "*.fc1")``.

    Args:
        patterns: Shell patterns for the full name of a parameter (``fc.weight``) or of a module around it (``fc``); one
            must fit. In `sparsify` each must fit a weight that is selected.
        among: The selection to choose from.
    """
    return Matching(patterns, among)


def excluding(*patterns: str, among: Select = weight_matrices) -> Excluding:
    """Selects the parameters whose name fits no shell pattern: ``excluding("head", "*.router")``.

    Args:
        patterns: Shell patterns for the full name of a parameter or of a module around it; none may fit, nor at any
            other place of a tied parameter. In `sparsify` each must fit some parameter of the model.
        among: The selection to choose from.
    """
    return Excluding(patterns, among)


def as_select(select: object) -> Select:
    """The function for what ``select`` may be: a function itself, a name or a list of names.

    Raises:
        TypeError: If it is something else, such as a type of module.
    """
    if isinstance(select, str):
        return Matching((select,))
    several: list[object] = list(select) if isinstance(select, list | tuple | set | frozenset) else [select]
    names = [each for each in several if isinstance(each, str)]
    if names and len(names) == len(several):
        return Matching(tuple(names))
    types = [each for each in several if isinstance(each, type) and issubclass(each, nn.Module)]
    if types:
        kinds = ", ".join(each.__name__ for each in types)
        raise TypeError(f"select takes names or a function, got types of modules; write select=weights_of({kinds})")
    if isinstance(select, nn.Module | Tensor) or not callable(select):
        raise TypeError(
            f"select takes a selection such as matching('fc*'), a name or a list of names, got {listed(several)}"
        )
    try:
        inspect.signature(select).bind("name", None, None)
    except TypeError as error:
        raise TypeError(f"select is called as select(name, parameter, module), and cannot be: {error}") from None
    except ValueError:  # a builtin without a signature
        pass
    return select


def find_weights(model: nn.Module, select: Selection, *, codes: bool = False) -> tuple[list[Weight], dict[str, str]]:
    """The selected weights in the model's order, tied ones once, and why matrices were left out, by name.

    Args:
        model: The model.
        select: Which parameters are selected; a tied one is where it is selected at any of its places, unless
            `excluding` names another of them.
        codes: Whether what holds codes instead of numbers, or no elements, can be selected, to be counted.

    Raises:
        TypeError: If ``select`` is no selection.
        ValueError: If nothing is selected, or a pattern of `matching` or `excluding` fits nothing; names what there is.
    """
    select, tensors = as_select(select), _sites(model)
    picked = [(parameter, sites) for parameter, sites in tensors if _picks(select, parameter, sites)]
    reasons = {sites[0].name: "" if codes else unusable(parameter) for parameter, sites in tensors}
    chosen = [Weight(sites[0].name, tuple(sites)) for _, sites in picked if not reasons[sites[0].name]]
    if not chosen:
        unusables = {sites[0].name: reasons[sites[0].name] for _, sites in picked}
        raise ValueError(nothing_selected(model, select, list(_chain(select)), tensors, unusables))
    check_strict(model, list(_chain(select)), tensors, chosen, reasons)
    names = {weight.name for weight in chosen}
    left_out = [(parameter, s) for parameter, s in tensors if parameter.dim() > 1 and s[0].name not in names]
    return chosen, {sites[0].name: reasons[sites[0].name] or _reason(select, sites) for _, sites in left_out}


def _picks(select: Select, parameter: nn.Parameter, sites: list[Site]) -> bool:
    return not _excluded(select, sites) and any(select(site.name, parameter, site.module) for site in sites)


def _excluded(select: Select, sites: list[Site]) -> str:
    """The place at which a parameter is excluded; "" if it is not."""
    found = (each.named(site.name for site in sites) for each in _chain(select) if isinstance(each, Excluding))
    return next(filter(None, found), "")


def _chain(select: Select) -> Iterator[Matching | Excluding]:
    """The selections by name: this one, and those that it chooses from."""
    while isinstance(select, Matching | Excluding):
        yield select
        select = select.among


def _reason(select: Select, sites: list[Site]) -> str:
    site = sites[0]
    if computed := computed_from(site):
        return computed
    excluded = _excluded(select, sites)
    if excluded and excluded != site.name:
        return f"select excludes {excluded}, to which it is tied"
    return f"select does not pick the {site.leaf} of a {type(site.module).__name__}"


def _sites(model: nn.Module) -> list[tuple[nn.Parameter, list[Site]]]:
    found: dict[int, tuple[nn.Parameter, list[Site]]] = {}
    modules = dict(model.named_modules())
    for prefix, module in modules.items():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                site = Site(f"{prefix}.{leaf}" if prefix else leaf, module, leaf, modules[prefix.rpartition(".")[0]])
                if is_lazy(parameter):
                    raise ValueError(f"{site.name} has no values yet; run the model on one batch first")
                found.setdefault(id(parameter), (parameter, []))[1].append(site)
    return list(found.values())
