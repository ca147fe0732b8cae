"""Ways to compute a layer: what each kind of kernel declares, and what a converted layer offers."""

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor, nn


class Alternative(Protocol):
    """One way to compute a layer whose weight has zeros. A value without state."""

    name: str
    """What reports call it: the kernel that runs."""

    def misfit(self, layer: nn.Module, x: Tensor) -> str | None:
        """Why this way cannot compute ``layer`` on ``x`` here (kind, dtype, device, pattern), None where it can.

        It looks at types, shapes and at most at which weights are zero, and converts nothing.

        Args:
            layer: A module with a ``weight``, in evaluation mode.
            x: An input of the shape, dtype and device that the model gives it.
        """

    def convert(self, layer: nn.Module) -> "Converted":
        """A module with the outputs of ``layer`` in evaluation. ``layer`` stays as it is.

        Args:
            layer: One for which `misfit` returned None.
        """


class Converted(nn.Module, ABC):
    """A layer that holds its weight in another form; it is called like the layer that it replaces.

    What a kernel reads are buffers, so that ``to``, ``state_dict`` and ``deepcopy`` work. It is for inference: the
    weights are no parameters and get no gradient; the input's gradient is not computed either, and asking the layers of
    openwork for it is an error.
    """

    @abstractmethod
    def dense(self) -> nn.Module:
        """The layer that was converted, in evaluation mode: the same weights bit for bit, but for the sign of zeros."""

    @property
    def nbytes(self) -> int:
        """Bytes of all that the module holds."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.buffers())
