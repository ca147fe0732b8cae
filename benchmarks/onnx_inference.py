"""What onnxruntime makes of zeros: time and file of a pruned model beside those of the dense one.

Models are FFN 512-2048-512 at batch 16 and LeNet-300-100 at batch 1, with random zeros. Each sparsity's session takes
turns with the dense one, on one thread. `sparse` is the file with sparse initializers.

Run: taskset -c 1 python benchmarks/onnx_inference.py --out benchmarks/measured/onnx-cpu.csv
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from raw import add_out, keep
from torch import Tensor, nn

import openwork as ow
from openwork.study.models.lenet import LeNet300100

SPARSITIES = (0.5, 0.7, 0.9, 0.95, 0.98)
CPU = torch.device("cpu")


def models() -> dict[str, tuple[nn.Module, Tensor]]:
    """The models, with an input of the batch size."""
    ffn = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512))
    return {
        "FFN 512-2048-512, batch 16": (ffn, torch.randn(16, 512)),
        "LeNet-300-100, batch 1": (LeNet300100(), torch.randn(1, 784)),
    }


def session(path: Path) -> Any:
    """The file in onnxruntime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def milliseconds(step: Callable[[], object], calls: int) -> float:
    """The mean of so many calls, which are short."""
    before = time.perf_counter()
    for _ in range(calls):
        step()
    return 1000 * (time.perf_counter() - before) / calls


def main() -> None:
    """Prints a row for each model and sparsity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="rounds in which all take turns")
    parser.add_argument("--calls", type=int, default=20, help="calls in a round")
    add_out(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread, n = {arguments.rounds} rounds of {arguments.calls} calls, medians")
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, x) in models().items():
            size: dict[str, list[float]] = {}
            sessions: dict[str, Any] = {}
            for sparsity in (0.0, *SPARSITIES):
                pruned, label = copy.deepcopy(model), f"{sparsity:.0%}" if sparsity else "dense"
                if sparsity:
                    ow.prune(pruned, ow.RandomPruning(ow.OneShot(sparsity)))
                path = Path(folder) / "model.onnx"
                for kind in ("", ", sparse initializers"):
                    size[f"{name}, {label}{kind}"] = [ow.export_onnx(pruned, x, path, sparse=bool(kind)).nbytes]
                sessions[f"{name}, {label}"] = session(path)
            feed = {next(iter(sessions.values())).get_inputs()[0].name: x.numpy()}
            times: dict[str, list[float]] = {label: [] for label in sessions}
            for _ in range(arguments.rounds):
                for label, one in sessions.items():
                    times[label].append(milliseconds(partial(one.run, None, feed), arguments.calls))
            dense = f"{name}, dense"
            for label, found in times.items():
                small = size[f"{label}, sparse initializers"][0]
                print(
                    f"  {label:40} {median(found):7.4f} ms, {median(times[dense]) / median(found):5.2f} x dense; "
                    f"{size[label][0]:9,} bytes, with sparse initializers {small:9,}"
                )
            keep(arguments.out, times, unit="ms a call", device=CPU, reference=dense)
            keep(arguments.out, size, unit="bytes", device=CPU, reference=dense)


if __name__ == "__main__":
    main()
