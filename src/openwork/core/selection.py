"""Which weights become sparse: predicates over the model's parameters, and the tensors that they find."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

Select = Callable[[str, nn.Parameter, nn.Module], bool]
"""(parameter name, parameter, the module that owns it) -> whether it is to become sparse."""

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class Site:
    """One place where a parameter hangs: ``getattr(module, leaf)``.

    Args:
        name: The parameter's full name there.
        module: The module that owns it.
        leaf: The last part of the name.
    """

    name: str
    module: nn.Module
    leaf: str


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


def weight_matrices(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """True for the matrices and kernels of layers: the default selection.

    These are parameters of two or more dimensions, not of norms, that are called ``weight``, as in Linear,
    convolutions, embeddings and most modules of other libraries, ``..._weight``, as in MultiheadAttention, or
    ``weight_ih...``, ``weight_hh...`` and ``weight_hr...``, as in recurrent layers. Select other matrices by name.

    Args:
        name: The parameter's full name in the model; its last part decides.
        parameter: The parameter.
        module: The module that owns it.
    """
    leaf = name.rpartition(".")[2]
    matrix = leaf == "weight" or leaf.endswith("_weight") or leaf.startswith(("weight_ih", "weight_hh", "weight_hr"))
    return matrix and parameter.dim() > 1 and not isinstance(module, _NORMS)


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
    """

    types: tuple[type[nn.Module], ...]

    def __call__(self, name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
        """Whether this is the ``weight`` of such a module."""
        return isinstance(module, self.types) and name.rpartition(".")[2] == "weight"

    def __repr__(self) -> str:
        return f"weights_of({', '.join(kind.__name__ for kind in self.types)})"

    __str__ = __repr__


@dataclass(frozen=True, repr=False)
class Matching:
    """The selection that `matching` returns.

    Args:
        patterns: Shell patterns, one of which a parameter's name must fit.
        among: The selection to choose from.
    """

    patterns: tuple[str, ...]
    among: Select = weight_matrices

    def __call__(self, name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
        """Whether the name fits a pattern, and ``among`` selects it."""
        return _fits(name, self.patterns) and self.among(name, parameter, module)

    def __repr__(self) -> str:
        return f"matching({_arguments(self.patterns, self.among)})"

    __str__ = __repr__


@dataclass(frozen=True, repr=False)
class Excluding:
    """The selection that `excluding` returns.

    Args:
        patterns: Shell patterns, none of which a parameter's name may fit.
        among: The selection to choose from.
    """

    patterns: tuple[str, ...]
    among: Select = weight_matrices

    def __call__(self, name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
        """Whether the name fits no pattern, and ``among`` selects it."""
        return not _fits(name, self.patterns) and self.among(name, parameter, module)

    def __repr__(self) -> str:
        return f"excluding({_arguments(self.patterns, self.among)})"

    __str__ = __repr__


def weights_of(*types: type[nn.Module]) -> WeightsOf:
    """Selects ``weight`` of every module of these ``types``: ``weights_of(nn.Linear, nn.Conv2d)``."""
    return WeightsOf(types)


def matching(*patterns: str, among: Select = weight_matrices) -> Matching:
    """Selects the parameters whose name fits a shell pattern: ``matching("encoder.*")``.

    Args:
        patterns: Shell patterns for a parameter's full name; one must fit.
        among: The selection to choose from.
    """
    return Matching(patterns, among)


def excluding(*patterns: str, among: Select = weight_matrices) -> Excluding:
    """Selects the parameters whose name fits no shell pattern: ``excluding("head.*")``.

    Args:
        patterns: Shell patterns for a parameter's full name; none may fit.
        among: The selection to choose from.
    """
    return Excluding(patterns, among)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _arguments(patterns: tuple[str, ...], among: Select) -> str:
    others = [] if among == weight_matrices else [f"among={getattr(among, '__name__', among)}"]
    return ", ".join([*map(repr, patterns), *others])


def find_weights(model: nn.Module, select: Select) -> tuple[list[Weight], dict[str, str]]:
    """The selected weights in the model's order, tied ones once, and why matrices were left out, by name.

    Args:
        model: The model.
        select: Which parameters are selected; a tied one is where it is selected at any of its places.

    Raises:
        ValueError: If nothing is selected; names what the model has.
    """
    tensors = _sites(model)
    chosen = [
        Weight(sites[0].name, tuple(sites))
        for parameter, sites in tensors
        if any(select(site.name, parameter, site.module) for site in sites)
    ]
    names = {weight.name for weight in chosen}
    skipped = {s[0].name: _reason(s[0]) for p, s in tensors if p.dim() > 1 and s[0].name not in names}
    if not chosen:
        raise ValueError(f"the selection matches no parameter of {type(model).__name__}; it has {_inventory(tensors)}")
    return chosen, skipped


def _reason(site: Site) -> str:
    if isinstance(site.module, ParametrizationList):
        return "a parametrization computes the weight from it; call torch.nn.utils.parametrize.remove_parametrizations"
    return f"select does not pick the {site.leaf} of a {type(site.module).__name__}"


def _sites(model: nn.Module) -> list[tuple[nn.Parameter, list[Site]]]:
    found: dict[int, tuple[nn.Parameter, list[Site]]] = {}
    for prefix, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                site = Site(f"{prefix}.{leaf}" if prefix else leaf, module, leaf)
                found.setdefault(id(parameter), (parameter, []))[1].append(site)
    return list(found.values())


def _inventory(tensors: list[tuple[nn.Parameter, list[Site]]]) -> str:
    lines: Iterator[str] = (
        f"{sites[0].name} {tuple(parameter.shape)} of {type(sites[0].module).__name__}" for parameter, sites in tensors
    )
    listed = list(lines)
    return "; ".join(listed[:12]) + (f"; and {len(listed) - 12} more" if len(listed) > 12 else "") or "none"
