"""What a mask technique may look at, and what it may gather before it looks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

from openwork.core.layout import Layout
from openwork.core.seeding import seeded_generator, uniform_like

Kept = dict[str, Tensor]
"""What was gathered for one weight, by a name that the technique chooses."""


@dataclass(frozen=True)
class View:
    """All that a technique sees of one weight when its mask is computed. All tensors are sharded like the weight.

    Args:
        name: The weight's name.
        weight: The values, float32 at least, with those under the mask as ``hidden`` remembers them. Do not change
            them.
        evidence: What `Evidence` kept, by name.
        step: Completed optimizer steps.
    """

    name: str
    weight: Tensor
    evidence: Mapping[str, Tensor]
    step: int
    _kept: Tensor  # the mask itself, which the technique must not write to
    _layout: Layout | None
    _seed: int

    @cached_property
    def mask(self) -> Tensor:
        """True for the weights kept until now."""
        return self._kept.clone()

    def uniform(self) -> Tensor:
        """Numbers in [0, 1) of the weight's shape and sharding, which depend on (seed, step, name) alone."""
        return uniform_like(self.weight, seeded_generator(self._seed, self.step, self.name))

    def per_input(self, values: Tensor) -> Tensor:
        """``values``, one for each input of an output, in a shape that broadcasts against the weight.

        Args:
            values: (in,) for a Linear, (in * kernel,) for a convolution, in the order of the rows of `Evidence.input`;
                with another axis in front where the weight holds several matrices, such as those of experts.

        Raises:
            ValueError: If it is not known which axes of the weight its module multiplies.
        """
        matrices, _, *inputs = self._known.shape
        return self.as_stored(values.reshape(matrices, 1, *inputs).expand(self._known.shape))

    def matrices(self, tensor: Tensor) -> Tensor:
        """``tensor``, of the weight's shape, as (matrices, out, in, kernel...), whatever the order of its axes.

        Flattened from its third axis on, a matrix is (out, in * kernel), as the rows of `Evidence.input` are. Where the
        order of the axes allows it, it shares the tensor's memory.

        Args:
            tensor: Of the weight's shape.

        Raises:
            ValueError: If it is not known which axes of the weight its module multiplies.
        """
        return self._known.matrices(tensor)

    def as_stored(self, matrices: Tensor) -> Tensor:
        """The inverse of `matrices`.

        Args:
            matrices: (matrices, out, in, kernel...), or (matrices, out, in * kernel).
        """
        return self._known.as_stored(matrices.reshape(self._known.merged_shape("outputs")), "outputs")

    @property
    def _known(self) -> Layout:
        if self._layout is None:
            raise ValueError(f"the inputs of {self.name} are not known; declare its axes with declare_layout")
        return self._layout


@dataclass(frozen=True)
class Evidence:
    """What a technique gathers from gradients and inputs. An immutable value: its findings are kept beside each weight.

    This class itself keeps the last gradient that it is shown, under the name "gradient".

    Args:
        gradients: When `gradient` is called: "never", "at updates" (at the steps after which masks are recomputed, and
            in calibration where masks are computed before training), "every step", or "every backward" (of the
            calibration, with the gradient of that backward alone). On steps that are evidence gradients stay dense
            until ``optimizer.step()``: code that clips or reads them earlier sees dense ones.
        inputs: Whether `input` is called with the inputs of the calibration.
        returns: What `measure` needs the calibration to return: "nothing", "a loss", or the model's "outputs".

    Raises:
        ValueError: If ``gradients`` or ``returns`` is another word, or neither is the first one.
    """

    gradients: Literal["never", "at updates", "every step", "every backward"] = "never"
    inputs: bool = False
    returns: Literal["nothing", "a loss", "outputs"] = "nothing"

    def __post_init__(self) -> None:
        if self.gradients not in ("never", "at updates", "every step", "every backward"):
            raise ValueError(
                f"gradients must be 'never', 'at updates', 'every step' or 'every backward', got {self.gradients!r}"
            )
        if self.returns not in ("nothing", "a loss", "outputs"):
            raise ValueError(f"returns must be 'nothing', 'a loss' or 'outputs', got {self.returns!r}")
        if self.returns != "nothing" and self.gradients != "never":
            raise ValueError(
                f"gradients={self.gradients!r} are those of a backward(), and returns={self.returns!r} leaves that to "
                "measure; give one of the two"
            )

    @property
    def trains(self) -> bool:
        """Whether gradients of the training are evidence."""
        return self.gradients in ("at updates", "every step")

    @property
    def differentiates(self) -> bool:
        """Whether a calibration needs autograd."""
        return self.gradients != "never" or self.returns != "nothing"

    def begin(self, weight: Tensor) -> Kept:
        """What is kept from the beginning, by name, as part of the sparsifier's state; by default nothing.

        Args:
            weight: The weight as it is in `sparsify`, float32 at least. A kept tensor of its shape is sharded with it.
        """
        return {}

    def gradient(self, kept: Kept, weight: Tensor, gradient: Tensor) -> None:
        """Takes a step's gradient into ``kept``.

        Args:
            kept: What is kept for this weight; change it in place. A new name lasts only until the next update,
                and is refused for "every step": what is summed over steps begins in `begin`. Where several processes
                run, what "every backward" left behind is averaged over them.
            weight: The values, including the hidden ones; float32 at least, as is the gradient.
            gradient: The gradient of the loss of the masked model, of the weight's shape, dense also under the mask:
                accumulated over the step's batches, averaged over the processes and unscaled. Zero where there was
                none.
                Like ``weight`` it is the host's: do not change it, and clone what you keep.
        """
        kept["gradient"] = gradient.clone()

    def input(self, kept: Kept, rows: Tensor) -> None:
        """Takes inputs of the layer into ``kept``; by default nothing.

        What is kept becomes part of the state. Where several processes run, it is averaged over them, and whole
        numbers are rounded. Of layers that have got the same inputs from the beginning, as query, key and value do,
        one is asked, and what it keeps is copied for the others.

        Args:
            kept: What is kept for this weight; change it in place.
            rows: (n, in) for a Linear, (n, in * kernel) for a convolution: one row for each output position; float32
                at least.
        """
        return

    def measure(
        self, model: nn.Module, weights: Mapping[str, Tensor], run: Callable[[], Iterator[Tensor]]
    ) -> Mapping[str, Tensor]:
        """What a calibration shows of each weight, by the weight's name; only where it ``returns`` something.

        A technique finds it in ``View.evidence`` as "measured", until the next update. Where several processes run,
        it is the mean of what each measured.

        Args:
            model: The model, with its zeros. What forward passes change in it is put back afterwards.
            weights: The parameters, to differentiate by, by name. Do not change them.
            run: Runs the calibration, as often as this is called; iterates over what it returned: tensors with a
                graph, each "a loss" finite and of shape ().
        """
        raise NotImplementedError
