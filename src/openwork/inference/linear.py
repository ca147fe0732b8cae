"""Which layers are linear, and their weights as matrices."""

from torch import Tensor, nn


def is_linear(layer: nn.Module) -> bool:
    """Whether it is torch's Linear, or transformers' Conv1D; subclasses may compute otherwise."""
    kind = type(layer)
    return kind is nn.Linear or (kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils")


def matrix_of(layer: nn.Module) -> Tensor:
    """The weight of a linear layer as (out, in); a Conv1D stores it the other way round."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach() if isinstance(layer, nn.Linear) else weight.detach().t()
