"""What the release's techniques make of a trained variable, and how its script counts the zeros.

Gale et al. 2019, arXiv 1902.09574: masks of model_pruning, thresholds on log alpha, test-time gates of L0. Computed in
float32 and in the order of operations of the release, so that the counts are equal.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openwork.study.release.variables import WEIGHTS, Variables

_EPSILON, _GAMMA, _ZETA = 1e-8, -0.1, 1.1
_AUXILIARY = "_aux"
Array = npt.NDArray[np.float32]


class Technique(StrEnum):
    """How a checkpoint was made sparse."""

    DENSE = "dense"
    MAGNITUDE = "magnitude"
    RANDOM = "random"
    VARIATIONAL_DROPOUT = "variational-dropout"
    L0 = "l0"


# The last part of a variable's name -> whose it is.
_TRACES = {
    "mask": (Technique.MAGNITUDE, Technique.RANDOM),
    "log_sigma2": (Technique.VARIATIONAL_DROPOUT,),
    "log_alpha": (Technique.L0,),
}
_SUFFIX = {technique: suffix for suffix, techniques in _TRACES.items() for technique in techniques}


@dataclass(frozen=True)
class Count:
    """What the release's script counts.

    Args:
        zeros: Weights that are zero.
        total: Weights that a technique may make zero.
    """

    zeros: int
    total: int

    @property
    def sparsity(self) -> float:
        """The fraction of zeros, 0-1."""
        return self.zeros / self.total


def check_technique(variables: Variables, technique: Technique, threshold: float | None) -> None:
    """Checks that a checkpoint was made by a technique.

    Args:
        variables: Those of the checkpoint.
        technique: The technique.
        threshold: On log alpha, which variational dropout needs.

    Raises:
        ValueError: If it was made by another one, or the threshold does not fit.
    """
    found = {suffix for suffix in _TRACES if variables.matching(suffix)}
    others = sorted({other for suffix in found for other in _TRACES[suffix]})
    wanted = _SUFFIX.get(technique)
    if technique not in others if wanted else others:
        what = f"no {wanted}" if wanted else f"a {min(found)}"
        cure = f"--technique {' or '.join(others)}" if others else "--technique dense"
        raise ValueError(
            f"{variables.bundle.prefix} has {what} beside its weights, so it is not {technique}; give {cure}"
        )
    if len(found) > 1:
        raise ValueError(
            f"{variables.bundle.prefix} has both {' and '.join(sorted(found))} beside its weights, which no technique "
            "of the release has; is it one of its checkpoints?"
        )
    if technique is Technique.VARIATIONAL_DROPOUT and threshold is None:
        raise ValueError(
            "variational dropout needs --threshold, on log alpha: the last number of a Transformer's name in the "
            "release, 0.5 for its ResNet-50"
        )
    if technique is not Technique.VARIATIONAL_DROPOUT and threshold is not None:
        raise ValueError(f"--threshold is for variational dropout, and {technique} has none; leave it out")
    if threshold is not None and not math.isfinite(threshold):
        raise ValueError(f"--threshold must be a finite number, got {threshold}; give the one of the release")


def partner(variables: Variables, technique: Technique, name: str) -> str | None:
    """The variable that says which weights of another one are zero; None if it has none, and so is dense.

    Args:
        variables: Those of the checkpoint.
        technique: How it was made.
        name: The variable with the weights.
    """
    if technique is Technique.DENSE:
        return None
    suffix, folder = _SUFFIX[technique], name.rpartition("/")[0]
    # The parameters of the shared matrix are called after it, and its mask is one for all of its pieces.
    candidates = (f"{folder}/{suffix}",) if suffix == "mask" else (name + _AUXILIARY, f"{folder}/{suffix}")
    return next((candidate for candidate in candidates if candidate in variables), None)


def effective(weight: Tensor, beside: Tensor, technique: Technique, threshold: float | None) -> Tensor:
    """The weight that evaluation computes with.

    Args:
        weight: The variable, or the mean.
        beside: The mask, log sigma^2 or log alpha.
        technique: Which of them it is.
        threshold: On log alpha, for variational dropout.

    Raises:
        ValueError: If a mask holds other numbers than 0 and 1.
    """
    if technique is Technique.L0:
        return weight * torch.from_numpy(_gates(beside.numpy()))
    if technique is Technique.VARIATIONAL_DROPOUT:
        assert threshold is not None
        kept = torch.from_numpy(_below(beside.numpy(), weight.numpy(), threshold))
    else:
        kept = beside == 1
        if not (kept | (beside == 0)).all():
            raise ValueError("a mask has other numbers than 0 and 1")
    return torch.where(kept, weight, torch.zeros((), dtype=weight.dtype))


def release_count(variables: Variables, technique: Technique, threshold: float | None) -> Count | None:
    """What the release's checkpoint_sparsity counts, by the ends of names alone; None for a dense checkpoint.

    Args:
        variables: Those of the checkpoint.
        technique: How it was made.
        threshold: On log alpha, for variational dropout.
    """
    if technique is Technique.DENSE:
        return None
    suffixes = ("mask",) if _SUFFIX[technique] == "mask" else (_SUFFIX[technique], _AUXILIARY)
    zeros = total = 0
    for name in variables.names:
        if not name.endswith(suffixes):
            continue
        values = variables.bundle.tensor(name).numpy()
        if technique is Technique.VARIATIONAL_DROPOUT:
            assert threshold is not None
            mean = variables.bundle.tensor(_mean_of(variables, name)).numpy()
            kept = int(np.count_nonzero(_below(values, mean, threshold)))
        else:
            kept = int(np.count_nonzero(_gates(values) if technique is Technique.L0 else values))
        zeros, total = zeros + values.size - kept, total + values.size
    return Count(zeros, total) if total else None


def _mean_of(variables: Variables, name: str) -> str:
    """The variable with the means that belong to a log sigma^2."""
    if name.endswith(_AUXILIARY):
        return name.removesuffix(_AUXILIARY)
    folder = name.rpartition("/")[0]
    found = [f"{folder}/{leaf}" for leaf in WEIGHTS if f"{folder}/{leaf}" in variables]
    if not found:
        raise ValueError(f"{variables.bundle.prefix} has {name!r} and no weights beside it; is it a checkpoint of the "
                         "release?")  # fmt: skip
    return found[0]


def _below(log_sigma2: Array, theta: Array, threshold: float) -> npt.NDArray[np.bool_]:
    """Where log alpha is below the threshold."""
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.bool_] = np.less(log_sigma2 - np.log(np.square(theta) + _EPSILON), threshold)
    return found


def _gates(log_alpha: Array) -> Array:
    """The gates of L0 at test time."""
    with np.errstate(over="ignore"):
        gates: Array = np.clip(1 / (1 + np.exp(-log_alpha)) * (_ZETA - _GAMMA) + _GAMMA, 0.0, 1.0)
    return gates
