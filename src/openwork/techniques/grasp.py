"""GraSP: Wang, Zhang & Grosse 2020, arXiv 2002.07376, section 3: pruning at initialisation preserves gradient flow.

Without w the squared norm of the gradient g changes by -2 w (Hg), H being the Hessian. Weights without which it would
grow, or fall least, are removed: those with the largest S = -w (Hg).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.masks.allocations import Allocation, GlobalRanking
from openwork.core.masks.evidence import Evidence, View
from openwork.core.masks.measured import gradients
from openwork.core.masks.technique import Hidden, MaskTechnique
from openwork.core.precision import exact

Run = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class HessianGradients(Evidence):
    """Hg, of the sum of all losses that the calibration returns, in two passes over them.

    Both draw the same numbers of torch's generators, so that dropout and the order of a shuffled loader are the same.

    Args:
        temperature: What the model's outputs are divided by in both.
    """

    temperature: float = 1.0

    def measure(self, model: nn.Module, weights: Mapping[str, Tensor], run: Run) -> Mapping[str, Tensor]:
        """The gradient of g0 . g by the weights, where g0 is the value of g."""
        sums = [torch.zeros_like(exact(weight), requires_grad=False) for weight in weights.values()]
        products = [torch.zeros_like(one) for one in sums]
        devices = {weight.get_device() for weight in weights.values() if weight.is_cuda}
        with _divided(model, self.temperature):
            with torch.random.fork_rng(devices):
                for loss in run():
                    for total, one in zip(sums, gradients(loss, weights), strict=True):
                        total += one
            for loss in run():
                pairs = zip(sums, gradients(loss, weights, graph=True), strict=True)
                alignment = sum(((a * b).sum() for a, b in pairs), torch.zeros((), device="cpu"))
                if alignment.requires_grad:  # a loss that is linear in all weights has no curvature
                    found = torch.autograd.grad(alignment, list(weights.values()), materialize_grads=True)
                    for total, one in zip(products, found, strict=True):
                        total += one
        return dict(zip(weights, products, strict=True))


@dataclass(frozen=True)
class GraSP(MaskTechnique):
    """Removes the weights with the largest -w (Hg), once before training.

    ``GraSP(OneShot(0.9))`` in ``sparsify(..., calibrate=run)``, where ``run(model)`` returns the loss of a batch with
    some examples of each class, or yields those of several batches, without ``backward()``. It is called twice, and
    must compute the same. The loss must be twice differentiable.

    Args:
        allocation: How the sparsity is spread over the tensors, by default by one ranking over all of them.
        temperature: The model's outputs, which must be the logits, are divided by it in calibration, so that softmax is
            near to uniform; 1 leaves outputs of any kind alone.
        rounds: How often masks are chosen; in the paper once.

    Raises:
        ValueError: Unless the temperature is above 0.
    """

    allocation: Allocation = field(default=GlobalRanking(), kw_only=True)
    temperature: float = field(default=200.0, kw_only=True)
    rounds: int = field(default=1, kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0, got {self.temperature}; 1 changes nothing")

    @property
    def evidence(self) -> Evidence:
        """Hg."""
        return HessianGradients(returns="a loss", temperature=self.temperature)

    def scores(self, view: View) -> Tensor:
        """-S = w (Hg), since the smallest S stay; -inf for removed weights."""
        return torch.where(view.mask, view.weight * view.evidence["measured"], -math.inf)


@contextmanager
def _divided(model: nn.Module, temperature: float) -> Iterator[None]:
    """Divides what the model returns by the temperature, inside."""
    divided = 0

    def divide(module: nn.Module, args: Any, output: Any) -> Tensor:
        nonlocal divided
        divided += 1
        if not isinstance(output, Tensor):
            raise TypeError(
                f"GraSP divides the model's outputs by its temperature {temperature:g}, and these are a "
                f"{type(output).__name__}; divide the logits in the loss, and pass temperature=1"
            )
        return output / temperature

    hook = model.register_forward_hook(divide) if temperature != 1 else None
    try:
        yield
    finally:
        if hook:
            hook.remove()
    if hook and not divided:
        raise ValueError("GraSP divides the model's outputs, and the calibration never called the model; call model(x)")
