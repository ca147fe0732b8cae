"""Techniques that prune before training, with the controls of Frankle et al. 2021, arXiv 2009.08576, section 4.

If a technique's mask is worth as much with its zeros shuffled within each layer, or with new weights, it has chosen how
many weights each layer keeps, and not which.
"""

from dataclasses import replace

from openwork.core.masks.allocations import ERK, GlobalRanking
from openwork.core.masks.technique import MaskTechnique
from openwork.core.schedules import OneShot
from openwork.study.experiments.scratch import scratch
from openwork.study.runs.origin import LotteryTicket
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import MnistLeNet300100
from openwork.techniques.force import FORCE
from openwork.techniques.grasp import GraSP
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.snip import SNIP
from openwork.techniques.synflow import SynFlow

SEEDS = range(3)


def controls(run: Run) -> list[Run]:
    """The run's first weights under its mask with the zeros of each layer shuffled, and new weights under its mask.

    Args:
        run: A run that prunes before training.
    """
    shuffled = replace(
        run, technique=None, origin=LotteryTicket(run, shuffled=True), variant=f"of {run.name}, shuffled"
    )
    (again,) = scratch(run, 1)
    return [shuffled, replace(again, variant=f"of {run.name}")]


def lenet(sparsity: float = 0.98, steps: int = 1000) -> list[Run]:
    """LeNet-300-100 on MNIST, pruned before training by each technique and at random, with the controls.

    Args:
        sparsity: Of all weights together.
        steps: Of each training.
    """
    found = []
    for seed in SEEDS:
        found.append(Run(MnistLeNet300100(), RandomPruning(OneShot(sparsity), allocation=ERK()), steps, seed))
        for technique, variant in _techniques(OneShot(sparsity)):
            run = Run(MnistLeNet300100(), technique, steps, seed, variant=variant)
            found += [run, *controls(run)]
    return found


def _techniques(once: OneShot) -> list[tuple[MaskTechnique, str]]:
    return [
        (GradualMagnitude(once, allocation=GlobalRanking()), "at init"),
        (SNIP(once), ""),
        (SNIP(once, rounds=60), "iterated"),
        (FORCE(once), ""),
        (GraSP(once), ""),
        (SynFlow(once), ""),
    ]
