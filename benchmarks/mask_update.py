"""What recomputing the masks of 25 million weights costs: openwork's exact count beside torch.topk and torch.sort.

The weights have the shapes of ResNet-50's 53 convolutions and its classifier, values are Gaussian, 90 % sparsity.
With --growth it says instead what `sparsify`, mask updates and `finalize` cost a weight, as the model grows; with
--fleet what an update of so many stacked LeNet-300-100 costs, with and without the selection's kernels.
Run: python benchmarks/mask_update.py [--device cuda] [--repeats 10] [--growth [4 16 64]] [--fleet MEMBERS]
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast
from unittest import mock

import torch
from phases import life, report
from raw import add_out, keep
from torch import Tensor

import openwork as ow
from openwork.core.masks.allocations import Allocation
from openwork.core.masks.mechanism import Masking
from openwork.core.masks.stacked import StackedMasks
from openwork.core.masks.threshold import keep_count, keep_largest
from openwork.core.seeding import seeded_generator
from openwork.core.selection import find_weights
from openwork.core.stacked import stacked
from openwork.kernels import select
from openwork.kernels.paths import Path as Way
from openwork.kernels.select import select_largest
from openwork.kernels.select_rows import select_rows


def resnet50_shapes() -> list[tuple[int, ...]]:
    """The 54 weight tensors of ResNet-50: 25.5 million weights."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                shapes.append((4 * width, inputs, 1, 1))
            inputs = 4 * width
    return [*shapes, (1000, 2048)]


def by_topk(weights: list[Tensor]) -> None:
    """One torch.topk per layer, written into masks."""
    for weight in weights:
        scores = weight.abs().flatten()
        kept = scores.topk(keep_count(scores.numel(), 0.9), sorted=False).indices
        torch.zeros_like(scores, dtype=torch.bool)[kept] = True


def by_sort(weights: list[Tensor]) -> None:
    """One torch.sort per layer; ties at the threshold are all kept."""
    for weight in weights:
        scores = weight.abs().flatten()
        _ = scores >= scores.sort(descending=True).values[keep_count(scores.numel(), 0.9) - 1]


def by_openwork(weights: list[Tensor]) -> None:
    """`keep_largest` per layer: exact counts, seeded ties."""
    for weight in weights:
        keep_largest(weight.abs(), keep_count(weight.numel(), 0.9), seeded_generator(0, 0, ""))


def by_selection(weights: list[Tensor]) -> None:
    """What a GPU has to do of an update: scores, thresholds, masks and counts of all layers, without a wait."""
    select_largest(torch._foreach_abs(weights), [keep_count(weight.numel(), 0.9) for weight in weights])


def growth(millions: Sequence[int], repeats: int, device: torch.device, out: Path | None) -> None:
    """Prints what the life of a sparsifier costs with so many Linear layers of 1024 x 1024, about a million weights."""
    allocations = (ow.Uniform(), ow.GlobalRanking(), ow.LAMP(), ow.ERK())
    print(f"torch {torch.__version__}, {_where(device)}, n = {repeats}")
    for allocation in allocations:
        technique = ow.GradualMagnitude(ow.Constant(0.9, every=1), allocation=allocation)
        for layers in millions:
            runs = []
            for _ in range(repeats + 1):
                model = torch.nn.Sequential(
                    *(torch.nn.Linear(1024, 1024, bias=False, device=device) for _ in range(layers))
                )
                runs.append(life(model, technique, device))
            report(type(allocation).__name__, runs[1:], layers << 20, device, out)  # the first is a warm-up


