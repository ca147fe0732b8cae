"""What shrinking LeNet-5 after group L0 saves: FLOPs, bytes, and measured time on one thread of a CPU, in turns.

The networks have the widths that the runs of results/mnist/ ended with (three factors of the penalty) and the two that
Louizos et al. 2018 (arXiv 1712.01312, table 1) print: filters of conv1 and conv2 and inputs of fc1 and fc2 with open
gates. Their weights are random, and so is which gates are open: neither changes FLOPs or time, but for which inputs of
fc1 are open, of a map, since a map of 16 inputs goes only if all 16 are closed.

Run: taskset -c 1 python benchmarks/shrink.py --out benchmarks/measured/shrink-cpu.csv
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from typing import Any

import torch
from raw import add_out, keep
from timing import milliseconds
from torch import Tensor, nn

import openwork as ow
from openwork.study.models.lenet import LeNet5Caffe

WIDTHS = {
    "lambda 0.1": (20, 31, 52, 442),
    "lambda 0.3": (20, 17, 29, 410),
    "lambda 1": (20, 10, 14, 191),
    "Louizos et al., one lambda": (20, 25, 45, 462),
    "Louizos et al., a lambda each": (9, 18, 65, 25),
}


def closed(widths: tuple[int, int, int, int], generator: torch.Generator) -> nn.Module:
    """LeNet-5 in which all but so many filters of conv1 and conv2 and inputs of fc1 and fc2 are zero.

    Open inputs of fc1 are among the maps of open filters of conv2, spread over all of them.
    """
    model = LeNet5Caffe().eval()
    with torch.no_grad():
        for layer, count in zip((model.conv1, model.conv2), widths, strict=False):
            layer.weight[torch.randperm(layer.out_channels, generator=generator)[count:]] = 0
        alive = model.conv2.weight.flatten(1).any(1).repeat_interleave(16).nonzero().flatten()
        maps = alive.view(-1, 16)
        first = maps[torch.arange(len(maps)), torch.randint(16, (len(maps),), generator=generator)]
        others = alive[~torch.isin(alive, first)]
        chosen = torch.cat([first, others[torch.randperm(len(others), generator=generator)]])[: widths[2]]
        closed_inputs = torch.ones(800, dtype=torch.bool).index_fill(0, chosen, False)
        model.fc1.weight[:, closed_inputs] = 0
        model.fc2.weight[:, torch.randperm(500, generator=generator)[widths[3] :]] = 0
    return model


def ways(model: nn.Module, x: Tensor) -> dict[str, Callable[[], Any]]:
    """The network as torch lays images out, with channels last, and its four products alone, on their own inputs."""
    last: Any = copy.deepcopy(model)
    last.to(memory_format=torch.channels_last)
    y = x.to(memory_format=torch.channels_last)
    inputs: list[tuple[nn.Module, Tensor]] = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_pre_hook(lambda layer, given: inputs.append((layer, given[0]))) for layer in layers]
    model(x)
    for hook in hooks:
        hook.remove()
    return {
        "whole": lambda: model(x),
        "whole, channels last": lambda: last(y),
        "products alone": lambda: [layer(given) for layer, given in inputs],
    }


def main() -> None:
    """Prints a row for each network and way to run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256, help="images in a batch")
    parser.add_argument("--rounds", type=int, default=40, help="rounds in which all take turns")
    add_out(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device, generator = torch.device("cpu"), torch.Generator().manual_seed(0)
    x = torch.randn(arguments.batch, 1, 28, 28, generator=generator)
    print(f"torch {torch.__version__}, one thread, batch {arguments.batch}, n = {arguments.rounds}, medians")
    for name, widths in WIDTHS.items():
        model = closed(widths, generator)
        shrunk = ow.shrink(model, x)
        flops, size = (before / now for before, now in (shrunk.flops, shrunk.bytes))
        print(
            f"{name}: {'-'.join(map(str, widths))}, FLOPs / {flops:.2f}, bytes / {size:.2f}, outputs differ by "
            f"{shrunk.difference:.0e} of the largest"
        )
        with torch.inference_mode():
            found = {"dense": ways(model, x), "shrunk": ways(shrunk.model, x)}
            times: dict[tuple[str, str], list[float]] = {}
            for _ in range(arguments.rounds + 3):
                for way in found["dense"]:
                    for kind, steps in found.items():
                        times.setdefault((way, kind), []).extend(milliseconds(steps[way], 1, device))
        for way in found["dense"]:
            dense, small = (times[way, kind][3:] for kind in found)
            ratio = statistics.median(dense) / statistics.median(small)
            low, _, high = statistics.quantiles([a / b for a, b in zip(dense, small, strict=True)], n=4)
            print(
                f"  {way:22} {statistics.median(dense):6.2f} -> {statistics.median(small):6.2f} ms: {ratio:.2f} x "
                f"({low:.2f} to {high:.2f}), {ratio / flops - 1:+.0%} from the FLOPs' ratio"
            )
            series = {f"{name}, {way}, dense": dense, f"{name}, {way}, shrunk": small}
            keep(arguments.out, series, unit="ms a batch", device=device, reference=f"{name}, {way}, dense")


if __name__ == "__main__":
    main()
