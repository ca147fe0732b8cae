"""LeNets on MNIST: the runs behind ``results/mnist``."""

from openwork.core.schedules import Cubic, Linear
from openwork.study.experiments.run import Run
from openwork.study.tasks.lenet import MnistLeNet300100
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.variational_dropout import VariationalDropout

IMAGES = 60_000
EPOCH = IMAGES // 100


def dense() -> Run:
    """LeNet-300-100 without sparsity, 200 epochs."""
    return Run(MnistLeNet300100(), None, steps=200 * EPOCH)


def magnitude() -> Run:
    """LeNet-300-100 pruned to 90 % between epochs 20 and 100 of 200, the same in every layer."""
    schedule = Cubic(0.9, begin=20 * EPOCH, end=100 * EPOCH, every=EPOCH)
    return Run(MnistLeNet300100(), GradualMagnitude(schedule), steps=200 * EPOCH)


def best_variational_dropout() -> Run:
    """LeNet-300-100 with settings chosen on the last 10,000 training images, held out for that.

    They differ from `variational_dropout` in train_clip, which SparseVD's code has for its LeNets and which did most,
    in the ramp (0 to full over 50 epochs), the learning rate (2e-3), the initial log sigma^2 (-8) and 0.9 of the KL.
    """
    ramp = Linear(0.9 / IMAGES, end=50 * EPOCH)
    technique = VariationalDropout(ramp, log_sigma2=-8.0, train_clip=True)
    return Run(MnistLeNet300100(peak_learning_rate=2e-3), technique, steps=200 * EPOCH)


def variational_dropout() -> Run:
    """LeNet-300-100 with the schedule of SparseVD's own code: 200 epochs, KL off for 5, full from 20."""
    ramp = Linear(1 / IMAGES, begin=5 * EPOCH, end=20 * EPOCH)
    return Run(MnistLeNet300100(), VariationalDropout(ramp), steps=200 * EPOCH)
