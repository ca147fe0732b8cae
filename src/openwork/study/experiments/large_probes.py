"""Two questions about large networks: the VGG-like one trained as long as its authors did, and a layer that diverges.

Molchanov, Ashukha & Vetrov 2017, arXiv 1701.05369, figure 3; Gale, Elsen & Hooker 2019, arXiv 1902.09574, appendix E.2.
Every function returns runs by key: experiment, technique, setting and seed, with which the rows of results/large begin.
"""

from dataclasses import replace
from itertools import product

from openwork.core.schedules import Cubic, Linear
from openwork.core.selection import excluding, weight_matrices
from openwork.study.data.cifar10 import only_jpeg
from openwork.study.experiments.large_resnet50 import HELD_OUT, IMAGES, SEEDS, Runs
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.tasks.cifar10 import Cifar10Vgg
from openwork.study.tasks.imagenet import STEPS, ImageNetResNet
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.variational_dropout import VariationalDropout

VGG_STEPS = 200 * (IMAGES // 100)
RATES = (0.4, 0.05)
"""The paper's learning rate, that of 1,024 images, and what is left of it for 128."""
IMAGES_OF_A_STEP = 128
LATE, EARLY = (400, 1_000), (80, 680)
"""Hundredths of the paper's first and last steps of pruning, each 2,000: at 98 % the former alone did not diverge,
of 54 settings; the latter did, also at 95 %."""


def vgg(*, sparse: bool) -> Runs:
    """The VGG-like network for 200 epochs: dense with binary dropout, or SparseVD that starts from it.

    Args:
        sparse: Whether to return the latter.
    """
    task = Cifar10Vgg(jpeg=only_jpeg(), held_out=HELD_OUT)
    found: Runs = {}
    for seed in SEEDS:
        run = Run(replace(task, dropout=True), None, VGG_STEPS, seed=seed)
        if sparse:
            ramp = Linear(1 / IMAGES, begin=VGG_STEPS // 40, end=VGG_STEPS // 10)
            technique = VariationalDropout(ramp, log_sigma2=-15.0)
            run = Run(replace(task, l2=0.0), technique, VGG_STEPS, seed=seed, origin=Pretrained(run))
        found["VGG-like", "variational dropout" if sparse else "dense", "200 epochs", seed] = run
    return found


def first_convolution(*, early: bool = False) -> Runs:
    """ResNet-50 pruned to 98 % by magnitude on 1,000 images, with the first convolution among the pruned or dense.

    A hundredth of the paper's steps; norms see 128 images, as there. Accuracies mean nothing: training and validation
    images are the same.

    Args:
        early: Whether to prune at `EARLY`, with the paper's learning rate before it falls, instead of at `LATE`.
    """
    begin, end = EARLY if early else LATE
    technique = GradualMagnitude(Cubic(0.98, begin=begin, end=end, every=20), hidden="trained")
    found: Runs = {}
    for rate, dense_first, seed in product(RATES[:1] if early else RATES, (False, True), SEEDS):
        task = ImageNetResNet(
            "imagenet-sample", "train", size=128, batch_size=IMAGES_OF_A_STEP, rate=rate * 256 / IMAGES_OF_A_STEP
        )
        select = excluding("conv1.weight") if dense_first else weight_matrices
        name = ("first convolution dense" if dense_first else "all layers sparse") + (", early" if early else "")
        run = Run(task, technique, STEPS // 100, seed=seed, select=select)
        found["first convolution", name, f"{rate:g}", seed] = run
    return found
