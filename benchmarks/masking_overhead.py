r"""What masking costs a training step: dense, openwork, torch.nn.utils.prune, torch.ao.pruning, NNCF in one process.

On a CPU: MLP 784-1024-1024-10, batch 128, SGD with momentum and weight decay, 90 % sparsity, one thread. One round
takes one step of every variant, so that a disturbance affects all of them; times are CPU times, which leave out what
other processes do in between.
On a GPU: a Transformer of 61 million weights (transformer_model.py), 24,576 source and as many target tokens, bfloat16
autocast over float32 weights, fused AdamW, torch.compile. Each variant is measured against a separate dense model, in
blocks of ten steps that take turns. A variant that does not run, or for which no time is left, is named on stderr.

    python benchmarks/masking_overhead.py [--rounds 80]
    python benchmarks/masking_overhead.py --device cuda
    python benchmarks/masking_overhead.py --model transformer --width 32 --layers 1 --tokens 64 --vocabulary 50 \
        --backend aot_eager --blocks 2                          the second one, small enough for a CPU
"""

import argparse
import importlib
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from raw import add_out, keep
from timing import Step, milliseconds
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune as _prune
from transformer_model import Transformer

import openwork as ow
from openwork.core.masks.technique import Hidden

SPARSITY = 0.9
prune: Any = _prune  # its functions are untyped
Attach = Callable[[torch.optim.Optimizer], object]
Variant = Callable[[nn.Module, tuple[Tensor, ...]], tuple[nn.Module, Attach]]
"""(model, inputs) -> the model to train, and a function to call with its optimizer."""


def prunable(model: nn.Module) -> list[str]:
    """The names of the weights that every variant makes sparse."""
    return [f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Embedding)]


def dense(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, Attach]:
    """No masks."""
    return model, lambda optimizer: None


def masked(hidden: Hidden) -> Variant:
    """Gradients and parameters masked by openwork."""

    def prepare(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, Attach]:
        select = ow.matching(*prunable(model))
        sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(SPARSITY), hidden=hidden), select=select)
        return model, sparsifier.attach

    return prepare


def regrown(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, Attach]:
    """RigL between two of its updates: its gradients are evidence in no measured step."""
    technique = ow.RigL(ow.Constant(SPARSITY, every=100_000, stop=100_000))
    return model, ow.sparsify(model, technique, select=ow.matching(*prunable(model))).attach


def torch_prune(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, Attach]:
    """Masks in the forward, by torch.nn.utils.prune."""
    for name in prunable(model):
        prune.l1_unstructured(model.get_submodule(name.rpartition(".")[0]), "weight", SPARSITY)
    return model, lambda optimizer: None


def ao_pruning(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, Attach]:
    """Masks in a parametrisation, by torch.ao.pruning."""
    module: Any = importlib.import_module("torch.ao.pruning")
    sparsifier = module.WeightNormSparsifier(SPARSITY, sparse_block_shape=(1, 1), zeros_per_block=1)
    sparsifier.prepare(model, [{"tensor_fqn": name} for name in prunable(model)])
    sparsifier.step()
    return model, lambda optimizer: None


def nncf_magnitude(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, Attach]:
    """Masks in hooks on torch's functions, by NNCF."""
    nncf: Any = importlib.import_module("nncf")
    mode = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL
    return nncf.prune(model, mode=mode, ratio=SPARSITY, examples_inputs=inputs), lambda optimizer: None


VARIANTS: dict[str, Variant] = {
    "dense": dense,
    "openwork hidden=frozen": masked("frozen"),
    "openwork hidden=trained": masked("trained"),
    "openwork hidden=lost": masked("lost"),
    "openwork RigL": regrown,
    "torch.nn.utils.prune": torch_prune,
    "torch.ao.pruning": ao_pruning,
    "NNCF": nncf_magnitude,
}


class Mlp(nn.Module):
    """784-1024-1024-10: 1.86 million weights. Not a Sequential, which NNCF cannot wrap."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 10)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 784) -> logits (N, 10)."""
        logits: Tensor = self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return logits


