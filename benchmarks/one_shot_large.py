"""Minutes and memory of pruning a language model once: `ow.prune` of a Llama with random weights, at 50 %.

24 blocks of width 2,048 and 32,000 tokens: 1.3 billion weights in bfloat16, on the device. The calibration is 128
windows of 2,048 random tokens, in batches of four. "forwards" is one pass of the whole model over it. Memory is all
that torch has allocated at once, the model's own bytes among it.

Run: python benchmarks/one_shot_large.py [--device cuda] [--techniques Wanda SparseGPT] [--small] [--out CSV]
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from phases import measured
from raw import add_out, keep
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

import openwork as ow

HALF = ow.OneShot(0.5)
TECHNIQUES = {
    "Wanda": ow.Wanda(HALF),
    "RIA": ow.RIA(HALF),
    "SparseGPT": ow.SparseGPT(HALF),
    "SparseGPT, 2:4": ow.SparseGPT(HALF, pattern=ow.NM(2, 4)),
}
WINDOWS, BATCH = 128, 4


def llama(device: torch.device, *, small: bool) -> nn.Module:
    """A Llama with the random weights of its initialization, without an output layer, which would not be pruned."""
    width, blocks, tokens = (64, 2, 100) if small else (2048, 24, 32_000)
    shape = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 43 // 16,  # 5,504
        num_hidden_layers=blocks,
        num_attention_heads=width // 64,
        vocab_size=tokens,
        use_cache=False,
        dtype=torch.bfloat16,
    )
    with device:
        model: nn.Module = LlamaModel(shape)
    return model.to(torch.bfloat16).train(False)


def batches(tokens: int, length: int, device: torch.device) -> list[dict[str, Tensor]]:
    """The calibration."""
    drawn = torch.randint(tokens, (WINDOWS, length), generator=torch.Generator().manual_seed(0)).to(device)
    return [{"input_ids": drawn[first : first + BATCH]} for first in range(0, WINDOWS, BATCH)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each technique."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", type=torch.device)
    parser.add_argument("--techniques", nargs="*", default=list(TECHNIQUES), choices=TECHNIQUES)
    parser.add_argument("--small", action="store_true", help="a model of two small blocks, to try the command")
    add_out(parser)
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = llama(given.device, small=given.small)
    held = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    weights = sum(parameter.numel() for parameter in model.parameters())
    examples = batches(100 if given.small else 32_000, 64 if given.small else 2048, given.device)
    print(f"{weights / 1e9:.2f} billion weights, {held / 2**30:.2f} GiB\n")
    print("| | seconds | GiB | sparsity |\n|---|---|---|---|")

    def timed(name: str, run: Callable[[], float]) -> None:
        with measured(given.device) as cost:
            sparsity = run()
        memory, label = (held + cost.peak) / 2**30, f"{name}, {weights / 1e9:.2f} billion weights"
        print(f"| {name} | {cost.seconds:.1f} | {memory:.2f} | {sparsity:.4f} |", flush=True)
        for unit, value in {"seconds": cost.seconds, "GiB": memory}.items():
            keep(given.out, {label: [value]}, unit=unit, device=given.device)

    def forwards() -> float:
        with torch.no_grad():
            for batch in examples:
                model(**batch)
        return 0.0

    def pruned(name: str) -> float:
        return ow.prune(model, TECHNIQUES[name], batches=examples).sparsity

    forwards()  # warm-up
    timed("forwards", forwards)
    for name in given.techniques:
        del model
        torch.manual_seed(0)
        model = llama(given.device, small=given.small)
        timed(name, partial(pruned, name))


if __name__ == "__main__":
    main()
