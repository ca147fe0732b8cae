"""Linear layers on a GPU: packed products and 2:4 beside cuBLAS, by shape, sparsity and batch.

Each variant is captured in a CUDA graph of many launches, each with a copy of the weight of its own, together several
times as large as the GPU's cache, so that weights come from its memory as in a model. Rounds alternate between the
variants of a shape and a batch.

Run: python benchmarks/gpu_inference.py --rounds 30
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from raw import add_out, keep
from torch import Tensor

from openwork.kernels import lanes, semi_structured

PREFILL = 1024
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
_ROTATED = 200_000_000  # bytes, four times the second cache of an H100
_LAUNCHES = 50  # in a graph, at least, so that starting it takes little of the time
Launch = Callable[[Tensor], Tensor]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--shapes", nargs="+", default=["4096x4096", "11008x4096"], metavar="OUTxIN")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    add_out(parser)
    arguments = parser.parse_args()
    dtype, device = getattr(torch, arguments.dtype), torch.device("cuda")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {dtype}, n = {arguments.rounds}")
    for name in arguments.shapes:
        shape = tuple(map(int, name.split("x")))
        weights = made(shape, dtype)
        for batch in (*arguments.batches, PREFILL):
            # With many columns the packed weight is unpacked at each call; one sparsity shows what that costs.
            some = {
                name: one for name, one in weights.items() if batch < PREFILL or "packed" not in name or "90 %" in name
            }
            label = f"{shape[0]} x {shape[1]}, batch {batch}"
            found = measure(some, torch.randn(batch, shape[1], dtype=dtype, device=device), arguments.rounds)
            report(label, found, {name: size for name, (_, size) in weights.items()})
            series = {f"{label}: {name}": times for name, times in found.items()}
            keep(arguments.out, series, unit="µs", device=device, reference=f"{label}: dense")


def made(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, tuple[list[Launch], int]]:
    """By name, a product for each copy of a weight, and the bytes of one."""
    generator = torch.Generator("cuda").manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=dtype, device="cuda")
    ranks = torch.rand(shape, generator=generator, device="cuda")
    found = {"dense": rotated(lambda w: lambda x: F.linear(x, w), (weight,))}
    if dtype != torch.float32:
        groups = weight.abs().view(-1, 4)
        two = weight.view(-1, 4).scatter(1, groups.topk(2, dim=1, largest=False).indices, 0).view(shape)
        outputs = shape[0]
        found["2:4"] = rotated(
            lambda *w: lambda x: semi_structured.semi_structured_linear(x, *w, None, outputs),
            semi_structured.pack(two),
        )
    for sparsity in SPARSITIES:
        packed = lanes.pack(weight * (ranks >= sparsity))
        found[f"packed, {sparsity:.0%}".replace("%", " %")] = rotated(
            lambda *w: lambda x: lanes.lanes_linear(x, *w, None), packed
        )
    return found


def rotated(product: Callable[..., Launch], weight: tuple[Tensor, ...]) -> tuple[list[Launch], int]:
    """A product for each of as many copies of a weight as the cache cannot hold, and the bytes of one."""
    size = sum(tensor.nbytes for tensor in weight)
    copies = min(100, max(6, _ROTATED // size + 1))
    products = [product(*(tensor.clone() for tensor in weight)) for _ in range(copies)]
    return products * -(-_LAUNCHES // copies), size


@torch.no_grad()
def measure(weights: dict[str, tuple[list[Launch], int]], x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Microseconds of a product, by variant and round."""
    replays = {name: (captured(launches, x), len(launches)) for name, (launches, _) in weights.items()}
    found: dict[str, list[float]] = {name: [] for name in replays}
    event: Any = partial(torch.cuda.Event, enable_timing=True)
    for number in range(rounds + 2):
        for name, (graph, launches) in replays.items():
            before, after = event(), event()
            before.record()
            graph.replay()
            after.record()
            torch.cuda.synchronize()
            if number >= 2:
                found[name].append(1000 * before.elapsed_time(after) / launches)
    return found


def captured(launches: list[Launch], x: Tensor) -> torch.cuda.CUDAGraph:
    """A graph of one product with each weight."""
    launches[0](x)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        launches[0](x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch(x)
    return graph


def report(label: str, found: dict[str, list[float]], sizes: dict[str, int]) -> None:
    """Prints the medians of a shape and a batch."""
    dense = statistics.median(found["dense"])
    print(f"\n{label}\n{'':16}{'µs':>9}{'quartiles':>18}{'speed-up':>10}{'bytes':>9}")
    for name, times in found.items():
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
        spread, fewer = f"{low:.2f} to {high:.2f}", f"1 / {sizes['dense'] / sizes[name]:.2f}"
        print(f"{name:16}{middle:9.2f}{spread:>18}{dense / middle:8.2f} x{fewer:>9}")


if __name__ == "__main__":
    main()
