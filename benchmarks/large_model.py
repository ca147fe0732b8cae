"""A language model's life as a sparse model: sparsify, mask updates and finalize, in seconds and bytes a weight.

The weights have the shapes of a causal language model: an embedding of 50,304 tokens, and in each layer four matrices
of attention and two of a network four times as wide. Values are Gaussian, 90 % sparsity. The model itself takes 2 bytes
a weight in bfloat16 and 4 in float32; the bytes given here come on top.

Run: python benchmarks/large_model.py [--device cuda] [--layers 24] [--width 2048] [--out CSV]
"""

import argparse
import gc
from collections.abc import Sequence

import torch
from phases import life, report
from raw import add_out
from torch import nn

import openwork as ow

ALLOCATIONS: dict[str, ow.Allocation] = {"Uniform": ow.Uniform(), "GlobalRanking": ow.GlobalRanking()}
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def language_model(layers: int, width: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> nn.Sequential:
    """The weights of a causal language model, as modules; Gaussian. It cannot be called."""
    made: list[nn.Module] = [nn.Embedding(vocabulary, width, dtype=dtype, device=device)]
    for _ in range(layers):
        made += [nn.Linear(width, width, bias=False, dtype=dtype, device=device) for _ in range(4)]
        made.append(nn.Linear(width, 4 * width, bias=False, dtype=dtype, device=device))
        made.append(nn.Linear(4 * width, width, bias=False, dtype=dtype, device=device))
    model = nn.Sequential(*made)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=50_304)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--hidden", default="frozen", choices=("frozen", "trained", "lost"))
    add_out(parser)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    torch.manual_seed(0)
    for dtype in options.dtypes:
        for name, allocation in ALLOCATIONS.items():
            runs = []
            for number in range(options.repeats + 1):
                gc.collect()
                model = language_model(options.layers, options.width, options.vocabulary, DTYPES[dtype], device)
                size = sum(parameter.numel() for parameter in model.parameters())
                technique = ow.GradualMagnitude(ow.Constant(0.9, every=1), allocation=allocation, hidden=options.hidden)
                found = life(model, technique, device)
                if number:  # warm-up
                    runs.append(found)
            report(f"{dtype}, {name}", runs, size, device, options.out)


if __name__ == "__main__":
    main()
