"""Modules with random weights as plain ones again, with the weights of evaluation."""

from collections.abc import Collection

import torch
from torch import nn

from openwork.core.copies import MAKE_PLAIN
from openwork.core.ownership import RANDOM
from openwork.core.parameters.layers import NOISE_SEED, RandomWeight, deterministic
from openwork.core.parameters.switch import plain_of, switched
from openwork.core.parameters.weight import Learned, ReparameterizedWeight
from openwork.core.sharded import local


@torch.no_grad()
def make_plain(model: nn.Module, only: Collection[ReparameterizedWeight] | None = None) -> None:
    """Gives random weights of ``model`` the values of evaluation, and their modules the plain classes, in place.

    Args:
        model: The model.
        only: The distributions whose weights become plain, where another sparsifier's stay random; by default all.
    """
    ids = None if only is None else {id(each) for each in only}
    written: set[int] = set()
    for module in model.modules():
        random: dict[str, RandomWeight] = module.__dict__.get(RANDOM, {})
        own = {leaf: each.distribution for leaf, each in random.items() if ids is None or id(each.distribution) in ids}
        for leaf, distribution in own.items():
            parameter = module._parameters[leaf]
            assert parameter is not None
            if id(parameter) not in written:  # L0 would multiply a tied weight by its gate twice
                rows = local(parameter)
                rows.copy_(deterministic(distribution, rows) + 0.0)  # no -0.0
                written.add(id(parameter))
    for module in [*model.modules()]:
        if RANDOM in module.__dict__:
            _switch_back(module, ids)


def _switch_back(module: nn.Module, ids: set[int] | None) -> None:
    """Removes what a module learns besides the weights that are plain now, and gives it a class without them."""
    random: dict[str, RandomWeight] = module.__dict__[RANDOM]
    kept = {} if ids is None else {leaf: each for leaf, each in random.items() if id(each.distribution) not in ids}
    if len(kept) == len(random):
        return
    for name in [name for name, child in module._modules.items() if isinstance(child, Learned)]:
        child = module._modules[name]
        assert child is not None
        for leaf in random.keys() - kept.keys():
            child._modules.pop(leaf, None)
        if not child._modules:
            del module._modules[name]
    kind = plain_of(type(module))
    assert kind is not None
    if kept:
        module.__dict__[RANDOM] = kept
        kind = switched(kind, tuple(kept))
    else:
        for own in (RANDOM, NOISE_SEED):
            module.__dict__.pop(own, None)
    module.__class__ = kind


MAKE_PLAIN.append(make_plain)
