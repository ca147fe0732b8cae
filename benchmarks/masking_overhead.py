"""What masking costs a training step: dense, openwork and torch.nn.utils.prune, interleaved in one process.

MLP 784-1024-1024-10, batch 128, SGD with momentum and weight decay, 90 % sparsity, one CPU thread.
One round takes one step of every variant; the ratios compare the fastest step of each.
Run: python benchmarks/masking_overhead.py [--rounds 80]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import openwork as ow
from openwork.core.technique import Hidden

Step = Callable[[], None]


def mlp() -> nn.Sequential:
    """The benchmark's model: 1.86 million weights."""
    return nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))


def training_step(model: nn.Module, attach: Callable[[torch.optim.Optimizer], object]) -> Step:
    """One optimizer step on a fixed random batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    attach(optimizer)
    x, y = torch.randn(128, 784), torch.randint(10, (128,))

    def step() -> None:
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def dense() -> Step:
    """No masks."""
    return training_step(mlp(), lambda optimizer: None)


def masked(hidden: Hidden) -> Step:
    """Gradients and parameters masked by openwork."""
    model = mlp()
    technique = ow.GradualMagnitude(ow.OneShot(0.9), hidden=hidden)
    return training_step(model, ow.sparsify(model, technique).attach)


def torch_prune() -> Step:
    """Masks in the forward, by torch.nn.utils.prune."""
    model = mlp()
    for layer in model:
        if isinstance(layer, nn.Linear):
            prune.l1_unstructured(layer, "weight", 0.9)  # type: ignore[no-untyped-call]
    return training_step(model, lambda optimizer: None)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=80)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = {
        "dense": dense(),
        "openwork hidden=frozen": masked("frozen"),
        "openwork hidden=trained": masked("trained"),
        "openwork hidden=lost": masked("lost"),
        "torch.nn.utils.prune": torch_prune(),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 5):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if number >= 5:  # warm-up
                times[name].append(1000 * (time.perf_counter() - began))
    print(f"torch {torch.__version__}, 1 thread, n = {rounds}; milliseconds a step")
    print(f"{'':26}{'min':>8}{'median':>8}{'max':>8}{'min / dense':>13}{'median / dense':>16}")
    best, middle = min(times["dense"]), statistics.median(times["dense"])
    for name, values in times.items():
        low, median = min(values), statistics.median(values)
        print(f"{name:26}{low:8.2f}{median:8.2f}{max(values):8.2f}{low / best:13.3f}{median / middle:16.3f}")


if __name__ == "__main__":
    main()
