"""openwork makes PyTorch models sparse while they train, and measures what that costs."""

from openwork.core.allocations import AboveThreshold, ErdosRenyiKernel, GlobalRanking, Lamp, PerLayer, Uniform
from openwork.core.batchnorm import recalibrate_batchnorm
from openwork.core.one_shot import Pruned, prune
from openwork.core.patterns import NM, Block, Columns, Rows, Unstructured
from openwork.core.schedules import AveragedCubic, Constant, Cubic, Linear, OneShot
from openwork.core.selection import all_parameters, excluding, matching, matmul_weights, weights_of
from openwork.core.sparsifier import Sparsifier, sparsify
from openwork.inspect.report import Audit, audit
from openwork.techniques.dns import DynamicSurgery, Splicing
from openwork.techniques.group_l0 import GroupL0
from openwork.techniques.han import PruneRetrain
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.random import RandomPruning
from openwork.techniques.soft_weight_sharing import SoftWeightSharing
from openwork.techniques.variational_dropout import VariationalDropout

__all__ = [
    "L0",
    "NM",
    "AboveThreshold",
    "Audit",
    "AveragedCubic",
    "Block",
    "Columns",
    "Constant",
    "Cubic",
    "DynamicSurgery",
    "ErdosRenyiKernel",
    "GlobalRanking",
    "GradualMagnitude",
    "GroupL0",
    "Lamp",
    "Linear",
    "OneShot",
    "PerLayer",
    "PruneRetrain",
    "Pruned",
    "RandomPruning",
    "Rows",
    "SoftWeightSharing",
    "Sparsifier",
    "Splicing",
    "Uniform",
    "Unstructured",
    "VariationalDropout",
    "all_parameters",
    "audit",
    "excluding",
    "matching",
    "matmul_weights",
    "prune",
    "recalibrate_batchnorm",
    "sparsify",
    "weights_of",
]
__version__ = "0.1.0"
