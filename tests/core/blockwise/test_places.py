"""Values go to a device with all tensors in them, whatever holds these."""

from collections import OrderedDict, defaultdict, namedtuple

import pytest
import torch

from openwork.core.masks.blockwise.walk import to

META = torch.device("meta")
Pair = namedtuple("Pair", ["first", "second"])
HOLDERS = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x, 1),
    "dict in a list": lambda x: [{"x": x}],
    "ordered dict": lambda x: OrderedDict(x=x, y=2),
    "default dict": lambda x: defaultdict(list, x=x),
    "named tuple": lambda x: Pair(x, None),
    "named tuple in an ordered dict": lambda x: OrderedDict(pair=Pair(x, 1)),
}


def tensor_in(value):
    while not isinstance(value, torch.Tensor):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_holds_a_tensor_keeps_its_type_when_that_moves(holder):
    value = HOLDERS[holder](torch.ones(2))
    moved = to(value, META)
    assert type(moved) is type(value)
    assert tensor_in(moved).device == META
    assert tensor_in(value).device.type == "cpu"
