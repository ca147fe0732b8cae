"""Reparameterising: layers whose weight is a random variable; the dense parameter stays and is its mean.

A layer is an operation linear in its weight, ``op(x, weight, bias)``. Its class is switched in place, the module object
and its ``state_dict`` keys stay, and everything new hangs on one submodule, ``layer.reparam``.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openwork.core.selection import Weight
from openwork.core.technique import Op, Reparameterization, ReparameterizedWeight
from openwork.core.threshold import seeded_generator


def _forward(layer: nn.Module, op: Op, x: Tensor, bias: Tensor | None) -> Tensor:
    reparam, weight = layer.reparam, layer.weight
    if layer.training:
        return reparam(op, x, weight, bias)  # type: ignore[no-any-return,operator]  # nn.Module attributes are untyped
    return op(x, reparam.effective(weight), bias)  # type: ignore[operator,union-attr]


class ReparameterizedLinear(nn.Linear):
    """A Linear whose weight is a random variable."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in) -> (..., out)."""
        return _forward(self, F.linear, x, self.bias)


class ReparameterizedConv1d(nn.Conv1d):
    """A Conv1d whose weight is a random variable."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, in, L) -> (N, out, L')."""
        return _forward(self, self._conv_forward, x, self.bias)


class ReparameterizedConv2d(nn.Conv2d):
    """A Conv2d whose weight is a random variable."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, in, H, W) -> (N, out, H', W')."""
        return _forward(self, self._conv_forward, x, self.bias)


class ReparameterizedConv3d(nn.Conv3d):
    """A Conv3d whose weight is a random variable."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, in, D, H, W) -> (N, out, D', H', W')."""
        return _forward(self, self._conv_forward, x, self.bias)


class ReparameterizedEmbedding(nn.Embedding):
    """An Embedding whose weight is a random variable; integer ids stand for one-hot vectors."""

    def forward(self, x: Tensor) -> Tensor:
        """x: integer ids of any shape -> (*x.shape, embedding_dim)."""
        return _forward(self, self._lookup, x, None)

    def _lookup(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.embedding(x, weight, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq)


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: ReparameterizedLinear,
    nn.Conv1d: ReparameterizedConv1d,
    nn.Conv2d: ReparameterizedConv2d,
    nn.Conv3d: ReparameterizedConv3d,
    nn.Embedding: ReparameterizedEmbedding,
}
_PLAIN = {reparameterized: plain for plain, reparameterized in _CLASSES.items()}


class Reparameterizing:
    """The distributions of one model's selected weights, and the penalty that they add to the loss."""

    def __init__(self, technique: Reparameterization, weights: list[Weight], seed: int) -> None:
        for weight in weights:
            _check(weight)
        self.technique = technique
        self.weights = weights
        self.distributions: list[ReparameterizedWeight] = []
        for weight in weights:
            generator = seeded_generator(seed, 0, weight.name)
            distribution = technique.distribution(weight.parameter.detach(), generator)
            self.distributions.append(distribution)
            for site in weight.sites:
                site.module.__class__ = _CLASSES[type(site.module)]
                site.module.add_module("reparam", distribution)
        # A tensor, so that a compiled penalty does not see a new constant at each step.
        self._coefficient = torch.tensor(technique.coefficient(0), device=weights[0].parameter.device)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the distributions learn besides the weights, by name."""
        return {
            f"{weight.sites[0].name.rpartition('.')[0]}.reparam.{name}".lstrip("."): parameter
            for weight, distribution in zip(self.weights, self.distributions, strict=True)
            for name, parameter in distribution.named_parameters()
        }

    def zeros(self) -> dict[str, int]:
        """The number of zeros among the deterministic weights, by name."""
        with torch.no_grad():
            return {
                w.name: int((d.effective(w.parameter) == 0).sum())
                for w, d in zip(self.weights, self.distributions, strict=True)
            }

    def penalty(self) -> Tensor:
        """coefficient(step) times the sum of the distributions' penalties, shape (); tied weights count once."""
        total = torch.stack(
            [d.penalty(w.parameter) for w, d in zip(self.weights, self.distributions, strict=True)]
        ).sum()
        return self._coefficient.to(total.device) * total

    def after_step(self, step: int) -> None:
        """Moves the penalty's coefficient on."""
        self._coefficient.fill_(self.technique.coefficient(step))

    def finalize(self, model: nn.Module, *, in_place: bool) -> nn.Module:
        """The model, or a copy of it, of plain modules whose weights are the deterministic ones."""
        if not in_place:
            model = copy.deepcopy(model)
        layers = [module for module in model.modules() if type(module) in _PLAIN]
        written: set[int] = set()
        for layer in layers:
            weight = layer.weight
            assert isinstance(weight, nn.Parameter)
            assert isinstance(layer.reparam, ReparameterizedWeight)
            if id(weight) not in written:  # L0 would multiply a tied weight by its gate twice
                with torch.no_grad():
                    weight.copy_(layer.reparam.effective(weight))
                written.add(id(weight))
        for layer in layers:
            del layer.reparam
            layer.__class__ = _PLAIN[type(layer)]
        return model

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what is learned is in the model's own state."""
        return {}


def _check(weight: Weight) -> None:
    for site in weight.sites:
        kind = type(site.module)
        if kind not in _CLASSES or site.leaf != "weight":
            supported = ", ".join(plain.__name__ for plain in _CLASSES)
            raise ValueError(
                f"{site.name} of {kind.__name__} cannot be a random variable: only the weight of {supported} can; "
                f"leave it out with select=excluding({site.name!r})"
            )
        if isinstance(site.module, nn.Embedding) and (site.module.max_norm or site.module.sparse):
            raise ValueError(
                f"{site.name}: an Embedding with max_norm or sparse gradients cannot be a random variable; "
                f"leave it out with select=excluding({site.name!r})"
            )
