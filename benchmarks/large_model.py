"""Seconds and memory of `sparsify`, a mask update and `finalize` for a large model, by uniform and global ranking.

The model has the weight matrices of a language model of 1.3 billion weights: 24 layers of width 2,048 and 50,257 ids.
Memory is the peak beyond the model itself, in bytes a weight: on a GPU what torch allocates, on a CPU what the process
holds. Each phase is done once a round, on a model of its own.

    python benchmarks/large_model.py --device cuda
    python benchmarks/large_model.py --layers 2 --width 1024 --vocabulary 8000        33 million weights, on a CPU
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from raw import add_out, keep
from torch import nn

import openwork as ow

ALLOCATIONS: dict[str, ow.Allocation] = {"uniform": ow.Uniform(), "global ranking": ow.GlobalRanking()}


def made(options: argparse.Namespace) -> nn.Module:
    """Random weights of the shapes of a language model."""
    torch.manual_seed(0)
    width, device = options.width, torch.device(options.device)
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * options.layers
    shapes.append((options.vocabulary, width))
    # On the device: a CPU draws for minutes.
    return nn.ParameterList(nn.Parameter(torch.randn(shape, device=device)) for shape in shapes)


def peak(device: torch.device, run: Callable[[], object]) -> tuple[float, int]:
    """Seconds that it takes, and bytes beyond those that were held before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = held("VmRSS")
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter() - began, torch.cuda.max_memory_allocated(device) - before
    return time.perf_counter() - began, held("VmHWM") - before


def held(name: str) -> int:
    """Bytes of memory of this process, as Linux counts them under the name."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def measured(allocation: ow.Allocation, options: argparse.Namespace) -> dict[str, tuple[float, int]]:
    """Of each phase."""
    model, device = made(options), torch.device(options.device)
    technique = ow.GradualMagnitude(ow.Constant(0.9, every=1), allocation=allocation, hidden=options.hidden)
    found: list[ow.Sparsifier] = []
    phases: dict[str, Callable[[], object]] = {
        "sparsify": lambda: found.append(ow.sparsify(model, technique, select=ow.all_parameters)),
        "one update": lambda: found[0].step(),
        "finalize": lambda: found[0].finalize(),
    }
    return {name: peak(device, run) for name, run in phases.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=50_257)
    parser.add_argument("--hidden", default="lost", choices=("lost", "frozen"), help="values of masked weights")
    parser.add_argument("--rounds", type=int, default=3, help="after one to warm up")
    add_out(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    weights = sum(parameter.numel() for parameter in made(options).parameters())
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{weights:,} weights, {where}, torch {torch.__version__}, hidden={options.hidden}, n = {options.rounds}")
    print(f"{'':48}{'seconds':>10}{'ns a weight':>13}{'bytes a weight':>16}")
    for name, allocation in ALLOCATIONS.items():
        rounds = [measured(allocation, options) for _ in range(options.rounds + 1)]
        for phase in rounds[0]:
            seconds = [each[phase][0] for each in rounds[1:]]
            size = [max(0, each[phase][1]) / weights for each in rounds]  # the first one's is what a CPU has to find
            label, middle = f'hidden="{options.hidden}", {name}: {phase}', statistics.median(seconds)
            print(f"{label:48}{middle:10.3f}{1e9 * middle / weights:13.2f}{max(size):16.2f}", flush=True)
            keep(options.out, {label: seconds}, unit="s", device=device)
            if max(size):
                keep(options.out, {label: [max(size)]}, unit="bytes a weight, at most", device=device)


if __name__ == "__main__":
    main()
