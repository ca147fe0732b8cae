"""Section 6 of Gale, Elsen & Hooker 2019 (arXiv 1902.09574) at a small scale: what a pruned network's mask is worth.

Masks of magnitude pruning on LeNet-300-100, and networks that are trained with them from the first step. Besides the
paper's five kinds there are masks whose places are drawn, with old and with new initial weights, and weights rewound
to a later step than the first.
"""

from dataclasses import replace

from openwork.core.schedules import Cubic
from openwork.study.runs.origin import LotteryTicket, Origin, Rewound, Scratch
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import MnistLeNet300100
from openwork.techniques.magnitude import GradualMagnitude

LEVELS = (0.8, 0.9, 0.95, 0.98)
STEPS = 12_000
MASKS, REPLICAS = 5, 5
REWINDS = (120, 600, 2_400)
"""Steps to which weights are rewound: 1, 5 and 20 % of the training, before pruning begins."""


def mask(level: float, number: int) -> Run:
    """The magnitude pruning whose zeros the others keep: from a quarter to three quarters of the steps.

    Args:
        level: The sparsity, the same in every layer, as in the paper.
        number: Of the mask; its seed.
    """
    technique = GradualMagnitude(Cubic(level, begin=STEPS // 4, end=STEPS * 3 // 4))
    return Run(MnistLeNet300100(), technique, STEPS, seed=number)


def kinds(run: Run) -> dict[str, tuple[Origin, int]]:
    """The kinds of networks that keep a run's zeros: where they come from, and the factor of their steps."""
    return {
        "lottery ticket": (LotteryTicket(run), 1),
        "scratch-e": (Scratch(run), 1),
        "scratch-e, augmented": (Scratch(run, augmented=True), 1),
        "scratch-b": (Scratch(run), 2),
        "scratch-b, augmented": (Scratch(run, augmented=True), 2),
        "shuffled ticket": (LotteryTicket(run, shuffled=True), 1),
        "random mask": (Scratch(run, shuffled=True), 1),
        **{f"rewound to {step}": (Rewound(run, step), 1) for step in REWINDS},
    }


def networks() -> dict[tuple[str, float, int, int], Run]:
    """The runs by (kind, level, mask, replica); the mask's own run is "magnitude" with the replica 0.

    Replicas have new seeds, the same ones for every kind: of the batches and, in scratch runs, of the weights.
    """
    found = {}
    for level in LEVELS:
        for number in range(MASKS):
            run = mask(level, number)
            found["magnitude", level, number, 0] = run
            for kind, (origin, budget) in kinds(run).items():
                for replica in range(REPLICAS):
                    seed = 100 * (1 + number) + replica
                    kept = replace(run, technique=None, origin=origin, steps=budget * STEPS, seed=seed)
                    found[kind, level, number, replica] = kept
    return found


def section6() -> list[Run]:
    """All of them: 20 masks, and five networks of each of the ten kinds for every mask."""
    return list(networks().values())
