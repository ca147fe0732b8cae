r"""Sentences a second by beam search: openwork's Transformer-base beside a Marian model of the same size, taking turns.

Both have random weights of equal shapes (width 512, 6 + 6 layers, 33,288 ids), bfloat16 on a GPU, beam 4, and translate
the same sentences, sorted by length, in the same batches. A random model does not end its sentences, and when it ends
would decide the figure: so both write exactly as many tokens as the source has. The source is a file of text, or random
sentences with the lengths of newstest2014's.

    python benchmarks/translate.py --device cuda [--source newstest2014.en]
    python benchmarks/translate.py --sentences 16 --layers 1 --width 32 --vocabulary 200 --rounds 1     small, for a CPU
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from raw import add_out, keep

from openwork.study.evaluation.beam import beam_search
from openwork.study.models.incremental import Incremental
from openwork.study.models.transformer import Transformer, padded

NEVER = -1e9


def lengths(options: argparse.Namespace) -> list[int]:
    """Of the sentences, in ids, the longest first."""
    if options.source:
        # A subword vocabulary of 32,000 gives about 1.35 ids for each word of news.
        words = [len(line.split()) for line in Path(options.source).read_text(encoding="utf-8").splitlines()]
        found = [max(2, round(1.35 * count)) for count in words]
    else:
        # newstest2014: 22.5 words a sentence, log-normal with a deviation of 0.55.
        generator = np.random.default_rng(0)
        found = [int(min(max(n, 2), 150)) for n in generator.lognormal(np.log(26), 0.55, options.sentences)]
    return sorted(found, reverse=True)[: options.sentences]


def ours(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Callable[[torch.Tensor], int]:
    """A function that translates a batch of ids (N, S) and says how many tokens it wrote."""
    model = Transformer(
        options.vocabulary, width=options.width, hidden=4 * options.width, heads=options.heads, layers=options.layers
    )
    decoder = Incremental(model.to(device).eval(), dtype)

    def translate(ids: torch.Tensor) -> int:
        count, length = ids.shape
        prefixes = decoder.begin(padded(ids.tolist()).to(device), options.beam)
        limits = torch.full((count,), length, device=device)
        # An id that no vocabulary has: nothing ends before the limit.
        found, _ = beam_search(prefixes, limits, beam=options.beam, eos=-1)
        return sum(map(len, found))

    return translate


def marian(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Callable[[torch.Tensor], int]:
    """The same with Hugging Face's MarianMTModel.generate."""
    from transformers import MarianConfig, MarianMTModel

    config = MarianConfig(
        vocab_size=options.vocabulary,
        d_model=options.width,
        encoder_layers=options.layers,
        decoder_layers=options.layers,
        encoder_attention_heads=options.heads,
        decoder_attention_heads=options.heads,
        encoder_ffn_dim=4 * options.width,
        decoder_ffn_dim=4 * options.width,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
    )
    model: Any = MarianMTModel(config)  # types do not follow how its methods are wrapped
    model = model.to(device=device, dtype=dtype).eval()

    def translate(ids: torch.Tensor) -> int:
        count, length = ids.shape
        with torch.inference_mode():
            found = model.generate(
                ids.to(device),
                attention_mask=torch.ones_like(ids, device=device),
                num_beams=options.beam,
                min_new_tokens=length,
                max_new_tokens=length,
                length_penalty=0.6,
                do_sample=False,
            )
        return int(count * (found.shape[1] - 1))

    return translate


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--source", help="a text file with a sentence a line")
    parser.add_argument("--sentences", type=int, default=3_003)
    parser.add_argument("--batch", type=int, default=128, help="sentences translated together")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=33_288)
    add_out(parser)
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    sizes = lengths(options)
    batches = [sizes[begin : begin + options.batch] for begin in range(0, len(sizes), options.batch)]
    # All sentences of a batch as long as its longest, so that neither has padding to leave out.
    inputs = [torch.randint(2, options.vocabulary, (len(batch), batch[0])) for batch in batches]
    variants = {"openwork": ours(options, device, dtype), "transformers, Marian": marian(options, device, dtype)}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(options.rounds + 1):
        for name, translate in variants.items():
            part = inputs if round_ else inputs[-1:]  # the first time warms up
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            written = sum(translate(ids) for ids in part)
            if device.type == "cuda":
                torch.cuda.synchronize()
            expected = sum(ids.numel() for ids in part)
            if written != expected:
                raise RuntimeError(f"{name} wrote {written} tokens instead of {expected}")
            if round_:
                times[name].append(time.perf_counter() - began)
                print(f"{name}: {times[name][-1]:.1f} s", file=sys.stderr)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{len(sizes)} sentences, {sum(ids.numel() for ids in inputs)} tokens, beam {options.beam}, batches of "
        f"{options.batch}, {str(dtype).removeprefix('torch.')}, torch {torch.__version__}, {where}, "
        f"n = {options.rounds}"
    )
    keep(options.out, times, unit="s", device=device, reference="transformers, Marian")
    print(f"{'':24}{'sentences/s':>12}{'min':>10}{'max':>10}{'ratio':>8}")
    base = statistics.median(times["transformers, Marian"])
    for name, seconds in times.items():
        middle, low, high = (len(sizes) / s for s in (statistics.median(seconds), max(seconds), min(seconds)))
        print(f"{name:24}{middle:12.1f}{low:10.1f}{high:10.1f}{base / statistics.median(seconds):8.2f}")


if __name__ == "__main__":
    main()
