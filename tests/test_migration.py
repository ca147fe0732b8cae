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
        eval(code, {"ow": ow, "nn": nn, "model": model, "batches": [x], "run": lambda model: model(x)})


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


def test_random_structured_removes_as_many_rows():
    model = two()
    ow.prune(model, ow.RandomPruning(ow.OneShot(0.5), pattern=ow.Rows()), seed=0)
    rows = [int(zero.all(1).sum()) for zero in theirs(prune.random_structured, two(), amount=0.5, dim=0)]
    assert [int(zero.all(1).sum()) for zero in zeros(model)] == rows == [4, 6]


def test_wanda_of_llm_compressor_has_the_same_masks():
    """Its rule: in each row the int(columns * sparsity) smallest |w| * ||x||, layer after layer."""
    model, rows = two(), torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    ow.prune(model, ow.Wanda(ow.OneShot(0.5)), batches=[rows[:32], rows[32:]])
    other = two()
    for layer in other:
        if isinstance(layer, nn.Linear):
            order = (layer.weight.abs() * rows.norm(dim=0)).argsort(dim=1)
            with torch.no_grad():
                layer.weight.scatter_(1, order[:, : layer.in_features // 2], 0)
        rows = layer(rows)
    assert equal(model, zeros(other))


@pytest.mark.parametrize("removed", [1, 2, 3])
def test_n_of_m_of_llm_compressor_are_those_that_go(removed):
    """Its rule: in each group of 4 the N smallest go."""
    model, rows = two(), torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    pattern = ow.NM(4 - removed, 4)
    ow.prune(model, ow.Wanda(ow.OneShot(removed / 4), pattern=pattern), batches=[rows])
    layer = two()[0]
    groups = (layer.weight.abs() * rows.norm(dim=0)).unflatten(1, (-1, 4))
    smallest = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, groups.argsort(2)[..., :removed], True)
    assert torch.equal(model[0].weight == 0, smallest.flatten(1))


def test_magnitude_of_sparseml_has_the_same_masks_on_the_way():
    """Its rule: at each update the round(n * sparsity) smallest of |w * mask|, so that what is masked stays so."""
    model, other = two(), two()
    schedule = ow.Cubic(0.75, begin=1, end=4, every=1, initial=0.25)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(schedule, hidden="lost"), select="0")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    theirs, mask = torch.optim.SGD(other.parameters(), lr=0.1), torch.ones(8, 16, dtype=torch.bool)
    x = torch.randn(32, 16)
    for step in range(1, 5):
        for one, steps in ((model, optimizer), (other, theirs)):
            one(x).square().mean().backward()
            if one is other:
                one[0].weight.grad.mul_(mask)
            steps.step()
            steps.zero_grad()
        sparsity = 0.75 - 0.5 * (1 - (step - 1) / 3) ** 3
        smallest = (other[0].weight.abs() * mask).flatten().argsort()[: round(128 * sparsity)]
        mask.view(-1)[smallest] = False
        with torch.no_grad():
            other[0].weight.mul_(mask)
        kept, wanted = model[0].weight != 0, 128 - round(128 * sparsity)
        assert abs(int(kept.sum()) - wanted) <= 1  # here floor(n * (1 - sparsity))
        assert int((kept & ~mask).sum()) == 0
    assert torch.equal(kept, mask)


def test_a_state_dict_of_torch_s_prune_is_read_as_it_is():
    model = two()
    theirs(prune.l1_unstructured, model, amount=0.5)
    assert ow.report(model.state_dict()).sparsity == 0.5
