"""Writes a smaller copy of MiniLM's wheel, with zeros for the words that the study's sentences do not have.

A machine that takes no 90 MB gets this one instead; `run.py` finds the same numbers with both.

Run: python results/one-shot/pack.py FOLDER, which OPENWORK_WHEELS then names
"""

import argparse
import zipfile
from pathlib import Path

import torch
from entrants import SEEDS
from networks import WHEEL, MiniLM, used_tokens, wheels
from safetensors.torch import load, save

WORDS = "embeddings.word_embeddings.weight"


def pack(folder: Path) -> Path:
    """The file, written into ``folder``."""
    kept = sorted(used_tokens(MiniLM(torch.device("cpu")), SEEDS))
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheels() / WHEEL) as whole, zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as out:
        for name in whole.namelist():
            content = whole.read(name)
            if name.endswith("model.safetensors"):
                state = load(content)
                words = torch.zeros_like(state[WORDS])
                words[kept] = state[WORDS][kept]
                content = save(state | {WORDS: words})
            out.writestr(name, content)
    return folder / WHEEL


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets the wheel")
    pack(parser.parse_args().folder)
