"""`shrink`, which removes dead units for good."""

from typing import Any

from torch import nn

from openwork.core.chosen import check_model
from openwork.core.converted import refuse_converted
from openwork.core.copies import copied_model
from openwork.core.snapshot import same_generators, snapshot
from openwork.inference.shrink.check import check_finalized
from openwork.inference.shrink.shrunk import Shrunk


def shrink(model: nn.Module, example: Any) -> Shrunk:
    """A smaller dense copy of ``model`` with the same outputs: units of zeros are removed for good.

    A unit is a feature, filter or attention head with all that must agree with it: what is added to it, its batch norm,
    its places in a flattened map. It goes if nobody reads it, as all weights for it are zero, or if its value is a
    constant, as its own weights are all zero; the constant then moves into the next layer's bias or the mean of the
    batch norm behind it, or, where zeros surround the map, into the weights of one constant unit that stays. Where the
    operations on the example do not prove that a unit may go, it stays, and the report says why.

    The copy has plain modules, and the same keys with smaller shapes. It computes what ``model`` does in evaluation
    mode; it can be trained on, saved, exported and compiled, and takes other batch sizes than the example's. ``model``
    stays as it is, and so do optimizers that hold its parameters.

    Args:
        model: A finalized model.
        example: Its input: a tuple holds several arguments, a mapping keyword arguments.

    Returns:
        The copy as ``model``, and what was removed, and what was kept in spite of zeros; prints as a table.

    Raises:
        TypeError: If ``model`` is no module, or wraps one.
        ValueError: If it is still being sparsified or is accelerated, the example does not fit, or `torch.export`
            cannot follow the model, as where it decides by values.
    """
    check_model(model)
    check_finalized(model)
    refuse_converted(model)
    from openwork.inference.shrink.smaller import compare, named_tensors, smaller  # not before it is called: 20 modules
    from openwork.inference.shrink.trace import outputs, trace

    dense = copied_model(model).eval()
    with same_generators(dense):  # forward passes may draw random numbers
        expected = outputs(dense, example)
        traced = trace(dense, example).with_one_name(named_tensors(dense)[0])
        small, decision, far = smaller(model, example, traced, expected)
        unchanged = snapshot(small)
        found = compare(dense, small, decision, far, example)
        unchanged()
    for own, given in zip(small.modules(), model.modules(), strict=True):
        own.training = given.training
    return found
