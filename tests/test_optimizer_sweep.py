"""Every optimizer of torch, pytorch_optimizer and bitsandbytes trains under masks, or is refused with a reason."""

import importlib
import inspect

import pytest
import torch

from benchmarks.matrix.libraries import OpenworkMasks
from benchmarks.matrix.optimizers import NAMES, ROWS, split
from benchmarks.matrix.outcome import outcome

REFUSED = {
    "torch.optim.LBFGS": "LBFGS cannot be attached",
    "pytorch_optimizer.AdaLOMO": r"LOMO has no step() and moves weights inside backward()",
    "pytorch_optimizer.LOMO": r"LOMO has no step() and moves weights inside backward()",
    "pytorch_optimizer.SafeFP16Optimizer": "SafeFP16Optimizer runs no step hooks",
}
# What this machine cannot train with densely either.
NOT_HERE = {
    "torch.optim.SparseAdam": "sparse gradients only, which tests/core/test_optimizers.py has",
    "bitsandbytes.optim.AdEMAMix32bit": "CUDA only",
    "bitsandbytes.optim.PagedAdEMAMix32bit": "CUDA only",
    "pytorch_optimizer.DeMo": "needs einops",
}
TITLES = [row.title for row in ROWS if split(row.title)[0] != "torchao.optim"]


@pytest.mark.parametrize("package", [package for package in NAMES if package != "torchao.optim"])
def test_the_sweep_names_every_optimizer_of_a_package_once(package):
    module, base = importlib.import_module(package), torch.optim.Optimizer
    kinds = {name: kind for name, kind in vars(module).items() if inspect.isclass(kind) and issubclass(kind, base)}
    own = {name for name, kind in kinds.items() if kind is not base and kind.__module__.startswith(package)}
    if package == "torch.optim":
        assert {"Adam", "Muon"} < own
    named = [name for name in NAMES[package].split() if not name.endswith(".second_step")]
    assert sorted(named) == sorted(own)


@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize("title", [title for title in TITLES if title not in NOT_HERE])
def test_an_optimizer_trains_under_masks_or_says_why_not(title):
    (row,) = [row for row in ROWS if row.title == title]
    cell = outcome(OpenworkMasks, row.check)
    assert cell.status == ("refused" if title in REFUSED else "pass"), cell.text
    assert REFUSED.get(title, "") in cell.text
