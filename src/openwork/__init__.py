"""openwork makes PyTorch models sparse while they train, and measures what that costs."""

from openwork.core.allocations import ERK, LAMP, AboveThreshold, GlobalRanking, PerLayer, Uniform
from openwork.core.batchnorm import recalibrate_batchnorm
from openwork.core.one_shot import Pruned, prune
from openwork.core.patterns import NM, Block, Columns, Rows, Unstructured
from openwork.core.schedules import AveragedCubic, Constant, Cubic, Linear, OneShot
from openwork.core.selection import (
    Excluding,
    Matching,
    WeightsOf,
    all_parameters,
    excluding,
    matching,
    weight_matrices,
    weights_of,
)
from openwork.core.sparsifier import Sparsifier, sparsify
from openwork.inspect.report import Report, report
from openwork.techniques.dns import DynamicSurgery, Splicing
from openwork.techniques.group_l0 import GroupL0
from openwork.techniques.han import PruneRetrain
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.soft_weight_sharing import SoftWeightSharing
from openwork.techniques.variational_dropout import VariationalDropout

__all__ = [
    "ERK",
    "L0",
    "LAMP",
    "NM",
    "AboveThreshold",
    "AveragedCubic",
    "Block",
    "Columns",
    "Constant",
    "Cubic",
    "DynamicSurgery",
    "Excluding",
    "GlobalRanking",
    "GradualMagnitude",
    "GroupL0",
    "Linear",
    "Matching",
    "OneShot",
    "PerLayer",
    "PruneRetrain",
    "Pruned",
    "RandomPruning",
    "Report",
    "Rows",
    "SoftWeightSharing",
    "Sparsifier",
    "Splicing",
    "Uniform",
    "Unstructured",
    "VariationalDropout",
    "WeightsOf",
    "all_parameters",
    "excluding",
    "matching",
    "prune",
    "recalibrate_batchnorm",
    "report",
    "sparsify",
    "weight_matrices",
    "weights_of",
]
__version__ = "0.1.0"
