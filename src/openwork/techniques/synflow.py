"""SynFlow: Tanaka, Kunin, Yamins & Ganguli 2020, arXiv 2006.05467, section 6: masks at initialisation without data.

R = 1^T |W_L| ... |W_1| 1 flows through a network of absolute weights from inputs of 1 to the sum of its outputs, and
|w| dR/d|w| of it through w. A single ranking would empty whole layers; many rounds do not.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from openwork.core.masks.allocations import Allocation, GlobalRanking
from openwork.core.masks.evidence import Evidence, View
from openwork.core.masks.technique import Hidden, MaskTechnique
from openwork.core.snapshot import computing_with

Run = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Flow(Evidence):
    """|w| dR/d|w| / R, float64: the part of the flow that goes through each weight.

    Of 220 layers of 512 units R is more than float64 holds. So inputs and additive terms are scaled by a power of 2,
    and the gradient by another, which changes no digit: R may have 570 of them.
    """

    def measure(self, model: nn.Module, weights: Mapping[str, Tensor], run: Run) -> Mapping[str, Tensor]:
        """One pass forward and backward in evaluation mode, after one that shows how large R is."""
        model.eval()
        with torch.no_grad():
            flow = _flow(model, run)
            power = math.frexp(flow)[1] if math.isfinite(flow) else 900 + math.frexp(_flow(model, run, 2.0**-900))[1]
        scale = 2.0 ** -(power // 2)
        with _ones(model, scale):
            total = sum((output.sum() for output in run()), torch.zeros((), device="cpu")) * scale
            parts = torch.autograd.grad(total, list(weights.values()), materialize_grads=True)
            most = total.detach().abs().clamp(min=torch.finfo(torch.float64).tiny)  # 0 where no path is left
            found = {w: part * weights[w].detach() / most for w, part in zip(weights, parts, strict=True)}
        if not total.isfinite():
            raise ValueError(
                "SynFlow's flow has more digits than float64 reaches; give the first layers smaller weights"
            )
        return found


@dataclass(frozen=True)
class SynFlow(MaskTechnique):
    """Keeps the weights through which most flows: once before training, in many rounds, and without data.

    ``SynFlow(OneShot(0.9))`` in ``sparsify(..., calibrate=lambda model: model(x))``. Of ``x`` only the shape matters,
    since all floating-point inputs are replaced by 1; one example will do. Batch norms are those of evaluation mode,
    with absolute values. Attention, layer norms and saturating activations are refused.

    Args:
        allocation: How the sparsity is spread over the tensors, by default by one ranking over all of them.
        rounds: How often scores are computed and weights removed, the same fraction of what is left each time.
    """

    evidence: ClassVar[Evidence] = Flow(returns="outputs")

    allocation: Allocation = field(default=GlobalRanking(), kw_only=True)
    rounds: int = field(default=100, kw_only=True)
    hidden: Hidden = field(default="lost", init=False, repr=False)

    def scores(self, view: View) -> Tensor:
        """|w| dR/d|w| / R, -inf for removed weights."""
        return torch.where(view.mask, view.evidence["measured"], -math.inf)


def _ones(model: nn.Module, scale: float) -> ExitStack:
    """Lets the model compute with absolute weights in float64, and with ``scale`` in the place of all inputs."""

    def absolute(name: str, values: Tensor) -> Tensor:
        return values.abs().double() * (scale if name.endswith(("bias", "running_mean")) else 1.0)

    def ones(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if not any(_real(x) for x in tree_leaves((args, kwargs))):
            raise ValueError("SynFlow replaces inputs by 1, and this model gets no floating-point ones; take SNIP")
        return tree_map(lambda x: torch.full_like(x, scale, dtype=torch.float64) if _real(x) else x, (args, kwargs))

    stack = ExitStack()
    stack.enter_context(computing_with(model, absolute))
    stack.callback(model.register_forward_pre_hook(ones, with_kwargs=True).remove)
    return stack


def _flow(model: nn.Module, run: Run, scale: float = 1.0) -> float:
    """R; refuses a layer whose output does not double where its input does."""
    single: list[list[Tensor]] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        single.append([x.clone() for x in tree_leaves(output) if _real(x)])

    def compare(module: nn.Module, args: Any, output: Any) -> None:
        doubled = [x for x in tree_leaves(output) if _real(x)]
        for one, two in zip(single.pop(0), doubled, strict=True):
            if one.isfinite().all() and not torch.allclose(2 * one, two, rtol=1e-9, atol=0):
                name = next(name for name, each in model.named_modules() if each is module)
                raise ValueError(
                    f"SynFlow has no meaning through {name or 'the model'} ({type(module).__name__}), whose output "
                    "does not grow with its input as that of ReLU does; take SNIP or GraSP instead"
                )

    for hook, factor in ((note, 1.0), (compare, 2.0)):
        with _ones(model, factor * scale) as stack:
            for module in model.modules():
                stack.callback(module.register_forward_hook(hook).remove)
            flow = sum(float(output.sum()) for output in run())
    return flow / 2 / scale


def _real(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
