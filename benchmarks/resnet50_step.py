"""Milliseconds, images a second and memory of ResNet-50's training step, of each technique beside the dense one.

    python benchmarks/resnet50_step.py --device cuda

A step is that of `openwork.study`: images as bytes are mirrored, normalised and classified in bfloat16, compiled, then
come penalty, backward pass and fused SGD. "torchvision" is its ResNet-50 in the same step, where it is installed.
Images are random and stay on the device. Each variant is measured in blocks of ten steps that take turns with blocks of
the dense step; a variant beside which the dense one drifted by more than 2 % is marked. Memory is the peak of a variant
alone.

    python benchmarks/resnet50_step.py --depth 18 --size 32 --batch 4 --backend aot_eager --blocks 1   # does it run?
"""

import argparse
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from raw import add_out, keep
from timing import Step, milliseconds
from torch import nn

from openwork.core.schedules import Constant, Cubic
from openwork.core.technique import Technique
from openwork.study.data.loader import ImageBatch
from openwork.study.runs.live import prepare
from openwork.study.runs.run import Run
from openwork.study.tasks.classification import channels_last
from openwork.study.tasks.imagenet import ImageNetResNet
from openwork.study.tasks.parts import Parts
from openwork.study.training.parts import backward_in_parts
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.variational_dropout import VariationalDropout

# Masks at 90 % from the beginning, without an update in the timed steps.
_PRUNED = Cubic(0.9, end=2, every=1)
TECHNIQUES: dict[str, Technique | None] = {
    "dense": None,
    "torchvision": None,
    "magnitude": GradualMagnitude(_PRUNED, hidden="trained"),
    "random": RandomPruning(_PRUNED),
    "l0": L0(Constant(1e-9), weight_decay=1e-4),
    "variational dropout": VariationalDropout(Constant(1e-9), threshold=0.5, log_sigma2=-15.0),
}


@dataclass(frozen=True)
class Torchvision(ImageNetResNet):
    """The same task with torchvision's network."""

    def model(self) -> nn.Module:
        """25,557,032 parameters for depth 50."""
        import torchvision

        model: nn.Module = getattr(torchvision.models, f"resnet{self.depth}")()
        return channels_last(model)


def trainer(name: str, options: argparse.Namespace) -> Callable[[Parts], None]:
    """One optimizer step on a batch."""
    device = torch.device(options.device)
    kind = Torchvision if name == "torchvision" else ImageNetResNet
    # Practically no learning: a memorised batch has gradients near zero, and a GPU is faster on zeros.
    task = kind(depth=options.depth, size=options.size, batch_size=options.batch, part_size=options.batch, rate=1e-6)
    run = Run(task, TECHNIQUES[name], steps=1)
    live = prepare(run, device)
    optimizer = task.optimizer(live.model, live.sparsifier)
    for group in optimizer.param_groups:
        group["lr"] = 1e-6
    if live.sparsifier:
        live.sparsifier.attach(optimizer)
    objective = torch.compile(live.objective, fullgraph=True, backend=options.backend)
    steps = itertools.count()

    def step(parts: Parts) -> None:
        backward_in_parts(objective, live.model, parts, seed=0, step=next(steps))
        optimizer.step()
        optimizer.zero_grad()

    live.model.train()
    return step


def resident(options: argparse.Namespace) -> Parts:
    """A batch of random images on the device."""
    device = torch.device(options.device)
    pixels = torch.randint(256, (options.batch, options.size, options.size, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(1000, (options.batch,), device=device)
    return Parts([ImageBatch(pixels.permute(0, 3, 1, 2), labels, labels % 2 == 0)], first=0, count=1)


def training_step(name: str, options: argparse.Namespace) -> Step:
    """One optimizer step on a batch that stays the same."""
    step, parts = trainer(name, options), resident(options)
    return lambda: step(parts)


def peak_memory(step: Step, before: int, device: torch.device) -> float:
    """GiB that the variant has beyond the ``before`` bytes that were there, at the peak of two steps."""
    if device.type == "cpu":
        return float("nan")
    torch.cuda.reset_peak_memory_stats(device)
    milliseconds(step, 2, device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**30


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variants", nargs="+", choices=list(TECHNIQUES), default=list(TECHNIQUES), metavar="NAME")
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--blocks", type=int, default=10, help="of ten steps, of each variant and of the dense step")
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=480, help="after which no other variant is begun")
    add_out(parser)
    options = parser.parse_args()
    device, began = torch.device(options.device), time.monotonic()
    torch.manual_seed(0)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"ResNet-{options.depth}, {options.batch} x {options.size}^2, torch {torch.__version__}, {where}, "
        f"n = {10 * options.blocks}; milliseconds a step"
    )
    print(f"{'':22}{'min':>8}{'median':>8}{'max':>8}{'dense':>8}{'ratio':>7}{'images/s':>10}{'GiB':>7}{'ratio':>7}")
    dense_memory = float("nan")
    for name in options.variants:
        if time.monotonic() - began > options.seconds:
            print(f"{name}: left out, {options.seconds:g} seconds are over", file=sys.stderr)
            continue
        torch._dynamo.reset()
        gc.collect()
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        try:
            step = training_step(name, options)
        except ImportError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        milliseconds(step, options.warmup, device)
        memory = peak_memory(step, before, device)
        dense_memory = memory if name == "dense" else dense_memory
        beside = training_step("dense", options)
        milliseconds(beside, options.warmup, device)
        blocks = [[milliseconds(each, 10, device) for each in (beside, step)] for _ in range(options.blocks)]
        dense, mine = (list(itertools.chain.from_iterable(part)) for part in zip(*blocks, strict=True))
        paired = f"dense, beside {name}"
        keep(options.out, {name: mine, paired: dense}, unit="ms a step", device=device, reference=paired)
        keep(options.out, {name: [memory]}, unit="GiB", device=device, reference="dense")
        half = len(dense) // 2
        drift = statistics.median(dense[half:]) / statistics.median(dense[:half]) - 1
        middle, reference = statistics.median(mine), statistics.median(dense)
        note = f"   the dense step drifted by {drift:.1%}" if abs(drift) > 0.02 else ""
        print(
            f"{name:22}{min(mine):8.2f}{middle:8.2f}{max(mine):8.2f}{reference:8.2f}{middle / reference:7.3f}"
            f"{1000 * options.batch / middle:10.0f}{memory:7.2f}{memory / dense_memory:7.3f}{note}",
            flush=True,
        )


if __name__ == "__main__":
    main()
