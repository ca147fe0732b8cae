"""The public names of openwork, which `import openwork as ow` gives."""

from openwork.core.batchnorm import recalibrate_batchnorm
from openwork.core.converted import Converted
from openwork.core.layout import declare_layout
from openwork.core.masks.allocations import ERK, LAMP, Allocation, GlobalRanking, PerLayer, Uniform
from openwork.core.masks.blocks import Block, Columns, Rows
from openwork.core.masks.blockwise.reconstruct import reconstruct
from openwork.core.masks.blockwise.result import Pruned, PrunedLayer
from openwork.core.masks.criterion import Criterion, Sparsity, Threshold
from openwork.core.masks.evidence import Evidence, View
from openwork.core.masks.one_shot import prune
from openwork.core.masks.patterns import Pattern, Unstructured
from openwork.core.masks.rows import NM, PerOutput
from openwork.core.masks.scan import Sensitivity, SensitivityRow
from openwork.core.masks.sensitivity import sensitivity
from openwork.core.masks.technique import MaskTechnique
from openwork.core.parameters.technique import Reparameterization
from openwork.core.parameters.weight import ReparameterizedWeight
from openwork.core.schedules import AveragedCubic, Constant, Cubic, Linear, OneShot, Phases, Schedule
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
from openwork.core.sparsifier import Sparsifier
from openwork.core.sparsify import sparsify
from openwork.formats.onnx.export import Exported, export_onnx
from openwork.formats.sparse.load import load
from openwork.formats.sparse.save import Saved, save
from openwork.inference.accelerate import accelerate
from openwork.inference.accelerated import Accelerated
from openwork.inference.alternative import Alternative
from openwork.inference.permute.permute import permute
from openwork.inference.permute.permuted import Permuted, PermutedGroup
from openwork.inference.shrink.shrink import shrink
from openwork.inference.shrink.shrunk import Shrunk
from openwork.inspect.report import Report, report
from openwork.techniques.acdc import ACDC
from openwork.techniques.admm import ADMM
from openwork.techniques.alps import ALPS
from openwork.techniques.dsnot import DSnoT
from openwork.techniques.dynamic_surgery import DynamicSurgery, Splicing
from openwork.techniques.force import FORCE
from openwork.techniques.grasp import GraSP
from openwork.techniques.group_l0 import GroupL0
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.movement import Movement
from openwork.techniques.obs import OBS
from openwork.techniques.owl import OWL
from openwork.techniques.prune_retrain import PruneRetrain
from openwork.techniques.random import RandomPruning
from openwork.techniques.ria import RIA
from openwork.techniques.rigl import RigL
from openwork.techniques.set import SET
from openwork.techniques.snip import SNIP
from openwork.techniques.soft_movement import SoftMovement
from openwork.techniques.soft_weight_sharing import SoftWeightSharing
from openwork.techniques.sparsegpt import SparseGPT
from openwork.techniques.sr_ste import SRSTE
from openwork.techniques.str import STR
from openwork.techniques.synflow import SynFlow
from openwork.techniques.top_kast import TopKAST
from openwork.techniques.variational_dropout import VariationalDropout
from openwork.techniques.wanda import Wanda

__all__ = [
    "ACDC",
    "ADMM",
    "ALPS",
    "ERK",
    "FORCE",
    "L0",
    "LAMP",
    "NM",
    "OBS",
    "OWL",
    "RIA",
    "SET",
    "SNIP",
    "SRSTE",
    "STR",
    "Accelerated",
    "Allocation",
    "Alternative",
    "AveragedCubic",
    "Block",
    "Columns",
    "Constant",
    "Converted",
    "Criterion",
    "Cubic",
    "DSnoT",
    "DynamicSurgery",
    "Evidence",
    "Excluding",
    "Exported",
    "GlobalRanking",
    "GraSP",
    "GradualMagnitude",
    "GroupL0",
    "Linear",
    "MaskTechnique",
    "Matching",
    "Movement",
    "OneShot",
    "Pattern",
    "PerLayer",
    "PerOutput",
    "Permuted",
    "PermutedGroup",
    "Phases",
    "PruneRetrain",
    "Pruned",
    "PrunedLayer",
    "RandomPruning",
    "Reparameterization",
    "ReparameterizedWeight",
    "Report",
    "RigL",
    "Rows",
    "Saved",
    "Schedule",
    "Sensitivity",
    "SensitivityRow",
    "Shrunk",
    "SoftMovement",
    "SoftWeightSharing",
    "SparseGPT",
    "Sparsifier",
    "Sparsity",
    "Splicing",
    "SynFlow",
    "Threshold",
    "TopKAST",
    "Uniform",
    "Unstructured",
    "VariationalDropout",
    "View",
    "Wanda",
    "WeightsOf",
    "accelerate",
    "all_parameters",
    "declare_layout",
    "excluding",
    "export_onnx",
    "load",
    "matching",
    "permute",
    "prune",
    "recalibrate_batchnorm",
    "reconstruct",
    "report",
    "save",
    "sensitivity",
    "shrink",
    "sparsify",
    "weight_matrices",
    "weights_of",
]
