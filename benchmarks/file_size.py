r"""How small files of sparse weights are, and how fast they are written and read: openwork beside what others do.

The weights are those of the 36 linear layers of MiniLM (pruned once, by magnitude over all layers), LeNet-5 as it was
pruned while it learned MNIST, and Gaussian matrices with random masks and with structured ones. "Entropy" is what an
order-0 coder could reach, summed over the tensors: the entropy of the mask, raw signs and mantissas, and the entropy of
the exponents of what is left.

Run: OPENWORK_DATA=data taskset -c 1 python benchmarks/file_size.py --minilm model.safetensors \
         --out benchmarks/measured/file-size.csv
"""

import argparse
import gzip
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import zstandard
from raw import add_out, keep
from safetensors.torch import load_file
from torch import Tensor

import openwork as ow
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import MnistLeNet5Caffe

State = dict[str, Tensor]
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95)
BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
CPU = torch.device("cpu")


def entropy_of(counts: npt.NDArray[np.int64]) -> float:
    """Bits of all symbols of which there are so many."""
    seen = counts[counts > 0]
    return float(-(seen * np.log2(seen / seen.sum())).sum())


def words_of(weight: Tensor) -> npt.NDArray[np.int64]:
    """The bits of each weight, as a number."""
    bits = 8 * weight.element_size()
    found: npt.NDArray[np.int64] = weight.flatten().view(BITS[weight.dtype]).numpy().astype(np.int64) & (2**bits - 1)
    return found


def entropy(state: State) -> float:
    """Bytes of masks and exponents at their order-0 entropy, with signs and mantissas as they are."""
    total = 0.0
    for weight in state.values():
        words, bits = words_of(weight), 8 * weight.element_size()
        left = words[words << 1 & 2**bits - 1 != 0]  # -0.0 is a zero, whose sign is counted
        exponents = (left >> (bits - 9)) & 255
        total += entropy_of(np.array([len(left), len(words) - len(left)]))
        total += entropy_of(np.unique(words[words << 1 & 2**bits - 1 == 0], return_counts=True)[1])
        total += len(left) * (bits - 8) + entropy_of(np.bincount(exponents))
    return total / 8


def csr(state: State) -> float:
    """Bytes of values, 32-bit columns and 32-bit row pointers."""
    return sum(_left(w) * (w.element_size() + 4) + 4 * (w.flatten(1).shape[0] + 1) for w in state.values())


