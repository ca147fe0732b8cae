"""CIFAR-10: SparseVD against width (Molchanov et al. 2017, figure 3), and L0 on WRN-28-10 (Gale et al. 2019, App. C).

All runs read the lossless images where the folder of data sets has them or nothing, and the JPEG copy where that is
all it has; a run's title says which. ``seed=1`` and so on give the other seeds, each with a pre-training of its own.
"""

from openwork.core.schedules import Constant, Linear
from openwork.core.selection import matching
from openwork.study.data.cifar10 import only_jpeg
from openwork.study.experiments.run import Run
from openwork.study.tasks.cifar10 import Cifar10Vgg, Cifar10WideResNet
from openwork.techniques.l0 import L0
from openwork.techniques.variational_dropout import VariationalDropout

IMAGES = 50_000
WIDTHS = (0.25, 0.5, 1.0, 1.5, 2.0)


def vgg() -> list[Run]:
    """For each width: dense with binary dropout, SparseVD that starts from it, dense without dropout; 200 epochs each.

    SparseVD's own settings: log sigma^2 starts at -15, the KL term is off for 5 epochs and full from 20.
    """
    epoch = IMAGES // 100
    ramp = Linear(1 / IMAGES, begin=5 * epoch, end=20 * epoch)
    sparse_vd, jpeg, steps = VariationalDropout(ramp, log_sigma2=-15.0), only_jpeg(), 200 * epoch
    runs = []
    for width in WIDTHS:
        dropout = Run(Cifar10Vgg(width=width, dropout=True, jpeg=jpeg), None, steps)
        sparse = Run(Cifar10Vgg(width=width, l2=0.0, jpeg=jpeg), sparse_vd, steps, start=dropout)
        runs += [dropout, sparse, Run(Cifar10Vgg(width=width, jpeg=jpeg), None, steps)]
    return runs


def wide_resnet() -> list[Run]:
    """WRN-28-10 dense, and with an L0 gate for every weight of the first convolution of each block; 200 epochs.

    Lambda = 0.0003 is taken as Louizos et al.'s code takes it, whose loss divides the penalty by the number of
    training images: 0.0003 / 50,000 for each expected non-zero. Not divided, the penalty of the 16.8 million gated
    weights would be about 5,000 at the start, and the cross-entropy 2.3.
    """
    task, steps = Cifar10WideResNet(jpeg=only_jpeg()), 200 * (IMAGES // 128)
    l0 = L0(Constant(3e-4 / IMAGES), dropout=0.3, weight_decay=5e-4)
    return [Run(task, None, steps), Run(task, l0, steps, select=matching("stage*.conv1.weight"))]
