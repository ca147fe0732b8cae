"""Values that are NaN or infinite: what a report says of them."""

import json

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.inspect import not_finite
from openwork.inspect.compare import compare
from openwork.inspect.not_finite import count_each_not_finite, count_not_finite

NAN, INF = float("nan"), float("inf")


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_both_kinds_are_counted_in_every_chunk(monkeypatch, dtype):
    monkeypatch.setattr(not_finite, "_CHUNK", 4)
    weight = torch.tensor([[NAN, 1, 0, 2, 3], [5, 6, 7, INF, 0], [-INF, 1, NAN, NAN, -1]], dtype=dtype)
    assert count_not_finite(weight) == count_not_finite(weight.T) == (3, 2)
    assert count_not_finite(weight.to_sparse()) == count_not_finite(weight.to_sparse_csr()) == (3, 2)
    assert count_not_finite(weight[1, :3]) == count_not_finite(weight[:0]) == (0, 0)
    assert count_not_finite(weight[0, 0].expand(7)) == (7, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int32, torch.float8_e4m3fn])
def test_those_of_many_tensors_are_counted_at_once(dtype):
    values = torch.arange(24.0).view(3, 2, 4)
    if dtype.is_floating_point or dtype.is_complex:
        values[1, 0, 0], values[2] = NAN, NAN
    weights = values.to(dtype)
    assert count_each_not_finite(weights) == [count_not_finite(weight) for weight in weights]
    assert count_each_not_finite(weights[:, :0]) == [(0, 0)] * 3


def test_small_and_whole_types():
    assert count_not_finite(torch.tensor([NAN, 1.0, NAN]).to(torch.float8_e4m3fn)) == (2, 0)
    assert count_not_finite(torch.tensor([NAN, INF, 1.0]).to(torch.float8_e5m2)) == (1, 1)
    assert count_not_finite(torch.tensor([1, 2], dtype=torch.int8)) == (0, 0)
    assert count_not_finite(torch.tensor([complex(NAN, INF), complex(1, INF)])) == (1, 1)


@pytest.fixture
def model():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    with torch.no_grad():
        model[0].weight[:2] = NAN
        model[0].weight[2, 0] = INF
        model[2].bias[0] = -INF
    return model


LINE = "NOT finite: 20 NaN and 2 infinite, in 0.weight (20 NaN and 1 infinite), 2.bias (1 infinite)"


def test_a_report_says_how_many_values_of_which_parameters(model):
    for source in (model, model.state_dict()):
        report = ow.report(source)
        assert report.not_finite == {"0.weight": (20, 1), "2.bias": (0, 1)}
        assert [layer.not_finite for layer in report.layers] == [(20, 1), (0, 0)]
        assert str(report).splitlines()[2] == LINE
        assert f"* {LINE}" in report.to_markdown().splitlines()
        assert json.loads(json.dumps(report.to_dict()))["not_finite"] == {
            "0.weight": {"nan": 20, "infinite": 1}, "2.bias": {"nan": 0, "infinite": 1}
        }  # fmt: skip
        assert report.zeros == 0


def test_one_such_parameter_has_a_short_line_and_none_has_no_line(model):
    with torch.no_grad():
        model[2].bias[0] = 0
    assert "NOT finite: 0.weight (20 NaN and 1 infinite)\n" in str(ow.report(model))
    with torch.no_grad():
        model[0].weight.fill_(1)
    assert "finite" not in str(ow.report(model))


def test_a_parameter_that_is_used_twice_counts_once(model):
    model.append(nn.Linear(10, 20))
    model[3].weight = model[0].weight
    assert ow.report(model).not_finite == {"0.weight": (20, 1), "2.bias": (0, 1)}


def test_a_comparison_looks_at_what_only_one_of_two_files_has():
    first = {"shared": torch.ones(3, 4), "mine": torch.tensor([NAN, 1.0]), "fine": torch.ones(2)}
    second = {"shared": torch.ones(3, 4), "yours": torch.full((4, 2), INF), "index": torch.arange(3)}
    found = compare(first, second)
    assert found.not_finite == ({"mine": (1, 0)}, {"yours": (0, 8)})
    assert "in the first, NOT finite: mine (1 NaN)" in str(found)
    assert "in the second, NOT finite: yours (8 infinite)" in str(found)
    assert found.to_dict()["not_finite"]["second"] == {"yours": {"nan": 0, "infinite": 8}}


def test_a_tensor_without_values_that_only_one_of_two_has_stops_no_comparison():
    found = compare({"shared": torch.ones(3)}, {"shared": torch.ones(3), "empty": torch.empty(3, device="meta")})
    assert found.only == ((), ("empty",))
    assert found.not_finite == ({}, {})
