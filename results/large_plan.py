"""The runs of large/PLAN.md in its order, as pieces that the driver executes."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import large_again as again
from driver import Piece, texts
from kept import COST, MEASURED, Key
from large_rows import KEY, WEIGHTS, chosen_beyond, chosen_gates, passes, read

from openwork.study.experiments import large_probes, large_resnet50, large_transformer
from openwork.study.experiments.large_resnet50 import Runs
from openwork.study.runs.run import Run

PARTS = "ABCDEFGHIJKL"
COLUMNS = (*MEASURED, "validation", "bleu", "tokenized_bleu", "recalibrated", "memory", *COST)
"""What a line has besides its key."""
RATES = {"ResNet-50": 200.0, "ResNet-50 x 0.25": 500.0, "Transformer": 250.0, "VGG-like": 700.0, "ImageNet": 40.0}
"""Run-steps a second of dense networks and masks on one H200, expected."""
SLOWER = {"variational dropout": 0.45, "L0": 0.72}
ENDS = {"ResNet-50": 1.5, "ResNet-50 x 0.25": 1.5, "Transformer": 11.0, "VGG-like": 2.0, "ImageNet": 12.0}
"""Seconds of a run besides its steps."""
THRESHOLD_SECONDS = 45.0  # of eleven thresholds, and of the translations at some of them


def pieces(rows: Path) -> list[tuple[str, Piece]]:
    """The pieces in the order of the plan, with the letters of their parts.

    Args:
        rows: The folder of rows.csv.
    """

    def piece(network: str, runs: Callable[[], Runs], technique: str = "", **settings: Any) -> Piece:
        rate, end = RATES[network] * SLOWER.get(technique, 1.0), ENDS[network]
        if (network, technique) == ("Transformer", "variational dropout"):
            end += THRESHOLD_SECONDS
        settings = {"evaluations": 2 if network == "Transformer" else 4} | settings
        return Piece("rows", KEY, partial(keyed, runs), rate, overhead=end, measured=COLUMNS, **settings)

    def some(every: Callable[[], Runs], technique: str, seeds: Iterable[int]) -> Runs:
        return {key: run for key, run in every().items() if key[1] == technique and key[3] in seeds}

    resnets, masks = large_resnet50, large_transformer.masks
    short, long = partial(resnets.compared, 20), partial(resnets.compared, 30)
    found: list[tuple[str, Piece]] = []

    def add(part: str, network: str, runs: Callable[[], Runs], technique: str = "", **settings: Any) -> None:
        found.append((part, piece(network, runs, technique, **settings)))

    for folder, network in again.NETWORKS.items():
        add("A", network, partial(again.runs, folder))
    add("B", "ResNet-50", partial(some, short, "dense", resnets.SEEDS))
    for seed, technique in product(resnets.SEEDS, ("magnitude", "random", "variational dropout")):
        add("B", "ResNet-50", partial(some, short, technique, [seed]), technique)
    add("C", "ResNet-50", partial(some, long, "dense", resnets.SEEDS))
    for lengths, technique in ((short, "magnitude, extended"), (long, "magnitude"), (long, "magnitude, extended")):
        add("C", "ResNet-50", partial(some, lengths, technique, resnets.SEEDS), technique)
    for seed in resnets.SEEDS:
        add("C", "ResNet-50", partial(some, long, "variational dropout", [seed]), "variational dropout")
    for technique in resnets.BEYOND:
        add("D", "ResNet-50", partial(some, resnets.pilots_beyond, technique, [resnets.PILOT]), technique)
    for technique in resnets.BEYOND:
        add("D", "ResNet-50", partial(some, lambda: resnets.beyond(chosen_beyond(read(rows))), technique,
                                      resnets.SEEDS), technique)  # fmt: skip
    for technique in ("dense", "magnitude", "random"):
        add("E", "ResNet-50 x 0.25", partial(some, resnets.narrow, technique, resnets.NARROW_SEEDS), technique)
    for technique, seed in product(("dense", "magnitude", "random"), large_transformer.NEW_SEEDS):
        every = partial(large_transformer.told, technique)
        add("F", "Transformer", partial(some, every, technique, [seed]), technique)
    for technique, weights in WEIGHTS.items():
        for weight in weights:
            add("F", "Transformer", partial(large_transformer.learned, technique, weight), technique)
    for preset, technique in product(large_transformer.PRESETS, ("dense", "magnitude")):
        every = partial(large_transformer.regularised, preset)
        add("G", "Transformer", partial(some, every, technique, large_transformer.SEEDS), technique)
    for replicas in ([], [0], [1], [2]):  # all masks first: who takes a ticket without its mask waits for it
        for level, number in product(large_transformer.MASK_LEVELS, range(large_transformer.MASKS)):
            add("H", "Transformer", partial(masks, level, number, replicas))
    for replicas in ([], [0], [1], [2]):
        for level, number in product(resnets.MASK_LEVELS, range(resnets.MASKS)):
            add("I", "ResNet-50", partial(resnets.masks, level, number, replicas))
    for seed in resnets.SEEDS:
        add("J", "ResNet-50", partial(some, resnets.between, "L0", [seed]), "L0")
    add("J", "ResNet-50", resnets.pilots_of_gates, "L0")
    add("J", "ResNet-50", lambda: resnets.gates(chosen_gates(read(rows))), "L0")
    add("J", "ResNet-50", partial(resnets.between, 1_000.0), "L0")
    add("K", "VGG-like", partial(large_probes.vgg, sparse=False), evaluations=20)
    add("K", "VGG-like", lambda: large_probes.vgg(sparse=True) if passes(read(rows)) else {}, "variational dropout",
        evaluations=20)  # fmt: skip
    for early in (False, True):
        add("L", "ImageNet", partial(large_probes.first_convolution, early=early), evaluations=8)
    return found


def progress(rows: Path) -> dict[str, tuple[list[str], int, int]]:
    """The experiments of each part, how many runs they are as far as rows say, and how many of them have a row.

    Args:
        rows: The folder of rows.csv.
    """
    there = {tuple(row[name] for name in KEY) for row in read(rows)}
    found: dict[str, dict[tuple[str, ...], bool]] = {part: {} for part in PARTS}
    for part, each in pieces(rows):
        for key in map(texts, each.runs()):
            if not any(key in others for others in found.values()):  # a mask is in several pieces
                found[part][key] = key in there
    return {
        part: (list(dict.fromkeys(key[0] for key in keys)), len(keys), sum(keys.values()))
        for part, keys in found.items()
    }


def keyed(runs: Callable[[], Runs]) -> dict[Key, Run]:
    """The runs by keys with an empty threshold, that of their training."""
    return {(*key, ""): run for key, run in runs().items()}
