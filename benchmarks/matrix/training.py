"""A short training with one library, and the claims that are checked on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .cases import NET, Case, NotApplicableError
from .libraries import RAMP, Library, Zeros

Check = Callable[[type[Library]], None]
Optimizers = Callable[[nn.Module], Sequence[torch.optim.Optimizer]]
SPARSITY = 0.75
BEGIN = 2
REACHED = BEGIN + RAMP  # from this step on the target must hold
STEPS = REACHED + 3


class ClaimError(Exception):
    """A claim does not hold; the text says which."""


@dataclass(frozen=True)
class Row:
    """One line of the matrix.

    claim: what the check verifies, in a sentence; check: raises what is wrong; processes: how many run it together;
    only: the key of the one library that it is for, "" for all.
    """

    title: str
    kind: Literal["layer", "habit", "optimizer"]
    claim: str
    check: Check
    processes: int = 1
    only: str = ""


def habit(rows: list[Row], title: str, claim: str) -> Callable[[Check], Check]:
    """Lists a check among ``rows``."""

    def add(check: Check) -> Check:
        rows.append(Row(title, "habit", claim, check))
        return check

    return add


def adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    """AdamW: its momentum moves a weight whose gradient is zero."""
    return [torch.optim.AdamW(model.parameters(), lr=1e-2)]


class Training:
    """A model, a library and optimizers in training; every batch and noise is drawn from (seed, step)."""

    def __init__(
        self,
        library: type[Library],
        case: Case = NET,
        *,
        model: nn.Module | None = None,
        optimizers: Optimizers = adamw,
        wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
        sparsity: float = SPARSITY,
        begin: int = BEGIN,
        zeros: Zeros = "none",
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        model = case.make() if model is None else model
        self.case, self.steps, self.salt = case, 0, 0
        self.library = library(model, case, sparsity=sparsity, begin=begin, zeros=zeros)
        self.model = wrap(self.library.model)
        self.optimizers = list(optimizers(self.model))
        self.library.attach(self.optimizers)

    def batch(self) -> tuple[Tensor, ...]:
        """The inputs of the next step, in the model's dtype."""
        torch.manual_seed(1000 * self.salt + self.steps + 1)
        dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in self.case.inputs())

    def loss(self, inputs: tuple[Tensor, ...], model: Callable[..., Tensor] | None = None) -> Tensor:
        """A loss that every model has, with the library's penalty."""
        output: Tensor = (self.model if model is None else model)(*inputs)
        return (output.float() - 1).square().mean() + self.library.penalty()

    def update(self) -> None:
        """An optimizer step on the gradients that are there."""
        for optimizer in self.optimizers:
            optimizer.step()
        self.after_update()

    def after_update(self) -> None:
        """The part of a training step that follows the optimizers' steps."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.steps += 1
        self.library.after_step(self.steps)

    def step(self) -> None:
        """One training step."""
        loss = self.loss(self.batch())
        if not loss.isfinite():
            raise ClaimError(f"the loss is {loss.item()} at step {self.steps}")
        torch.autograd.backward(loss)
        self.update()

    def run(self, steps: int = STEPS) -> "Training":
        """Itself, so many steps later; the zeros were there after each step from the target on."""
        for _ in range(steps):
            self.step()
            if self.steps >= REACHED:
                self.check_zeros()
        return self

    def check_zeros(self, weights: dict[str, Tensor] | None = None) -> None:
        """Raises ClaimError unless every weight is as sparse as it should be."""
        weights = self.library.weights(self.library.model) if weights is None else weights
        for name, weight in weights.items():
            check_count(name, weight, None if self.library.learned else self.library.sparsity, self.steps)

    def output(self, model: nn.Module, inputs: tuple[Tensor, ...] | None = None) -> Tensor:
        """The output of ``model`` in evaluation."""
        training = model.training
        with torch.no_grad():
            output: Tensor = model.eval()(*(self.batch() if inputs is None else inputs))
        model.train(training)
        return output

    def check_same(self, one: nn.Module, other: nn.Module) -> None:
        """Raises ClaimError unless both models compute the same in evaluation."""
        first, second = self.output(one), self.output(other)
        if not torch.allclose(first, second, rtol=1e-4, atol=1e-5):
            raise ClaimError(f"the outputs differ by {(first - second).abs().max().item():.2g}")

    def finish(self) -> nn.Module:
        """The plain model, checked: the same output, zeros, and a state_dict that the dense model takes."""
        before = self.output(self.library.model)
        plain = self.library.finish()
        after = self.output(plain)
        if not torch.allclose(before, after, rtol=1e-4, atol=1e-5):
            raise ClaimError(f"the finished model's output differs by {(before - after).abs().max().item():.2g}")
        dense = self.case.make().to(next(plain.parameters()).dtype)
        dense.load_state_dict(plain.state_dict())
        self.check_same(plain, dense)
        self.check_zeros({name: dense.get_parameter(name) for name in self.case.weights})
        return plain


def check_count(name: str, weight: Tensor, target: float | None, step: int) -> None:
    """Raises ClaimError unless ``weight`` has the target's zeros, one more or less; some, where there is no target."""
    if not weight.isfinite().all():
        raise ClaimError(f"{name} is not finite after step {step}")
    zeros, n = int((weight == 0).sum()), weight.numel()
    if target is None and zeros == 0:
        raise ClaimError(f"{name} has no zero among {n} weights after step {step}")
    if target is not None and abs(zeros - target * n) > 1:
        raise ClaimError(f"{name} has {zeros} zeros of {n} after step {step}, expected {target * n:g}")


def needs_target(library: type[Library]) -> None:
    """Raises NotApplicableError for a library whose training decides on the sparsity."""
    if library.learned:
        raise NotApplicableError("the sparsity is learned: there is no target to set")


def sparse_net(sparsity: float) -> nn.Module:
    """A dense library's `Net` whose smallest weights were set to zero by hand."""
    torch.manual_seed(7)
    model = NET.make()
    with torch.no_grad():
        for name in NET.weights:
            weight = model.get_parameter(name)
            k = int(sparsity * weight.numel())
            weight[weight.abs() <= weight.abs().flatten().kthvalue(k).values] = 0
    return model
