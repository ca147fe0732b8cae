"""What a layer that `accelerate` converted offers, and the error of those who would not count its weights."""

from abc import ABC, abstractmethod

from torch import nn


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


def refuse_converted(model: nn.Module) -> None:
    """Raises ValueError for a model with a converted layer, whose weights nobody can count there."""
    for name, module in model.named_modules():
        if isinstance(module, Converted):
            raise ValueError(
                f"accelerate converted {name or 'the model'}, which has no parameters then; pass dense_copy() of what "
                "it returned"
            )
