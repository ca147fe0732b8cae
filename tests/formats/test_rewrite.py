"""A safetensors file again, in which some tensors have other values and every other byte is the same."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from openwork.formats.rewrite import differ, find_weight_files, rewrite


@pytest.fixture
def file(tmp_path):
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.tensor([1, 2])}
    save_file(state, tmp_path / "x.safetensors", {"made by": "somebody"})
    return tmp_path / "x.safetensors"


def test_only_the_bytes_of_changed_tensors_differ(file, tmp_path):
    out = tmp_path / "y.safetensors"
    found = find_weight_files(file)
    assert rewrite(found, out, lambda name, value: value * 0 if name == "b" else None) == ()
    before, after = file.read_bytes(), out.read_bytes()
    assert len(before) == len(after)
    assert sum(x != y for x, y in zip(before, after, strict=True)) == 6  # 1 in bfloat16 is 0x3F80
    assert torch.equal(load_file(out)["a"], load_file(file)["a"])
    assert not load_file(out)["b"].any()


def test_no_change_is_a_copy(file, tmp_path):
    rewrite(find_weight_files(file), tmp_path / "y.safetensors", lambda name, value: None)
    assert (tmp_path / "y.safetensors").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("change", [lambda value: value.double(), lambda value: value[:1]])
def test_a_value_of_another_kind_is_refused_and_nothing_is_left(file, tmp_path, change):
    with pytest.raises(RuntimeError, match="a would become"):
        rewrite(find_weight_files(file), tmp_path / "y.safetensors", lambda name, v: change(v) if name == "a" else None)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_tensor_that_is_not_contiguous_is_written_in_its_order(file, tmp_path):
    turned = torch.arange(6.0).view(3, 2).t()
    rewrite(find_weight_files(file), tmp_path / "y.safetensors", lambda name, value: turned if name == "a" else None)
    assert torch.equal(load_file(tmp_path / "y.safetensors")["a"], turned)


def test_nan_is_like_nan():
    first = torch.tensor([1.0, torch.nan, torch.nan, 0.0])
    assert differ(first, torch.tensor([1.0, torch.nan, 2.0, -0.0])).tolist() == [False, False, True, False]
