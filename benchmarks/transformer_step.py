r"""A training step of Transformer-base on packed rows: beside PyTorch's nn.Transformer, with every technique, and with
other ways to keep the sentences of a row apart.

Every variant is measured against the dense model, compiled alike, in blocks of steps that take turns: rows of 256
tokens of several sentences, dropout 0.1, bfloat16 autocast on a GPU, Adam. Each variant is the loss, the backward pass,
the optimizer's step and the technique's own work. A variant that does not run is named on stderr with its error.

    python benchmarks/transformer_step.py --device cuda [--tokens 2048] [--variants NAME ...]
    python benchmarks/transformer_step.py --tokens 64 --length 16 --width 32 --layers 1 --vocabulary 50 \
        --backend aot_eager --blocks 1 --block 2 --warmup 1                                 small, for a CPU

Variants: nn.Transformer: PyTorch's, with the same masks. magnitude, variational dropout, l0: openwork's techniques.
nn.Dropout: torch's noise instead of a hash. flex attention: block masks instead of dense ones, which knows no dropout
of attention weights. dense without attention dropout: its fair twin. cuDNN attention: asks for cuDNN's kernels. no
segments: sentences of a row see each other; wrong as training, but it shows what masks cost.
"""

import argparse
import itertools
import statistics
import sys
import time
from typing import Any

import torch
from raw import add_out, keep
from timing import Step, milliseconds
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import openwork as ow
from openwork.core.technique import Technique
from openwork.study.models import transformer
from openwork.study.models.dropout import Dropout
from openwork.study.models.transformer import Transformer

Batch = tuple[Tensor, Tensor]


class Peer(nn.Module):
    """nn.Transformer with the embedding, positions, masks and tied softmax that translation needs."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.helper = Transformer(
            options.vocabulary, width=options.width, heads=options.heads, layers=0, residual_dropout=options.dropout
        )
        self.heads = options.heads
        self.body = nn.Transformer(
            options.width,
            options.heads,
            options.layers,
            options.layers,
            4 * options.width,
            dropout=options.dropout,
            batch_first=True,
            norm_first=True,
        )

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """As openwork's."""
        helper, length = self.helper, target.shape[-1]
        x = helper.dropout(helper.embed(source[0]) + helper.positions(source[2]))
        y = F.pad(helper.embed(target[0]), (0, 0, 1, 0))[:, :-1]
        y = helper.dropout(y + helper.positions(target[2]))
        earlier = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        masks = (
            self._mask(source[1][:, :, None] == source[1][:, None]),
            self._mask((target[1][:, :, None] == target[1][:, None]) & earlier),
            self._mask(target[1][:, :, None] == source[1][:, None]),
        )
        hidden = self.body(x, y, *masks)
        logits: Tensor = helper.softmax(hidden.flatten(0, 1))
        return logits

    def _mask(self, seen: Tensor) -> Tensor:
        """(N * heads, L, M), as nn.MultiheadAttention wants it."""
        return transformer.bias(seen).expand(-1, self.heads, -1, -1).flatten(0, 1)


