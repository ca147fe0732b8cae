"""How many steps of training a GPU makes a second when N LeNet-300-100 are trained as one model.

784-300-100-10, batch 100, each model with images of its own, Adam. A step is a CUDA graph: it draws images, gathers
them and trains. "stacked" is `torch.func.vmap` and the fleet's Adam, with products in tf32; "fused" trains the Linear
layers without gradients in memory, with products in bf16; "masks" keep nine weights of ten at zero. Rounds alternate
between the variants.

    python benchmarks/fleet.py [--members 100 1000 4000] [--rounds 20] [--steps 3]
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from raw import add_out, keep
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional as F

from openwork.study.fleet.adam import Adam
from openwork.study.fleet.fused import FusedLinears
from openwork.study.fleet.linear import StraightLinears
from openwork.study.fleet.optimizers import StackedOptimizer
from openwork.study.runs.live import prepare
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import MnistLeNet300100

IMAGES, BATCH, SPARSITY = 60_000, 100, 0.9
VARIANTS: dict[str, dict[str, Any]] = {
    "stacked": {"precision": None, "masked": False},
    "stacked, masks": {"precision": None, "masked": True},
    "fused": {"precision": "bf16", "masked": False},
    "fused, masks": {"precision": "bf16", "masked": True},
    "fused, masks, bf16 moments": {"precision": "bf16", "masked": True, "moments": torch.bfloat16},
    "fused, masks, tf32": {"precision": "tf32", "masked": True},
}
DEVICE = torch.device("cuda")


def step(
    members: int, images: Tensor, *, precision: str | None, masked: bool, moments: torch.dtype = torch.float32
) -> Callable[[], None]:
    """A training step of so many models with random weights.

    Args:
        members: How many.
        images: (images, 784), from which each step draws.
        precision: As `FusedLinears` takes it; None for gradients in memory.
        masked: Whether there are masks.
        moments: As `FusedLinears` takes it.
    """
    live = prepare(Run(MnistLeNet300100(), None, steps=10**9), DEVICE)
    model, shapes = live.model, {name: parameter.shape for name, parameter in live.model.named_parameters()}
    parameters = {
        name: ((torch.rand(members, *shape, device=DEVICE) - 0.5) * 2 / shape[-1] ** 0.5).requires_grad_()
        for name, shape in shapes.items()
    }
    kept = {name: torch.rand_like(each) >= SPARSITY for name, each in parameters.items() if each.dim() > 2 and masked}
    for name, mask in kept.items():
        parameters[name].data *= mask
    optimizer = StackedOptimizer([live], slice(0, members), parameters)
    adam, linears = Adam([optimizer], kept), None
    if precision:
        linears = FusedLinears(model, parameters, adam, precision=precision, moments=moments)
        images = images.bfloat16() if precision == "bf16" else images
    for name in parameters if linears is None else ():
        adam.take(name, parameters[name])
    adam.rate(0.0)
    labels = torch.randint(10, (len(images),), device=DEVICE)
    numbers = torch.zeros(members, BATCH, dtype=torch.int64, device=DEVICE)

    def loss(parameters: Mapping[str, Tensor], x: Tensor, label: Tensor) -> Tensor:
        with StraightLinears() if linears is None else nullcontext():
            return F.cross_entropy(functional_call(model, dict(parameters), (x,)), label)

    def train() -> None:
        numbers.random_(len(images))
        arguments = (parameters, images[numbers], labels[numbers])
        if linears:
            with linears.training():
                losses = vmap(loss)(*arguments)
            torch.autograd.grad(losses.sum(), linears.anchor, allow_unused=True)
            linears.step()
            return
        gradients = torch.autograd.grad(vmap(loss)(*arguments).sum(), list(parameters.values()))
        named = {name: each.contiguous() for name, each in zip(parameters, gradients, strict=True)}
        adam.step(named)

    return train


def captured(train: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            train()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # what the stream's steps took
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        train()

    def replay(train: Callable[[], None] = train) -> None:  # keeps the tensors alive
        graph.replay()

    return replay


def measure(steps: Mapping[str, Callable[[], None]], members: int, rounds: int, count: int) -> dict[str, list[float]]:
    """Run-steps a second of each variant, by round."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    event: Any = partial(torch.cuda.Event, enable_timing=True)
    for number in range(rounds + 1):
        for name, replay in steps.items():
            before, after = event(), event()
            before.record()
            for _ in range(count):
                replay()
            after.record()
            torch.cuda.synchronize()
            if number:
                found[name].append(1000 * members * count / before.elapsed_time(after))
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", nargs="+", type=int, default=[100, 1000, 4000])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3, help="in a round, for 4,000 models; more for fewer")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    add_out(parser)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")  # tf32, where products are not in bf16
    images = torch.randn(IMAGES, 784, device=DEVICE)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, n = {options.rounds}; run-steps a second")
    print(f"{'':34}{'median':>10}{'quartiles':>22}")
    for members in (1, *options.members):
        wanted = ["stacked"] if members == 1 else options.variants
        label = "one by one" if members == 1 else f"{members:,}"
        steps = {name: captured(step(members, images, **VARIANTS[name])) for name in wanted}
        found = measure(steps, members, options.rounds, options.steps * max(1, 4000 // (10 * members)))
        series = {label if members == 1 else f"{label}, {name}": values for name, values in found.items()}
        for name, values in series.items():
            low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
            print(f"{name:34}{middle:10,.0f}{f'{low:,.0f} to {high:,.0f}':>22}", flush=True)
        reference = label if members == 1 else f"{label}, stacked"
        keep(options.out, series, unit="run-steps a second", device=DEVICE, reference=reference)
        del steps


if __name__ == "__main__":
    main()
