"""`openwork inspect A B`: which zeros of one checkpoint stay zero in another."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.utils import prune

from openwork.inspect.compare import compare
from tests.formats.test_checkpoint import folder_of_shards
from tests.helpers import conv_net, raises
from tests.inspect.test_inspect_command import inspect


def pruned() -> dict[str, torch.Tensor]:
    state = conv_net().state_dict()
    for name in ("0.weight", "3.weight", "5.weight"):
        state[name].view(-1)[::2] = 0
    return state


def test_a_merge_that_destroys_zeros_by_hand():
    before = pruned()
    after = {name: tensor.clone() for name, tensor in before.items()}
    after["5.weight"][after["5.weight"] == 0] = 0.25  # a LoRA merge: all of its 25 zeros are gone
    after["3.weight"].view(-1)[:64] = 1.0
    found = compare(before, after)
    pairs = {pair.name: pair for pair in found.pairs}
    assert (pairs["5.weight"].zeros, pairs["5.weight"].kept, pairs["5.weight"].difference) == ((25, 0), 0, 0.25)
    assert (pairs["3.weight"].zeros, pairs["3.weight"].kept) == ((320, 288), 288)
    assert (pairs["0.weight"].zeros, pairs["0.weight"].kept, pairs["0.weight"].difference) == ((36, 36), 36, 0)
    total = found.total
    assert (total.weights, total.zeros, total.kept) == (762, (381, 324), 324)
    lines = str(found).splitlines()
    assert lines[3].split() == ["5.weight", "5x10", "50.00%", "0.00%", "0.00%", "0.25"]
    assert lines[-2].split()[:5] == ["all", "layers", "50.00%", "42.52%", "85.04%"]
    assert lines[-1] == "3 other parameters, 0 of them different"


def test_names_and_shapes_that_differ_are_listed():
    a, b = pruned(), pruned()
    del a["0.bias"], b["5.bias"]
    b["3.weight"] = torch.ones(4, 64)
    found = compare(a, b)
    assert found.only == (("5.bias",), ("0.bias",))
    assert found.shapes == {"3.weight": ((10, 64), (4, 64))}
    text = str(found)
    assert "only in the first: 5.bias\nonly in the second: 0.bias" in text
    assert text.endswith("3.weight has shape 10x64 in the first, 4x64 in the second")
    with raises(ValueError, "they have no name in common: the first begins with a, the second with b"):
        compare({"a": torch.ones(2)}, {"b": torch.ones(2)})


def test_layouts_and_types_are_compared_by_their_values():
    model = conv_net()
    prune.l1_unstructured(model[3], "weight", amount=0.5)
    plain = {**model.state_dict(), "3.weight": model[3].weight.detach().bfloat16()}
    del plain["3.weight_orig"], plain["3.weight_mask"]
    (pair,) = [pair for pair in compare(model.state_dict(), plain).pairs if pair.name == "3.weight"]
    assert (pair.zeros, pair.kept) == ((320, 320), 320)
    assert pair.difference == pytest.approx(float((model[3].weight.detach() - plain["3.weight"]).abs().max()))


def test_values_that_are_no_numbers():
    x = torch.tensor([math.nan, math.inf, 1.0])
    assert compare({"a": x}, {"a": x.clone()}).total.difference == 0
    (pair,) = compare({"a": x}, {"a": torch.ones(3)}).pairs
    assert (pair.difference, pair.to_dict()["difference"]) == (math.inf, None)
    found = compare({"a": x, "b": x}, {"a": torch.ones(3), "b": torch.tensor([math.nan, math.nan, 1.0])})
    assert found.not_finite == ({"a": (1, 1), "b": (1, 1)}, {"b": (2, 0)})
    assert str(found).endswith(
        "in the first, NOT finite: 2 NaN and 2 infinite, in a (1 NaN and 1 infinite), b (1 NaN and 1 infinite)\n"
        "in the second, NOT finite: b (2 NaN)"
    )
    assert json.loads(json.dumps(found.to_dict()))["not_finite"]["second"] == {"b": {"nan": 2, "infinite": 0}}
    codes = {"a": torch.ones(2, 2, dtype=torch.int8)}
    assert compare(codes, {"a": torch.ones(2, 2)}).total.difference is None
    assert compare({"a": torch.empty(0, 3)}, {"a": torch.empty(0, 3)}).total.weights == 0
    assert "100.00%" in str(compare({"a": torch.eye(2)}, {"a": torch.eye(2).to_sparse()}))
    with raises(ValueError, "a is on the meta device and has no values"):
        compare({"a": torch.ones(2, device="meta")}, {"a": torch.ones(2)})


def test_the_command_compares_files_and_sharded_folders(monkeypatch, capsys, tmp_path):
    (tmp_path / "shards").mkdir()
    state = folder_of_shards(tmp_path / "shards", ".safetensors", save_file)
    state = {**state, "5.weight": state["5.weight"] * 0}
    save_file(state, tmp_path / "x.safetensors")
    assert inspect(monkeypatch, tmp_path / "x.safetensors", tmp_path / "shards") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"first: {tmp_path / 'x.safetensors'}\nsecond: {tmp_path / 'shards'}\nweight ")
    assert inspect(monkeypatch, tmp_path / "x.safetensors", tmp_path / "shards", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["path"]) == (1, [str(tmp_path / "x.safetensors"), str(tmp_path / "shards")])
    assert found["total"]["zeros"] == [50, 0]
    assert found["total"]["sparsity"] == [50 / 762, 0.0]
    assert found["only"] == {"first": [], "second": []}
    assert inspect(monkeypatch, tmp_path / "x.safetensors", tmp_path / "nothing.pt") == 2
    assert "no checkpoint file" in capsys.readouterr().err
    assert inspect(monkeypatch, tmp_path / "x.safetensors", tmp_path / "shards", "--markdown") == 2