def packed(options: argparse.Namespace, device: torch.device) -> Batch:
    """Random ids in sentences of 5 to 40 tokens, that fill the rows."""
    rows = max(1, options.tokens // options.length)
    sides = []
    for _ in range(2):
        sizes = torch.randint(5, 41, (rows, options.length), device="cpu")
        places = torch.arange(options.length)
        segments = 1 + (places[None, None] >= sizes.cumsum(1)[:, :, None]).sum(1)
        begins = torch.zeros_like(segments)
        begins[:, 1:] = torch.where(segments[:, 1:] != segments[:, :-1], places[1:], 0)
        ids = torch.randint(2, options.vocabulary, segments.shape)
        sides.append(torch.stack([ids, segments, places - begins.cummax(1).values]).to(device))
    return sides[0], sides[1]


def stepper(model: nn.Module, technique: Technique | None, options: argparse.Namespace) -> Step:
    """One optimizer step on a fixed random batch, compiled."""
    device = torch.device(options.device)
    model = model.to(device)
    source, target = packed(options, device)
    sparsifier = ow.sparsify(model, technique) if technique else None
    # Practically no learning: on a GPU a memorised batch is faster, since gradients near zero draw less power.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-8, betas=(0.9, 0.997), eps=1e-9, fused=True)
    if sparsifier:
        sparsifier.attach(optimizer)

    def objective(source: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(source, target)
        loss = F.cross_entropy(logits.float(), target[0].flatten(), ignore_index=0, label_smoothing=0.1)
        return loss + sparsifier.penalty() if sparsifier else loss

    compiled = torch.compile(
        objective,
        fullgraph=True,
        dynamic=False,
        backend=options.backend,
        **({"mode": options.mode} if options.mode else {}),
    )

    def step() -> None:
        torch.autograd.backward(compiled(source, target))
        optimizer.step()
        optimizer.zero_grad()

    return step


def dense(options: argparse.Namespace, attention_dropout: float) -> nn.Module:
    """The model."""
    return Transformer(
        options.vocabulary,
        width=options.width,
        hidden=4 * options.width,
        heads=options.heads,
        layers=options.layers,
        residual_dropout=options.dropout,
        attention_dropout=attention_dropout,
        hidden_dropout=options.dropout,
    )


def block_mask(seen: Tensor) -> Any:
    """What flex attention takes instead of a bias."""

    def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return seen[row, query, key]

    return create_block_mask(visible, len(seen), None, seen.shape[1], seen.shape[2], device=seen.device)


def flex(query: Tensor, key: Tensor, value: Tensor, mask: Any, dropout: float) -> Any:
    """Attention by blocks; without dropout."""
    return flex_attention(query, key, value, block_mask=mask)


def cudnn(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """The same dense bias, by cuDNN's kernels."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def no_bias(seen: Tensor) -> Tensor:
    """Nothing that a mask would cost."""
    return torch.zeros((), device=seen.device)


def unmasked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Attention to everything."""
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)


PLAIN = {"bias": transformer.bias, "attend": transformer.attend}
ATTENTION: dict[str, dict[str, Any]] = {
    "flex attention": {"bias": block_mask, "attend": flex},
    "cuDNN attention": {"bias": transformer.bias, "attend": cudnn},
    "no segments": {"bias": no_bias, "attend": unmasked},
}


def made(name: str, options: argparse.Namespace) -> Step:
    """The step of a variant."""
    techniques: dict[str, Technique] = {
        "magnitude": ow.GradualMagnitude(ow.OneShot(0.9), hidden="trained"),
        "variational dropout": ow.VariationalDropout(ow.Constant(1e-8)),
        "l0": ow.L0(ow.Constant(1e-8)),
    }
    if name == "nn.Transformer":
        return stepper(Peer(options), None, options)
    model = dense(options, 0.0 if "without" in name else options.dropout)
    if name == "nn.Dropout":
        for parent in list(model.modules()):
            for child, module in list(parent.named_children()):
                if isinstance(module, Dropout):
                    setattr(parent, child, nn.Dropout(module.p))
    return stepper(model, techniques.get(name), options)


VARIANTS = (
    "dense",
    "nn.Transformer",
    "nn.Dropout",
    "magnitude",
    "l0",
    "variational dropout",
    "dense without attention dropout",
    "flex attention",
    "cuDNN attention",
    "no segments",
)


def measured(name: str, step: Step, count: int, device: torch.device) -> list[float]:
    """Milliseconds of each of ``count`` steps."""
    for part, function in ATTENTION.get(name, PLAIN).items():
        setattr(transformer, part, function)  # each time: it decides what is compiled
    return milliseconds(step, count, device)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--tokens", type=int, default=24_576, help="of each side")
    parser.add_argument("--length", type=int, default=256, help="of a row")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--layers", type=int, default=6, help="of the encoder, and of the decoder")
    parser.add_argument("--vocabulary", type=int, default=33_288)
    parser.add_argument("--dropout", type=float, default=0.1, help="of all three kinds")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--mode", default="", help="of torch.compile; reduce-overhead takes CUDA graphs")
    parser.add_argument("--blocks", type=int, default=6, help="of steps, by turns with the dense model")
    parser.add_argument("--block", type=int, default=10, help="steps of a block")
    parser.add_argument("--warmup", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=420, help="after which no other variant is begun")
    add_out(parser)
    options = parser.parse_args()
    device, began = torch.device(options.device), time.monotonic()
    torch.manual_seed(0)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{options.tokens} source and target tokens, rows of {options.length}, width {options.width}, dropout "
        f"{options.dropout:g}, torch {torch.__version__}, {where}, n = {options.block * options.blocks}; "
        f"milliseconds a step, GiB"
    )
    print(
        f"{'':34}{'min':>8}{'median':>8}{'max':>8}{'dense':>8}{'median / dense':>16}{'GiB':>8}{'/ dense':>9}",
        flush=True,
    )
    for name in options.variants:
        if time.monotonic() - began > options.seconds:
            print(f"{name}: left out, {options.seconds:g} seconds are over", file=sys.stderr)
            continue
        torch._dynamo.reset()
        try:
            memory = []
            steps = []
            for each in ("dense", name):
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
                steps.append(made(each, options))
                measured(each, steps[-1], options.warmup, device)
                memory.append((torch.cuda.max_memory_allocated() - before) / 2**30 if device.type == "cuda" else 0.0)
            pair = list(zip(("dense", name), steps, strict=True))
            blocks = [[measured(*each, options.block, device) for each in pair] for _ in range(options.blocks)]
        except Exception as error:  # a variant that does not run is a result
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        theirs, mine = (list(itertools.chain.from_iterable(part)) for part in zip(*blocks, strict=True))
        beside = f"dense, beside {name}"
        keep(options.out, {name: mine, beside: theirs}, unit="ms a step", device=device, reference=beside)
        peaks = {name: memory[1:], beside: memory[:1]}
        keep(options.out, peaks, unit="GiB", device=device, reference=beside)
        middle, reference, (base, peak) = statistics.median(mine), statistics.median(theirs), memory
        row = f"{name:34}{min(mine):8.2f}{middle:8.2f}{max(mine):8.2f}{reference:8.2f}{middle / reference:16.3f}"
        print(f"{row}{peak:8.2f}{peak / base if base else 0:9.2f}", flush=True)


if __name__ == "__main__":
    main()
