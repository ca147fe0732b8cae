"""openwork makes PyTorch models sparse while they train, and measures what that costs."""

from openwork.core.allocations import ErdosRenyiKernel, GlobalRanking, Lamp, PerLayer, Uniform
from openwork.core.batchnorm import recalibrate_batchnorm
from openwork.core.one_shot import Pruned, prune
from openwork.core.patterns import NM, Block, Columns, Rows, Unstructured
from openwork.core.schedules import Constant, Cubic, Linear, OneShot
from openwork.core.selection import all_parameters, excluding, matching, matmul_weights, weights_of
from openwork.core.sparsifier import Sparsifier, sparsify
from openwork.inspect.report import Report, report
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.variational_dropout import VariationalDropout

__all__ = [
    "L0",
    "NM",
    "Block",
    "Columns",
    "Constant",
    "Cubic",
    "ErdosRenyiKernel",
    "GlobalRanking",
    "GradualMagnitude",
    "Lamp",
    "Linear",
    "OneShot",
    "PerLayer",
    "Pruned",
    "RandomPruning",
    "Report",
    "Rows",
    "Sparsifier",
    "Uniform",
    "Unstructured",
    "VariationalDropout",
    "all_parameters",
    "excluding",
    "matching",
    "matmul_weights",
    "prune",
    "recalibrate_batchnorm",
    "report",
    "sparsify",
    "weights_of",
]
__version__ = "0.1.0"
