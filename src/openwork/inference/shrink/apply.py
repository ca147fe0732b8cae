"""Gives a model's modules the sizes that a decision leaves them, and moves constants to where they are held."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from openwork.inference.shrink.decide import Decision
from openwork.inference.shrink.graph import Read

Sites = Mapping[str, list[tuple[nn.Module, str]]]
"""The modules that hold a parameter or buffer, and how they call it, by its name in the graph."""

_HEADS = {"heads", "num_heads", "n_heads", "n_head", "nhead", "num_attention_heads", "num_key_value_heads"}
_WIDTHS = {"all_head_size", "inner_dim"}


@torch.no_grad()
def apply(decision: Decision, tensors: dict[str, Tensor], sites: Sites, modules: Mapping[str, nn.Module]) -> None:
    """Makes the modules smaller; ``tensors`` are theirs."""
    for number, read in enumerate(decision.graph.reads):
        _move_constants(decision, read, decision.homes[number], tensors)
    for read in decision.graph.reads:
        last = decision.emptied[decision.roots[read.inputs]]
        if last.any():
            places = last.nonzero().flatten().to(tensors[read.weight].device)
            tensors[read.weight].index_fill_(read.dims[1], places, 0)
    for name, value in decision.graph.parameters.items():
        tensor = tensors[name]
        for dim, ids in enumerate(value.axes):
            gone = decision.goes(ids) if ids is not None else None
            if gone is not None and gone.any():
                tensor = tensor.index_select(dim, (~gone).nonzero().flatten().to(tensor.device))
        if tensor.shape != tensors[name].shape:
            _replace(sites[name], tensor)
    for heads in decision.graph.heads:
        gone = decision.goes(heads.units)
        if gone.any():
            _fewer_heads(modules[heads.module], len(gone), int((~gone).sum()), heads.features)


def _move_constants(decision: Decision, read: Read, home: str | None, tensors: dict[str, Tensor]) -> None:
    roots = decision.roots[read.inputs]
    moved = decision.removed[roots] & decision.needed(read, decision.removed) & (read.known != 0)
    places = moved.nonzero().flatten()
    if not len(places):
        return
    weight = tensors[read.weight].movedim(read.dims, (0, 1))
    if home is not None:
        factors = read.known[places].to(weight.device)
        columns = weight[:, places.to(weight.device)].double()
        shift = (columns.flatten(2).sum(2) if columns.dim() > 2 else columns) @ factors
        target = tensors[home]
        target.copy_((target.double() + (shift if home == read.bias else -shift)).to(target.dtype))
        return
    where = {int(root): place for place, root in enumerate(roots)}
    for place in places.tolist():
        leader = where[decision.leaders[int(roots[place])]]
        factor = float(read.known[place] / read.known[leader])
        weight[:, leader] += (weight[:, place].double() * factor).to(weight.dtype)


def _replace(sites: list[tuple[nn.Module, str]], tensor: Tensor) -> None:
    """Puts a smaller tensor in the place of a parameter or buffer, everywhere where it is."""
    before = getattr(*sites[0])
    in_last = (
        before.dim() == 4 and not before.is_contiguous() and before.is_contiguous(memory_format=torch.channels_last)
    )
    tensor = tensor.clone(memory_format=torch.channels_last if in_last else torch.contiguous_format)
    new = nn.Parameter(tensor, before.requires_grad) if isinstance(before, nn.Parameter) else tensor
    for module, leaf in sites:
        setattr(module, leaf, new)
        if leaf == "weight":
            _tell(module, tensor.shape)


def _tell(module: nn.Module, shape: torch.Size) -> None:
    """Sets the attributes in which modules of torch keep their sizes."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, _ConvNd):
        outputs, inputs = (1, 0) if isinstance(module, _ConvTransposeNd) else (0, 1)
        if module.groups > 1:  # each group keeps its channels
            module.groups = module.groups * shape[0] // module.out_channels
        module.out_channels, module.in_channels = shape[outputs], shape[inputs] * module.groups
    elif isinstance(module, _BatchNorm):
        module.num_features = shape[0]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = shape[0]
    elif type(module).__name__ == "Conv1D":
        module.nx, module.nf = shape  # type: ignore[assignment]  # of transformers


def _fewer_heads(module: nn.Module, before: int, now: int, features: int) -> None:
    """Sets the attributes in which attention keeps the number of heads and their width together."""
    for name, value in vars(module).items():
        if name in _HEADS and value == before:
            setattr(module, name, now)
        elif name in _WIDTHS and value == before * features:
            setattr(module, name, now * features)


def immovable(sites: Sites) -> dict[str, str]:
    """Of tensors whose module does not let them change their size, the reason."""
    reasons = {
        name: [reason for module, leaf in own if (reason := _fixed(module, leaf))] for name, own in sites.items()
    }
    return {name: found[0] for name, found in reasons.items() if found}


def _fixed(module: nn.Module, leaf: str) -> str | None:
    kind = type(module).__name__
    if any(module._forward_hooks) or any(module._forward_pre_hooks) or module._backward_hooks:
        return f"its {kind} has hooks, which may count on its size; remove them"
    if isinstance(module, nn.MultiheadAttention | NonDynamicallyQuantizableLinear):  # the latter is its out_proj
        return "a MultiheadAttention has one width for its input and for its heads together, so no part of it can go"
    known = isinstance(module, nn.Linear | _ConvNd | _BatchNorm | nn.Embedding | nn.PReLU) or kind == "Conv1D"
    if known and leaf in ("weight", "bias", "running_mean", "running_var"):
        return None
    return f"it is not known how {kind} keeps the size of its {leaf}"
