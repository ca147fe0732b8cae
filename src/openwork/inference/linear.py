"""Linear layers: which ones they are, and the base of those that hold their weight in another form."""

from abc import abstractmethod

from torch import Tensor, nn

from openwork.core.converted import Converted
from openwork.inference.no_gradient import without_gradient


def is_linear(layer: nn.Module) -> bool:
    """Whether it is torch's Linear, or transformers' Conv1D; subclasses may compute otherwise."""
    kind = type(layer)
    return kind is nn.Linear or (kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils")


def matrix_of(layer: nn.Module) -> Tensor:
    """The weight of a linear layer as (out, in); a Conv1D stores it the other way round."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach() if isinstance(layer, nn.Linear) else weight.detach().t()


class ConvertedLinear(Converted):
    """A linear layer that holds its weight, a matrix (out, in), in another form.

    Args:
        layer: The layer, which stays as it is.
        packed: What the form consists of, by the names of the buffers.
    """

    bias: Tensor | None

    def __init__(self, layer: nn.Module, packed: dict[str, Tensor]) -> None:
        super().__init__()
        self.kind = type(layer)
        self.outputs, self.inputs = matrix_of(layer).shape
        for name, tensor in packed.items():
            self.register_buffer(name, tensor)
        bias = layer.bias
        self.register_buffer("bias", bias.detach() if isinstance(bias, Tensor) else None)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return without_gradient(self.product, x)

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """What the layer computes, by a kernel that knows no gradient."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """The matrix (out, in)."""

    def dense(self) -> nn.Module:
        """The layer that was converted."""
        weight = self.matrix()
        if issubclass(self.kind, nn.Linear):
            layer: nn.Module = self.kind(self.inputs, self.outputs, bias=self.bias is not None, device="meta")
        else:
            layer, weight = self.kind(self.outputs, self.inputs), weight.t().contiguous()
        layer.weight = nn.Parameter(weight)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias)
        return layer.eval()

    def extra_repr(self) -> str:
        """What is printed of it."""
        return f"{self.inputs}, {self.outputs}, bytes={self.nbytes}"
