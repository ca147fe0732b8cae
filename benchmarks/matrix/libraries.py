"""One adapter for each library: how its documentation makes a model sparse in the middle of training."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

import openwork as ow
from openwork.core.technique import Technique

from .cases import Case

Zeros = Literal["none", "stay", "grow"]
"""The zeros that the model brings: none, stay as they are, or stay and more are added."""
RAMP = 3  # steps from the first zeros to the target, where a library has a schedule


class Library:
    """One model in the hands of one library.

    title: the column's; package: of its source, where its refusals are raised; learned: training decides how sparse
    the model becomes, so that there is no target and no zero before the weights are evaluated.
    """

    title: ClassVar[str]
    package: ClassVar[str]
    learned: ClassVar[bool] = False

    def __init__(self, model: nn.Module, case: Case, *, sparsity: float, begin: int, zeros: Zeros) -> None:
        self.model, self.case, self.sparsity, self.begin, self.zeros = model, case, sparsity, begin, zeros

    @classmethod
    def load(cls) -> None:
        """Imports the library. Raises ImportError."""
        importlib.import_module(cls.package)

    def sites(self, model: nn.Module) -> list[tuple[str, nn.Module, str]]:
        """(name, module, attribute) of every weight that is to become sparse."""
        parts = [(name, *name.rpartition(".")[::2]) for name in self.case.weights]
        return [(name, model.get_submodule(prefix), leaf) for name, prefix, leaf in parts]

    def attach(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Tells the library about the optimizers, if it needs to know."""

    def penalty(self) -> Tensor | float:
        """What the library adds to the loss."""
        return 0.0

    def after_step(self, step: int) -> None:
        """What the training loop does for the library after optimizer step ``step`` (from 1)."""

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights by name, as evaluation of ``model``, the training model or a copy of it, must use them."""
        raise NotImplementedError

    def stated(self) -> dict[str, float]:
        """The sparsity of each weight that the library itself states; by default it states none."""
        return {}

    def finish(self) -> nn.Module:
        """The plain model with zeros."""
        raise NotImplementedError

    def plain_state(self) -> dict[str, Tensor]:
        """What is documented for a dense state_dict while training goes on; the model's own where nothing is."""
        return self.model.state_dict()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the states of model and optimizers."""
        return {}

    def before_restore(self, state: dict[str, Any]) -> None:
        """Gives a fresh model the structure of the checkpoint's."""

    def restore_model(self, state: dict[str, Tensor]) -> None:
        """Loads the model's part of the checkpoint."""
        self.model.load_state_dict(state)

    def after_restore(self, state: dict[str, Any]) -> None:
        """Takes over ``state`` once the model and the optimizers have theirs."""


class Openwork(Library):
    """sparsify, attach, penalty, finalize."""

    package = "openwork"

    def __init__(self, model: nn.Module, case: Case, *, sparsity: float, begin: int, zeros: Zeros) -> None:
        super().__init__(model, case, sparsity=sparsity, begin=begin, zeros=zeros)
        named = ow.matching(*case.weights, among=ow.all_parameters)
        self.select = named if case.by_name else ow.weight_matrices
        self.sparsifier = ow.sparsify(model, self.technique(), select=self.select, keep_zeros=zeros != "none")

    def technique(self) -> Technique:
        """With its settings."""
        raise NotImplementedError

    def attach(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """All of them at once."""
        self.sparsifier.attach(*optimizers)

    def penalty(self) -> Tensor | float:
        """Zero for masks."""
        return self.sparsifier.penalty()

    def stated(self) -> dict[str, float]:
        """Of each selected weight."""
        return self.sparsifier.layer_sparsity()

    def finish(self) -> nn.Module:
        """The model itself."""
        return self.sparsifier.finalize()

    def state(self) -> dict[str, Any]:
        """Masks, hidden values, steps."""
        return self.sparsifier.state_dict()

    def after_restore(self, state: dict[str, Any]) -> None:
        """The sparsifier's state."""
        self.sparsifier.load_state_dict(state)


class OpenworkMasks(Openwork):
    """Gradual magnitude pruning."""

    title = "openwork masks"

    def technique(self) -> Technique:
        """A cubic ramp."""
        if self.zeros == "stay":
            return ow.GradualMagnitude(ow.Constant(0.0))
        return ow.GradualMagnitude(ow.Cubic(self.sparsity, begin=self.begin, end=self.begin + RAMP, every=1))

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The parameters themselves."""
        return {name: module.get_parameter(leaf) for name, module, leaf in self.sites(model)}


class OpenworkLearned(Openwork):
    """Variational dropout and L0."""

    learned = True

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """What `finalize` would write."""
        sparsifier = self.sparsifier
        if model is not sparsifier.model:  # a copy, which no sparsifier knows: its state says everything
            twin = self.case.make()
            sparsifier = ow.sparsify(twin, self.technique(), select=self.select)
            twin.load_state_dict(model.state_dict())
        plain = sparsifier.finalized_copy()
        return {name: plain.get_parameter(name) for name in self.case.weights}

    def plain_state(self) -> dict[str, Tensor]:
        """The training state holds what is learned besides the weights, so a plain one is asked for."""
        return self.sparsifier.finalized_copy().state_dict()


class OpenworkVariationalDropout(OpenworkLearned):
    """Starts with so much noise that some weights are removed already."""

    title = "openwork variational dropout"

    def technique(self) -> Technique:
        """Weights below exp((-1 - 3) / 2) = 0.135 start as zeros."""
        return ow.VariationalDropout(ow.Constant(1e-3), log_sigma2=-1.0)


class OpenworkL0(OpenworkLearned):
    """Starts with gates of which half are closed."""

    title = "openwork L0"

    def technique(self) -> Technique:
        """Log alpha is drawn around log(1/11), below which evaluation closes a gate."""
        return ow.L0(ow.Constant(1e-3), dropout=11 / 12)


LIBRARIES: dict[str, type[Library]] = {
    "openwork": OpenworkMasks,
    "openwork-vd": OpenworkVariationalDropout,
    "openwork-l0": OpenworkL0,
}


def source_of(package: str) -> Path:
    """The folder or file that holds a package's code."""
    file = importlib.import_module(package).__file__
    assert file is not None
    path = Path(file)
    return path.parent if path.name == "__init__.py" else path