def bit_mask(state: State) -> float:
    """Bytes of values and of a bit for each weight, rows padded to bytes: as compressed-tensors, but offsets."""
    return sum(_left(w) * w.element_size() + len(w) * -(-w[0].numel() // 8) for w in state.values())


def compressed(state: State, compress: Callable[[bytes], bytes]) -> float:
    """Bytes of the dense weights, compressed tensor by tensor."""
    return sum(len(compress(w.flatten().view(torch.uint8).numpy().tobytes())) for w in state.values())


def openwork(state: State) -> float:
    """Bytes of the whole file, header included."""
    with tempfile.TemporaryDirectory() as folder:
        return ow.save(state, f"{folder}/x.safetensors").file_bytes


FORMATS: dict[str, Callable[[State], float]] = {
    "openwork": openwork,
    "entropy": entropy,
    "bit mask": bit_mask,
    "CSR": csr,
    "zstd": partial(compressed, compress=zstandard.ZstdCompressor(level=3).compress),
    "gzip": partial(compressed, compress=partial(gzip.compress, compresslevel=6)),
}


def _left(weight: Tensor) -> int:
    return int(weight.count_nonzero())


def minilm(path: Path, sparsity: float) -> State:
    """The 36 linear layers of the encoder, pruned by magnitude over all of them."""
    state = {
        n: w for n, w in load_file(path).items() if n.startswith("encoder.") and n.endswith("weight") and w.dim() > 1
    }
    magnitudes = torch.cat([w.abs().flatten() for w in state.values()])
    keep_most = round(magnitudes.numel() * (1 - sparsity))
    least = magnitudes.topk(keep_most).values[-1]
    return {name: torch.where(w.abs() >= least, w, 0.0) for name, w in state.items()}


def lenet(sparsity: float, steps: int) -> State:
    """LeNet-5 after its training on MNIST, in which it was pruned."""
    technique = (
        ow.GradualMagnitude(ow.Cubic(sparsity, begin=steps // 10, end=steps // 2, every=20)) if sparsity else None
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Run(MnistLeNet5Caffe(), technique, steps)
        execute(run, Path(folder), evaluations=1)
        state = load_file(Path(folder) / run.id / "model.safetensors")
    return {name: w for name, w in state.items() if w.dim() > 1}


def gaussian(sparsity: float) -> State:
    """Four matrices of 1024 x 1024 Gaussians of which random ones are left."""
    found = torch.randn(4, 1024, 1024)
    return {str(i): torch.where(torch.rand_like(w) >= sparsity, w, 0.0) for i, w in enumerate(found)}


def structured() -> dict[str, State]:
    """The same matrices with whole rows, whole columns, blocks of 4 x 4, and 2 of 4 in each row left."""
    found = torch.randn(4, 1024, 1024)
    rows, columns = (torch.rand(shape) >= 0.9 for shape in ((4, 1024, 1), (4, 1, 1024)))
    blocks = (torch.rand(4, 256, 256) >= 0.9).repeat_interleave(4, 1).repeat_interleave(4, 2)
    groups = found.abs().view(4, 1024, 256, 4)
    two = groups >= groups.topk(2).values[..., -1:]
    masks = {"rows, 90 %": rows, "columns, 90 %": columns, "4 x 4, 90 %": blocks, "2:4": two.view_as(found)}
    left = {name: torch.where(mask, found, 0.0) for name, mask in masks.items()}
    left["90 %, half of the zeros -0.0"] = found * (torch.rand_like(found) >= 0.9)
    return {name: {str(i): w for i, w in enumerate(weights)} for name, weights in left.items()}


def speeds(state: State, rounds: int) -> tuple[list[float], list[float]]:
    """MB of dense weights a second of one thread, of `save` and of `load`, each round."""
    size = sum(w.nbytes for w in state.values()) / 1e6
    found: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        for _ in range(rounds + 1):
            began = time.process_time()
            ow.save(state, path, threads=1)
            saved = time.process_time()
            loaded = ow.load(path, threads=1)
            ended = time.process_time()
            found[0].append(size / (saved - began))
            found[1].append(size / (ended - saved))
        assert all(loaded[name].view(torch.uint8).equal(w.view(torch.uint8)) for name, w in state.items())
    return found[0][1:], found[1][1:]  # without the warm-up


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minilm", type=Path, required=True, help="all-MiniLM-L6-v2's model.safetensors")
    parser.add_argument("--steps", type=int, default=1200, help="of LeNet-5's training")
    parser.add_argument("--rounds", type=int, default=9)
    add_out(parser)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    models = {f"MiniLM, {100 * s:g} %": minilm(arguments.minilm, s) for s in SPARSITIES}
    cases = {
        **models,
        **{f"LeNet-5, {100 * s:g} %": lenet(s, arguments.steps) for s in (0.0, 0.9, 0.98)},
        **{f"Gaussian, {100 * s:g} %": gaussian(s) for s in (0.0, 0.5, 0.9, 0.98)},
        **{f"Gaussian, {name}": state for name, state in structured().items()},
    }
    print(
        f"| times smaller than dense | {' | '.join(FORMATS)} | openwork / entropy |\n|---|{'---|' * (len(FORMATS) + 1)}"
    )
    for dtype, (name, state) in itertools.product(BITS, cases.items()):
        these = {layer: w.to(dtype) for layer, w in state.items()}
        dense = sum(w.nbytes for w in these.values())
        ratios = {format_: dense / size(these) for format_, size in FORMATS.items()}
        case = f"{name}, {str(dtype).removeprefix('torch.')}"
        shown = " | ".join(f"{ratio:.2f}" for ratio in ratios.values())
        print(f"| {case} | {shown} | {ratios['openwork'] / ratios['entropy']:.3f} |", flush=True)
        series = {f"{case}: {format_}": [ratio] for format_, ratio in ratios.items()}
        keep(arguments.out, series, unit="times smaller", device=CPU, reference=f"{case}: entropy")
    print(f"\nMB of dense weights a second of one thread's CPU time, median (best) of {arguments.rounds}")
    print("| | save | load |\n|---|---|---|")
    for dtype, (name, state) in itertools.product(BITS, models.items()):
        both = speeds({layer: w.to(dtype) for layer, w in state.items()}, arguments.rounds)
        case = f"{name}, {str(dtype).removeprefix('torch.')}"
        print(f"| {case} | {' | '.join(f'{statistics.median(x):.0f} ({max(x):.0f})' for x in both)} |", flush=True)
        series = {f"{case}: {verb}": x for verb, x in zip(("save", "load"), both, strict=True)}
        keep(arguments.out, series, unit="MB/s", device=CPU)


if __name__ == "__main__":
    main()
