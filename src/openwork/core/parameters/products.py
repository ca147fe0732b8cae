"""Operations of layers that know their gradients, so that a technique can say what the backward pass keeps."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from openwork.kernels import products
from openwork.kernels.products import Settings


class Product(ABC):
    """An `Op` that knows its gradients; x, weight and output have one dtype where these are asked for."""

    @abstractmethod
    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output."""

    @abstractmethod
    def gradients(
        self, gradient: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients by ``x`` and by ``weight``, None where it is not needed.

        Args:
            gradient: That by the output.
            x: The layer's input; where the gradient by the weight is not needed, only its shape is looked at.
            weight: The layer's weight; where the gradient by the input is not needed, only its shape is looked at.
            needs: Which gradients are needed.
        """

    def again(self, x: Tensor, weight: Tensor) -> Tensor:
        """The output without a bias, computed anew also where a compiler would rather keep that of the forward pass."""
        return self(x, weight, None)


@dataclass(frozen=True, eq=False)  # compared by Dynamo of torch 2.11 before it has its fields
class Layer(Product):
    """A Linear, a convolution or a transposed convolution.

    Args:
        settings: Those of a convolution.
    """

    settings: Settings = field(default_factory=Settings)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(..., in) -> (..., out), or (N, in, ...) -> (N, out, ...)."""
        return products.product(x, weight, bias, self.settings)

    def gradients(
        self, gradient: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Those of torch."""
        return products.gradients(gradient, x, weight, self.settings, needs)

    def again(self, x: Tensor, weight: Tensor) -> Tensor:
        """As `Product.again`."""
        if torch.compiler.is_compiling():
            return products.product_again(x, weight, self.settings)
        return self(x, weight, None)


@dataclass(frozen=True, eq=False)  # compared by Dynamo of torch 2.11 before it has its fields
class Lookup(Product):
    """An Embedding; ids stand for one-hot vectors, and x^2 = x.

    Args:
        padding_idx: The layer's, from 0 on; None where it has none.
        scale_grad_by_freq: The layer's.
    """

    padding_idx: int | None = None
    scale_grad_by_freq: bool = False

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Ids (...) -> (..., embedding_dim)."""
        return F.embedding(x, weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)

    def gradients(
        self, gradient: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """That of the table, dense."""
        padding = -1 if self.padding_idx is None else self.padding_idx
        if not needs[1]:
            return None, None
        return None, torch.ops.aten.embedding_dense_backward(gradient, x, len(weight), padding, self.scale_grad_by_freq)


@dataclass(frozen=True, eq=False)  # compared by Dynamo of torch 2.11 before it has its fields
class Given(Product):
    """The weight itself: rows of a table that have been looked up."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The weight."""
        return weight

    def gradients(
        self, gradient: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """That of the output."""
        return None, gradient


@dataclass(frozen=True, eq=False)  # compared by Dynamo of torch 2.11 before it has its fields
class Casting(Product):
    """A product whose weight is cast to the dtype of x.

    Args:
        product: That product.
    """

    product: Product

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As the product."""
        return self.product(x, weight.to(x.dtype) if x.is_floating_point() else weight, bias)

    def gradients(
        self, gradient: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """As the product."""
        return self.product.gradients(gradient, x, weight, needs)

    def again(self, x: Tensor, weight: Tensor) -> Tensor:
        """As the product."""
        return self.product.again(x, weight)


MATRIX = Layer()
"""The operation of a Linear."""