def mlp_step(variant: Variant, options: argparse.Namespace) -> Step:
    """One optimizer step of the MLP on a fixed random batch."""
    x, y = torch.randn(128, 784), torch.randint(10, (128,))
    model, attach = variant(Mlp(), (x,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    attach(optimizer)

    def step() -> None:
        torch.autograd.backward(F.cross_entropy(model(x), y))
        optimizer.step()
        optimizer.zero_grad()

    return step


def transformer_step(variant: Variant, options: argparse.Namespace) -> Step:
    """One optimizer step of the Transformer on a fixed random batch, compiled."""
    device = torch.device(options.device)
    rows = max(1, options.tokens // options.length)
    source, target = torch.randint(options.vocabulary, (2, rows, options.length), device=device)
    plain = Transformer(options.vocabulary, options.width, options.layers).to(device)
    model, attach = variant(plain, (source, target))
    # Practically no learning: on a GPU a memorised batch is faster, since gradients near zero draw less power.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-8, fused=True)
    attach(optimizer)
    compiled = torch.compile(model, dynamic=False, backend=options.backend)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = compiled(source, target)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def interleaved(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every step, one of each variant a round; the first five rounds are for warming up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 5):
        for name, step in steps.items():
            began = time.process_time()
            step()
            if number >= 5:
                times[name].append(1000 * (time.process_time() - began))
    return times


def by_turns(options: argparse.Namespace) -> dict[str, tuple[list[float], list[float]]]:
    """Milliseconds of the steps of each variant, and of those of the dense model beside it."""
    began, device = time.monotonic(), torch.device(options.device)
    times: dict[str, tuple[list[float], list[float]]] = {}
    for name in options.variants:
        if time.monotonic() - began > options.seconds:
            print(f"{name}: left out, {options.seconds} seconds are over", file=sys.stderr)
            continue
        torch._dynamo.reset()  # one library's graph breaks must not affect another's
        try:
            pair = [transformer_step(VARIANTS[key], options) for key in (name, "dense")]
            for step in pair:
                milliseconds(step, options.warmup, device)
            blocks = [[milliseconds(step, 10, device) for step in pair] for _ in range(options.blocks)]
        except Exception as error:  # a peer that does not run is a result
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        mine, dense_ones = (list(itertools.chain.from_iterable(part)) for part in zip(*blocks, strict=True))
        times[name] = mine, dense_ones
    return times


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", choices=("mlp", "transformer"), help="default: transformer on a GPU")
    parser.add_argument("--rounds", type=int, default=80, help="of the MLP")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS)[1:], metavar="NAME")
    parser.add_argument("--tokens", type=int, default=24_576)
    parser.add_argument("--length", type=int, default=256, help="of a sequence")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6, help="of the encoder, and of the decoder")
    parser.add_argument("--vocabulary", type=int, default=33_000)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--blocks", type=int, default=8, help="of ten steps, of each variant of the Transformer")
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=170, help="after which no other variant is begun")
    add_out(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    options.model = options.model or ("transformer" if device.type == "cuda" else "mlp")
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.model == "transformer":
        times = by_turns(options)
        for name, (values, beside) in times.items():
            paired = f"dense, beside {name}"
            keep(options.out, {name: values, paired: beside}, unit="ms a step", device=device, reference=paired)
    else:
        steps: dict[str, Step] = {}
        for name in ["dense", *options.variants]:
            try:
                steps[name] = mlp_step(VARIANTS[name], options)
            except ImportError as error:
                print(f"{name}: {error}", file=sys.stderr)
        found = interleaved(steps, options.rounds)
        keep(options.out, found, unit="ms a step", device=device, reference="dense")
        times = {name: (values, found["dense"]) for name, values in found.items() if name != "dense"}
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, 1 thread"
    count = len(next(iter(times.values()))[0])
    print(f"{options.model}, torch {torch.__version__}, {where}, n = {count}; milliseconds a step")
    print(f"{'':26}{'min':>8}{'median':>8}{'max':>8}{'dense':>8}{'min / dense':>13}{'median / dense':>16}")
    for name, (values, beside) in times.items():
        low, middle, reference = min(values), statistics.median(values), statistics.median(beside)
        row = f"{name:26}{low:8.2f}{middle:8.2f}{max(values):8.2f}{reference:8.2f}"
        print(f"{row}{low / min(beside):13.3f}{middle / reference:16.3f}")


if __name__ == "__main__":
    main()