def fleet(members: int, device: torch.device, options: argparse.Namespace) -> None:
    """Prints what an update of stacked models costs, and the selection of their largest weights alone."""
    technique = ow.GradualMagnitude(ow.Constant(0.9, every=1))
    sparsifiers = []
    for seed in range(members):
        sizes = itertools.pairwise((784, 300, 100, 10))
        model = torch.nn.Sequential(*(torch.nn.Linear(*size, bias=False, device=device) for size in sizes))
        sparsifiers.append(ow.sparsify(model, technique, seed=seed))
    named = [dict(sparsifier.model.named_parameters()) for sparsifier in sparsifiers]
    masks = StackedMasks(
        [cast("Masking", sparsifier.mechanism) for sparsifier in sparsifiers],
        {name: stacked([each[name] for each in named]) for name in named[0]},
    )
    masks.many = True  # also on a CPU
    steps = itertools.count(1)
    scores = torch.rand(members, 300 * 784, device=device)
    k = torch.full((members,), keep_count(scores.shape[1], 0.9), device=device)

    def plainly(variant: Callable[[], object]) -> None:
        with mock.patch.object(select, "path", return_value=Way("plain", "to compare")):
            variant()

    def update() -> None:
        masks.update(next(steps))

    def largest() -> None:
        select_rows(scores, k)

    variants: dict[str, Callable[[], object]] = {
        "whole update": update,
        "whole update, no kernels to select": lambda: plainly(update),
        "selection, largest weight": largest,
        "selection, largest weight, no kernels": lambda: plainly(largest),
    }
    total = sum(each.numel() for each in masks.masks.values())
    compare(variants, f"{members:,} models, {total:,} weights", "whole update", device, options)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--growth", nargs="*", type=int, metavar="MILLIONS", help="of 2 ** 20 weights; 4, 16 and 64")
    parser.add_argument("--fleet", type=int, metavar="MEMBERS", help="so many stacked models")
    add_out(parser)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    if arguments.growth is not None:
        growth(arguments.growth or (4, 16, 64), arguments.repeats, device, arguments.out)
        return
    if arguments.fleet:
        fleet(arguments.fleet, device, arguments)
        return
    weights = [torch.randn(shape, device=device) for shape in resnet50_shapes()]

    def masking(allocation: Allocation) -> Masking:
        model = torch.nn.ParameterList(weight.clone() for weight in weights)
        selected, _ = find_weights(model, ow.all_parameters)
        technique = ow.GradualMagnitude(ow.Constant(0.9, every=1), allocation=allocation)
        found = Masking(technique, selected, seed=0, keep_zeros=False)
        found.start(model, None)
        return found

    uniform, ranked = masking(ow.Uniform()), masking(ow.GlobalRanking())
    variants: dict[str, Callable[[], object]] = {
        "torch.topk per layer": lambda: by_topk(weights),
        "torch.sort per layer": lambda: by_sort(weights),
        "openwork keep_largest": lambda: by_openwork(weights),
        "openwork select_largest, all layers at once": lambda: by_selection(weights),
        "openwork whole update, Uniform": lambda: uniform.after_step(1, [], None),
        "openwork whole update, GlobalRanking": lambda: ranked.after_step(1, [], None),
    }
    total = sum(weight.numel() for weight in weights)
    compare(variants, f"{total:,} weights", "torch.topk per layer", device, arguments)


def compare(
    variants: Mapping[str, Callable[[], object]],
    what: str,
    reference: str,
    device: torch.device,
    options: argparse.Namespace,
) -> None:
    """Times the variants in turns, and prints their table.

    Args:
        variants: What to time, by name.
        what: What it is done to.
        reference: The name of the variant that the others are compared with.
        device: Where it is done.
        options: Those of the command line.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(options.repeats + 1):
        for name, variant in variants.items():
            _wait(device)
            began = time.perf_counter()
            variant()
            _wait(device)
            if number:  # warm-up
                times[name].append(1000 * (time.perf_counter() - began))
    keep(options.out, times, unit="ms", device=device, reference=reference)
    print(f"torch {torch.__version__}, {_where(device)}, {what}, n = {options.repeats}; milliseconds")
    print(f"{'':46}{'min':>9}{'median':>9}{'max':>9}{'ratio':>8}")
    base = statistics.median(times[reference])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:46}{min(values):9.2f}{median:9.2f}{max(values):9.2f}{median / base:8.2f}")


def _where(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
