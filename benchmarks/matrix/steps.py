"""The rows of the matrix about the optimizer step: which optimizers, how gradients come about, precision."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .cases import NotApplicableError
from .libraries import Library
from .training import REACHED, ClaimError, Optimizers, Row, Training, adamw, habit

ROWS: list[Row] = []


@habit(ROWS, "gradient accumulation", "three backward passes to each optimizer step")
def accumulation(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library)
    for _ in range(REACHED + 2):
        for micro in range(3):
            training.salt = micro
            torch.autograd.backward(training.loss(training.batch()) / 3)
        training.update()
        if training.steps >= REACHED:
            training.check_zeros()
    training.finish()


@habit(ROWS, "clipping", "`clip_grad_norm_` sees the sparse model's gradient: none for a removed weight")
def clipping(library: type[Library]) -> None:
    """Raises what is wrong."""
    if library.learned:
        raise NotApplicableError("no weight is zero before evaluation: noise and gates are drawn at each step")
    training = Training(library).run(REACHED)
    torch.autograd.backward(training.loss(training.batch()))
    gradients = [p.grad for p in training.model.parameters() if p.grad is not None]
    dense = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    kept = sum(int((w != 0).sum()) for w in training.library.weights(training.model).values())
    seen = sum(int((g != 0).sum()) for g in gradients if g.dim() > 1)
    if seen > kept:
        raise ClaimError(f"{seen} weights have a gradient where {kept} are kept")
    norm = nn.utils.clip_grad_norm_(training.model.parameters(), 1e9)
    if not torch.isclose(norm, dense):
        raise ClaimError(f"the norm is {norm:.4g}, expected {dense:.4g}")
    training.update()
    training.check_zeros()


def _groups(model: nn.Module) -> list[Optimizer]:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() < 2]
    return [torch.optim.AdamW([{"params": matrices, "lr": 3e-2}, {"params": rest, "weight_decay": 0.0}], lr=1e-2)]


def _muon(model: nn.Module) -> list[Optimizer]:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() < 2]
    return [torch.optim.Muon(matrices, lr=1e-2), torch.optim.AdamW(rest, lr=1e-2)]


def _two(model: nn.Module) -> list[Optimizer]:
    first = [p for name, p in model.named_parameters() if name.startswith("fc1")]
    second = [p for name, p in model.named_parameters() if not name.startswith("fc1")]
    return [torch.optim.SGD(first, lr=1e-2, momentum=0.9), torch.optim.Adam(second, lr=1e-2)]


def only(optimizer: Callable[..., Optimizer], model: nn.Module) -> Sequence[Optimizer]:
    """One optimizer of all parameters."""
    return [optimizer(model.parameters())]


SGD = partial(torch.optim.SGD, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=1e-2)
OPTIMIZERS: dict[str, Optimizers] = {
    "SGD with momentum": partial(only, SGD),
    "Adam": partial(only, partial(torch.optim.Adam, lr=1e-2)),
    "AdamW": adamw,
    "Adafactor": partial(only, partial(torch.optim.Adafactor, lr=1e-2)),
    "NAdam": partial(only, partial(torch.optim.NAdam, lr=1e-2)),
    "Muon and AdamW": _muon,
    "several parameter groups": _groups,
    "several optimizers": _two,
}


def _optimizer(title: str, library: type[Library]) -> None:
    Training(library, optimizers=OPTIMIZERS[title]).run().finish()


for _title in OPTIMIZERS:
    _claim = "the zeros are there after each step, and in the finished model"
    ROWS.append(Row(_title, "habit", _claim, partial(_optimizer, _title)))


@habit(ROWS, "LBFGS", "`step(closure)` evaluates the loss several times; the zeros are there after each step")
def lbfgs(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library, optimizers=partial(only, partial(torch.optim.LBFGS, lr=0.1, max_iter=3)))

    def closure() -> Tensor:
        training.optimizers[0].zero_grad()
        loss = training.loss(training.batch())
        torch.autograd.backward(loss)
        return loss

    for _ in range(REACHED + 1):
        training.optimizers[0].step(closure)  # type: ignore[arg-type]  # torch declares that a loss is a float
        training.after_update()
        if training.steps >= REACHED:
            training.check_zeros()
    training.finish()


@habit(ROWS, "GradScaler", "steps that the scaler skips for an infinite gradient do no harm")
def grad_scaler(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = training.optimizers[0]
    for attempt in range(REACHED + 4):
        loss = training.loss(training.batch())
        skipped = attempt in (1, 6)
        torch.autograd.backward(scaler.scale(loss * float("inf") if skipped else loss))
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if not skipped:
            training.after_update()
        if training.steps >= REACHED:
            training.check_zeros()
    training.finish()


@habit(ROWS, "bfloat16 autocast", "the forward runs in bfloat16, the parameters stay float32 and sparse")
def autocast(library: type[Library]) -> None:
    """Raises what is wrong."""
    training = Training(library)
    for _ in range(REACHED + 2):
        with torch.autocast("cpu", torch.bfloat16):
            inputs = training.batch()
            if training.model(*inputs).dtype != torch.bfloat16:
                raise ClaimError("the output is not bfloat16")
            loss = training.loss(inputs)
        torch.autograd.backward(loss)
        training.update()
        if training.steps >= REACHED:
            training.check_zeros()
    if any(p.dtype != torch.float32 for p in training.model.parameters()):
        raise ClaimError("a parameter is not float32")
    training.finish()
