"""How much each layer bears."""

import copy
import math
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from torch import nn

import openwork as ow


def net(*weights):
    """Layers of one row, whose weights are these."""
    layers = [nn.Linear(len(values), 1, bias=False) for values in weights]
    with torch.no_grad():
        for layer, values in zip(layers, weights, strict=True):
            layer.weight.copy_(torch.tensor([values]))
    return nn.ModuleDict(dict(zip("abc", layers, strict=False)))


def magnitude_kept(model):
    return sum(float(parameter.detach().abs().sum()) for parameter in model.parameters())


def test_each_layer_is_pruned_alone():
    scan = ow.sensitivity(net([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]), magnitude_kept, [0.25, 0.5])
    assert scan.dense == 110
    found = [(row.name, row.size, row.sparsity, row.metric) for row in scan.rows]
    assert found == [
        ("a.weight", 4, 0.25, 109), ("a.weight", 4, 0.5, 107), ("b.weight", 4, 0.25, 100), ("b.weight", 4, 0.5, 80),
    ]  # fmt: skip
    assert str(scan).splitlines() == [
        "layer        0.25      0.5", "a.weight      109      107", "b.weight      100       80", "dense: 110",
    ]  # fmt: skip


def test_sparsity_0_gives_the_dense_metric():
    model = net([1.0, 2.0, 3.0])
    scan = ow.sensitivity(model, magnitude_kept, [0.0])
    assert [row.metric for row in scan.rows] == [scan.dense]


def test_the_order_of_layers_does_not_matter():
    model = net([1.0, 1.0, 3.0, 4.0], [5.0, 5.0, 5.0, 40.0])
    turned = nn.ModuleDict({name: copy.deepcopy(model[name]) for name in "ba"})
    one, other = (
        ow.sensitivity(each, lambda m: float(m["a"].weight.detach()[0] @ torch.arange(4.0)) * magnitude_kept(m))
        for each in (model, turned)
    )
    assert one.layers == other.layers


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_the_model_is_as_it_was_also_where_evaluate_raises(calls):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).half().train()
    before, left = copy.deepcopy(model.state_dict()), [calls]

    def evaluate(model):
        model.eval()
        model[1].running_mean += 1
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        ow.sensitivity(model, evaluate, [0.5, 0.9])
    left[0] = -1
    ow.sensitivity(model, evaluate, [0.5, 0.9])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def scan_of(losses, sizes=None, sparsities=(0.5, 0.8)):
    """A scan in which layer after layer has these losses."""
    rows = [
        ow.SensitivityRow(name, size, sparsity, 10 - loss)
        for name, size, of in zip("abc", sizes or [100] * len(losses), losses, strict=False)
        for sparsity, loss in zip(sparsities, of, strict=True)
    ]
    return ow.Sensitivity(10.0, tuple(rows))


def test_an_allocation_costs_each_layer_as_much():
    # a loses 1 at 0.5 and b at 0.25: together 0.375 of all weights.
    assert dict(scan_of([(1.0, 4.0), (2.0, 8.0)]).allocation(0.375).targets) == {
        "a": pytest.approx(0.5), "b": pytest.approx(0.25),
    }  # fmt: skip


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.4, 0.55, 0.7, 0.8])
@pytest.mark.parametrize(
    "losses",
    [[(1, 4), (2, 8)], [(0, 0), (1, 2)], [(0, 0), (0, 0)], [(1, 1), (1, 1)], [(-1, 2), (3, 2)], [(0, math.inf), (1, 2)],
     [(math.nan, 1), (0, 1)]],
    ids=str,
)  # fmt: skip
def test_an_allocation_reaches_its_sparsity_exactly(sparsity, losses):
    targets = dict(scan_of(losses, sizes=[100, 300]).allocation(sparsity).targets)
    assert (100 * targets["a"] + 300 * targets["b"]) / 400 == pytest.approx(sparsity, abs=1e-9)
    assert all(0 <= target <= 0.8 for target in targets.values())


