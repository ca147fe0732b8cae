"""What a mask technique may look at, and what it may gather before it looks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from openwork.core.layout import output_first
from openwork.core.seeding import seeded_generator, uniform_like
from openwork.core.selection import Weight

Kept = dict[str, Tensor]
"""What was gathered for one weight, by a name of the technique's own."""


@dataclass(frozen=True)
class View:
    """All that a technique sees of one weight when its mask is computed.

    weight: the values, with those under the mask as ``hidden`` remembers them, not to be changed; evidence: what
    `Evidence` kept; step: completed optimizer steps. All tensors are sharded like the weight.
    """

    source: Weight
    weight: Tensor
    kept: Tensor
    """1 for the weights kept until now, 0 for the others, of the weight's dtype."""
    evidence: Mapping[str, Tensor]
    step: int
    seed: int

    @cached_property
    def mask(self) -> Tensor:
        """True for the weights kept until now."""
        return self.kept.bool()

    def uniform(self) -> Tensor:
        """Numbers in [0, 1) of the weight's shape and sharding, which depend on (seed, step, name) alone."""
        return uniform_like(self.weight, seeded_generator(self.seed, self.step, self.source.name))

    def per_input(self, values: Tensor) -> Tensor:
        """``values``, one for each input of an output, in a shape that broadcasts against the weight.

        Args:
            values: (in,) for a Linear, (in * kernel,) for a convolution, in the order of the rows of `Evidence.input`.

        """
        module = self.source.sites[0].module
        shape = output_first(self.weight, module).shape
        return output_first(values.reshape(1, *shape[1:]), module)


@dataclass(frozen=True)
class Evidence:
    """What a technique gathers from gradients and inputs: a value, whose findings are kept beside each weight.

    As it is, it keeps the gradient of the last step under the name "gradient" where gradients are asked for.

    Args:
        gradients: When `gradient` is called: "never", "at updates" (at the steps after which masks are recomputed, and
            in calibration where those before training are), or "every step". On these steps gradients stay dense until
            ``optimizer.step()``, so that whoever clips or reads them before sees dense ones.
        inputs: Whether `input` is called with the inputs of the calibration.

    Raises:
        ValueError: For another word in ``gradients``.

    """

    gradients: Literal["never", "at updates", "every step"] = "never"
    inputs: bool = False

    def __post_init__(self) -> None:
        if self.gradients not in ("never", "at updates", "every step"):
            raise ValueError(f"gradients must be 'never', 'at updates' or 'every step', got {self.gradients!r}")

    def begin(self, weight: Tensor) -> Kept:
        """What is kept from the beginning, part of the sparsifier's state; by default nothing.

        Args:
            weight: As it is in `sparsify`. What has its shape is sharded with it.

        """
        return {}

    def gradient(self, kept: Kept, weight: Tensor, gradient: Tensor) -> None:
        """Takes a step's gradient into ``kept``. What it adds by a new name lasts until the next update only.

        Args:
            kept: What is kept for this weight, to be changed.
            weight: The values, with the hidden ones.
            gradient: That of the masked weights, also where they are masked: accumulated over the step's batches,
                averaged over the processes and unscaled, of the weight's shape. Zero where there was none.
                Like ``weight`` it is the host's: not to be changed, and cloned to be kept.

        """
        kept["gradient"] = gradient.clone()

    def input(self, kept: Kept, rows: Tensor) -> None:
        """Takes inputs of the layer into ``kept``; they are part of the state. Nothing by default.

        Over several processes the mean of what they kept is taken.

        Args:
            kept: What is kept for this weight, to be changed.
            rows: (n, in) for a Linear, (n, in * kernel) for a convolution: one row for each output position.

        """
        return
