"""CIFAR-10: SparseVD against width (Molchanov et al. 2017, figure 3), and L0 on WRN-28-10 (Gale et al. 2019, App. C).

All runs read the lossless images, or the JPEG copy where the folder of data sets has only that; a run's title says
which. ``seed=1`` and so on give the other seeds, each with its own pre-training.
"""

from openwork.core.schedules import Constant, Linear
from openwork.core.selection import matching
from openwork.study.data.cifar10 import only_jpeg
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.tasks.cifar10 import Cifar10Vgg, Cifar10WideResNet
from openwork.techniques.l0 import L0
from openwork.techniques.variational_dropout import VariationalDropout

IMAGES, EPOCHS = 50_000, 40
WIDTHS = (0.25, 0.5, 1.0, 1.5, 2.0)


def vgg(epochs: int = EPOCHS) -> list[Run]:
    """For each width: dense with binary dropout, and SparseVD that starts from it.

    SparseVD's own settings: log sigma^2 starts at -15, the KL term is off for the first 2.5 % of the steps and full
    from 10 %. Its code trains 200 epochs at a rate of 1e-5. Here the rate times the number of steps is the same: Adam
    moves log sigma^2 by at most the rate in a step, so their product decides how far it gets from where it starts.

    Args:
        epochs: How long each run trains; another length than 40 epochs makes a variant of SparseVD.
    """
    steps, rate, jpeg = epochs * IMAGES // 100, 1e-5 * 200 / epochs, only_jpeg()
    ramp = Linear(1 / IMAGES, begin=steps // 40, end=steps // 10)
    sparse_vd = VariationalDropout(ramp, log_sigma2=-15.0)
    variant = "" if epochs == EPOCHS else f"{epochs} epochs"
    runs = []
    for width in WIDTHS:
        dense = Run(Cifar10Vgg(peak_learning_rate=rate, width=width, dropout=True, jpeg=jpeg), None, steps)
        task = Cifar10Vgg(peak_learning_rate=rate, width=width, l2=0.0, jpeg=jpeg)
        runs += [dense, Run(task, sparse_vd, steps, origin=Pretrained(dense), variant=variant)]
    return runs


def wide_resnet() -> list[Run]:
    """WRN-28-10 dense, and with an L0 gate for every weight of the first convolution of each block; 200 epochs.

    Lambda = 0.0003 counts each expected non-zero weight, not divided by the number of training images: SGD moves a gate
    by rate * gradient, and divided, 200 epochs would move log alpha by 1e-5. The value of the penalty, about 5,000 at
    the start, is of no consequence; its gradient is.
    """
    task, steps = Cifar10WideResNet(jpeg=only_jpeg()), 200 * (IMAGES // 128)
    l0 = L0(Constant(3e-4), dropout=0.3, weight_decay=5e-4)
    return [Run(task, None, steps), Run(task, l0, steps, select=matching("stage*.conv1.weight"))]
