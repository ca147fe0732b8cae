"""The lines of docs/migration.md run, and give the masks of what they replace."""

import ast
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import openwork as ow

PAGE = (Path(__file__).parents[1] / "docs" / "migration.md").read_text()
LINES = [code for row in PAGE.splitlines() if row.startswith("| ") for code in re.findall(r"`([^`]*ow\.[^`]*)`", row)]


def two():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 12))


def zeros(model):
    return [layer.weight == 0 for layer in model if isinstance(layer, nn.Linear)]


def equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(zeros(ours), theirs, strict=True))


def theirs(method, model, **arguments):
    for layer in (model[0], model[2]):
        method(layer, "weight", **arguments)
    return zeros(model)


def magnitude(sparsity=0.5, **arguments):
    model = two()
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(sparsity), **arguments))
    return model


@pytest.mark.parametrize("code", LINES)
def test_each_line_is_python_with_names_that_exist(code):
    code = f"dict({code})" if re.match(r"\w+=", code) else code
    for node in ast.walk(ast.parse(code, mode="eval")):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ow":
            assert node.attr in ow.__all__, code
    call = ast.parse(code, mode="eval").body
    if isinstance(call, ast.Attribute) or {"accelerate", "export_onnx", "shrink"} & set(re.findall(r"ow\.(\w+)", code)):
        return  # a name alone, and what has tests of its own
    model, x = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 12)), torch.randn(32, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eval(code, {"ow": ow, "model": model, "run": lambda model: model(x)})


def test_l1_unstructured_has_the_same_masks():
    assert equal(magnitude(), theirs(prune.l1_unstructured, two(), amount=0.5))


def test_global_unstructured_has_the_same_masks():
    other = two()
    prune.global_unstructured([(other[0], "weight"), (other[2], "weight")], prune.L1Unstructured, amount=0.5)
    assert equal(magnitude(allocation=ow.GlobalRanking()), zeros(other))


@pytest.mark.parametrize(("dim", "pattern"), [(0, ow.Rows()), (1, ow.Columns())])
def test_ln_structured_has_the_same_masks(dim, pattern):
    assert equal(magnitude(pattern=pattern), theirs(prune.ln_structured, two(), amount=0.5, n=1, dim=dim))


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ({"sparsity_level": 1.0, "sparse_block_shape": (1, 4), "zeros_per_block": 2}, ow.NM(2, 4)),
        ({"sparsity_level": 0.5, "sparse_block_shape": (1, 4), "zeros_per_block": 4, "norm": 1}, ow.Block(1, 4)),
    ],
)
def test_weight_norm_sparsifier_has_the_same_masks(arguments, pattern):
    from torch.ao.pruning import WeightNormSparsifier

    other = two()
    sparsifier = WeightNormSparsifier(**arguments)
    sparsifier.prepare(other, [{"tensor_fqn": "0.weight"}, {"tensor_fqn": "2.weight"}])
    sparsifier.step()
    sparsifier.squash_mask()
    assert equal(magnitude(pattern=pattern), zeros(other))


def test_a_state_dict_of_torch_s_prune_is_read_as_it_is():
    model = two()
    theirs(prune.l1_unstructured, model, amount=0.5)
    assert ow.report(model.state_dict()).sparsity == 0.5