def test_an_allocation_prunes_the_model_that_was_scanned():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    allocation = ow.sensitivity(model, magnitude_kept, [0.5, 0.9]).allocation(0.6)
    result = ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.6), allocation=allocation))
    assert result.sparsity == pytest.approx(0.6, abs=2 / 900)  # each layer rounds by less than one weight


def test_a_loss_may_be_what_is_measured():
    scan = ow.sensitivity(
        net([1.0, 2.0], [1.0, 9.0]), lambda model: -magnitude_kept(model), [0.5], lower_is_better=True
    )
    assert [row.metric for row in scan.rows] == [-12.0, -12.0]
    assert dict(scan.allocation(0.25).targets) == {"a.weight": 0.25, "b.weight": 0.25}


def test_the_picture_is_an_svg_with_a_cell_for_each_row():
    scan = scan_of([(1.0, 4.0), (2.0, math.inf)])
    root = ET.fromstring(scan.to_svg())
    cells = [each.get("fill") for each in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert cells == ["rgb(205,215,238)", "rgb(55,95,185)", "rgb(155,175,220)", "rgb(55,95,185)"]
    assert [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")] == [
        "0.5", "0.8", "a", "9", "6", "b", "8", "-inf",
    ]  # fmt: skip


def test_what_cannot_be_scanned_is_refused():
    model = net([1.0, 2.0])
    with pytest.raises(ValueError, match=r"sparsities must be some in \[0, 1\), got \[50\]; did you pass percentages"):
        ow.sensitivity(model, magnitude_kept, [50])
    with pytest.raises(ValueError, match=r"sparsities must be some in \[0, 1\), got \[\]"):
        ow.sensitivity(model, magnitude_kept, [])
    with pytest.raises(TypeError, match="evaluate must return one number, got None"):
        ow.sensitivity(model, lambda model: None)
    with pytest.raises(TypeError, match="evaluate must be a function model -> metric, got a list"):
        ow.sensitivity(model, [])
    with pytest.raises(ValueError, match="the metric of the model as it is is nan; check what evaluate measures"):
        ow.sensitivity(model, lambda model: math.nan)
    with pytest.raises(ValueError, match=r"the scan goes from sparsity 0 to 0\.8, got 0\.9; scan higher sparsities"):
        scan_of([(1.0, 4.0)]).allocation(0.9)


@pytest.mark.parametrize("sparsities", [0.5, "0.5", ["a"], [None], None, [0.5, float("nan")]], ids=str)
def test_sparsities_that_are_no_numbers_are_refused(sparsities):
    with pytest.raises(ValueError, match=r"sparsities must be some in \[0, 1\), got"):
        ow.sensitivity(nn.Linear(4, 4), lambda model: 1.0, sparsities)


ONE = torch.tensor(0.5), np.array(0.5), 0.5, "0.5", b"0.5", None, 50


@pytest.mark.parametrize("sparsities", [*ONE, [], [None], ["50"], [-0.5], torch.tensor([[0.5, 0.9]])], ids=repr)
def test_what_is_not_several_numbers_is_not_asked_for_percentages(sparsities):
    with pytest.raises(ValueError, match=r"; pass a list of fractions such as \[0.5, 0.9\]"):
        ow.sensitivity(nn.Linear(4, 4), lambda model: 1.0, sparsities)


def test_sparsities_may_come_from_arrays_and_tensors():
    for sparsities in (np.array([0.25, 0.5], np.float32), torch.tensor([0.25, 0.5])):
        scan = ow.sensitivity(nn.Linear(4, 4), lambda model: 1.0, sparsities)
        assert [row.sparsity for row in scan.rows] == [0.25, 0.5]


def test_what_evaluate_does_to_statistics_is_not_there_for_the_next_measurement():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    def evaluate(model):
        model.train()
        model(torch.ones(8, 4))
        return float(model[1].num_batches_tracked) + float(model[1].running_var.sum())

    scan = ow.sensitivity(model, evaluate, [0.0, 0.0001])  # which remove nothing
    assert {row.metric for row in scan.rows} == {scan.dense}
    assert int(model[1].num_batches_tracked) == 0
