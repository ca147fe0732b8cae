"""Which tensors are read from which file, and the errors for other files."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import openwork as ow
from openwork.formats.checkpoint import read_checkpoint
from openwork.formats.model_part import model_tensors
from tests.helpers import conv_net


def folder_of_shards(folder, suffix, save):
    state = conv_net().state_dict()
    names = list(state)
    places = {name: f"part-{i % 2}{suffix}" for i, name in enumerate(names)}
    for shard in set(places.values()):
        save({name: state[name] for name in names if places[name] == shard}, folder / shard)
    stem = "model.safetensors" if suffix == ".safetensors" else "pytorch_model.bin"
    (folder / f"{stem}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return state


@pytest.mark.parametrize(("suffix", "save"), [(".safetensors", save_file), (".bin", torch.save)])
def test_a_hugging_face_folder_in_shards_is_one_checkpoint(tmp_path, suffix, save):
    state = folder_of_shards(tmp_path, suffix, save)
    (tmp_path / "config.json").write_text("{}")
    assert ow.report(tmp_path).to_dict() == ow.report(dict(sorted(state.items()))).to_dict()


def test_shards_and_their_index_must_agree(tmp_path):
    folder_of_shards(tmp_path, ".safetensors", save_file)
    save_file({"3.weight": torch.ones(2, 2), "extra": torch.ones(2)}, tmp_path / "part-0.safetensors")
    with pytest.raises(ValueError, match=r"'part-0.safetensors' lacks '0.weight', which .* places there; copy the"):
        ow.report(tmp_path)
    index = {"weight_map": {"3.weight": "part-0.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert ow.report(tmp_path).skipped == {"extra": "not part of the model's state"}
    (tmp_path / "part-0.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names 'part-0.safetensors', which is not there; copy the folder"):
        ow.report(tmp_path)


def test_a_folder_with_one_or_several_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors in .*, which has no checkpoint; give one file"):
        ow.report(tmp_path)
    torch.save(conv_net().state_dict(), tmp_path / "epoch1.pt")
    assert ow.report(tmp_path).parameters == 781
    torch.save(conv_net().state_dict(), tmp_path / "epoch2.pt")
    with pytest.raises(FileNotFoundError, match="which has 2 checkpoints; give one file"):
        ow.report(tmp_path)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "module", "net", "params"])
def test_the_model_is_found_under_the_usual_keys(tmp_path, key):
    model = conv_net()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(1, 2, 6, 6)).sum().backward()
    optimizer.step()
    content = {"epoch": 3, key: model.state_dict(), "optimizer": optimizer.state_dict(), "loss": torch.ones(())}
    torch.save(content, tmp_path / "x.pt")
    report = ow.report(tmp_path / "x.pt")
    assert report.parameters == 781
    assert report.skipped == dict.fromkeys(["optimizer", "loss"], "not part of the model's state")


def test_several_models_in_one_file_count_together_under_dotted_names():
    content = {"generator": {"w": torch.ones(2, 2)}, "critic": {"w": torch.ones(1)}, "adam": {"param_groups": []}}
    found = model_tensors(content, "x")
    assert (list(found.tensors), found.left_out) == (["generator.w", "critic.w"], ("adam",))
    content["generator"]["self"] = content  # a dictionary that holds itself
    assert "generator.w" in model_tensors(content, "x").tensors


def test_files_keep_their_order_layer_2_before_layer_10(tmp_path):
    save_file({f"layers.{i}.w": torch.ones(1, 1) for i in range(11)}, tmp_path / "x.safetensors")
    assert list(read_checkpoint(tmp_path / "x.safetensors").tensors)[-2:] == ["layers.9.w", "layers.10.w"]


def test_names_with_thousands_of_digits_can_be_sorted(tmp_path):
    save_file({"9" * 5000: torch.ones(1, 1), "²": torch.ones(1, 1)}, tmp_path / "x.safetensors")
    assert ow.report(tmp_path / "x.safetensors").parameters == 2


def test_tied_tensors_of_a_torch_file_count_once(tmp_path):
    weight = torch.ones(3, 2)
    torch.save({"a": weight, "b": weight, "t": weight.t(), "c": torch.ones(3, 2)}, tmp_path / "x.pt")
    report = ow.report(tmp_path / "x.pt")
    assert [(layer.name, layer.also) for layer in report.layers] == [("a", ("b",)), ("t", ()), ("c", ())]


def test_tied_tensors_of_a_safetensors_file_count_once_where_its_metadata_names_them(tmp_path):
    tensors = {name: torch.ones(3, 2) for name in "abc"} | {"d": torch.zeros(3, 2)}
    save_file(tensors, tmp_path / "x.safetensors", {"b": "a", "format": "pt", "c": "not there", "d": "a"})
    layers = ow.report(tmp_path / "x.safetensors").layers
    assert [(layer.name, layer.also) for layer in layers] == [("a", ("b",)), ("c", ()), ("d", ())]  # d is not like a


def test_each_type_of_value_is_counted_or_named(tmp_path):
    ones = torch.ones(2, 2)
    ones[0, 0] = 0
    types = (torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64, torch.int8)
    state = {str(dtype): ones.to(dtype) for dtype in types}
    state |= {"scalar": torch.tensor(0.0), "empty": torch.empty(0, 3), "q.codes": ones.to(torch.uint8)}
    state |= {"bn.running_var": torch.ones(2), "bn.num_batches_tracked": torch.tensor(3)}
    torch.save(state, tmp_path / "x.pt")
    report = ow.report(tmp_path / "x.pt")
    assert [layer.weights - layer.nonzero for layer in report.layers] == [1] * 6 + [0]
    assert (report.parameters, report.zeros) == (25, 7)
    assert report.skipped == {
        "q.codes": "uint8", "bn.running_var": "batch-norm statistics", "bn.num_batches_tracked": "int64"
    }  # fmt: skip
    assert report.size.dense == 4 * (8 + 2 + 2 + 1 + 8 + 1) + 4


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantized_tensor_is_zero_at_its_zero_point(tmp_path):
    codes = torch.quantize_per_tensor(torch.tensor([[0.0, 1.0], [0.0, 2.0]]), 0.1, 7, torch.quint8)
    torch.save({"w": codes}, tmp_path / "x.pt")
    assert ow.report(tmp_path / "x.pt").zeros == 2


def test_tensors_without_values_are_an_error(tmp_path):
    torch.save(nn.Linear(2, 2, device="meta").state_dict(), tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match="cannot count the zeros of weight: it is on the meta device and has no values"
    ):
        ow.report(tmp_path / "x.pt")
    with pytest.raises(ValueError, match="weight has no values yet; run the model on one batch first"):
        ow.report(nn.LazyLinear(2))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.gguf", b"GGUF\x03", "is a GGUF file; give the safetensors checkpoint"),
        ("x.h5", b"\x89HDF\r\n\x1a\n", "is an HDF5 .Keras. file; convert it"),
        ("x.onnx", b"\x08\x07", "is an ONNX file; give the PyTorch checkpoint"),
        ("x.pt", b"", "is empty; copy it again"),
        ("x.pt.gz", b"\x1f\x8b\x08", "is compressed with gzip; unpack it first"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer.*git lfs pull"),
        ("x.bin", b"<!DOCTYPE html>", "is a web page, not the file itself; download it again"),
        ("x.npz", b"PK\x03\x04", "is not a readable torch checkpoint"),
    ],
)
def test_foreign_files_are_named_with_a_cure(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        ow.report(tmp_path / name)


def test_safetensors_is_known_by_its_content_too(tmp_path):
    save_file({"w": torch.ones(1, 1)}, tmp_path / "blob")
    assert ow.report(tmp_path / "blob").parameters == 1
