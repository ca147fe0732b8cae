"""Ways to compute a layer: what each kind of kernel declares."""

from typing import Protocol

from torch import Tensor, nn

from openwork.core.converted import Converted


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

    def convert(self, layer: nn.Module) -> Converted:
        """A module with the outputs of ``layer`` in evaluation. ``layer`` stays as it is.

        Args:
            layer: One for which `misfit` returned None.
        """
