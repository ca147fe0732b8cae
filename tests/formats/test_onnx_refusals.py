"""What is not exported to ONNX: one sentence, and no file."""

import sys

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.study.models.lenet import LeNet300100
from tests.formats.test_onnx import X, small

pytestmark = pytest.mark.usefixtures("operators_read_once", "operators_collected_once")


def test_random_weights_are_refused_and_their_copy_is_exported(tmp_path):
    model = small()
    sparsifier = ow.sparsify(model, ow.VariationalDropout(ow.Constant(1e-3)))
    with pytest.raises(ValueError, match="random variables still; export what the sparsifier's finalized_copy"):
        ow.export_onnx(model, X, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    ow.export_onnx(sparsifier.finalized_copy(), X, tmp_path / "m.onnx")


class Deciding(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(3, 2, 2)


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 3, proj_size=2, batch_first=True)  # which torch exports with a cell of the wrong size

    def forward(self, x):
        return self.lstm(x.unsqueeze(1))[0]


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Counting(nn.Module):
    def forward(self, x):
        return x, 3


class Foreign(nn.Module):
    def forward(self, x):
        return torch.special.airy_ai(x)


class Complex(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x)


class Nothing(nn.Module):
    def forward(self, x):
        return None


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x + self.calls


class Looping(nn.Module):
    def forward(self, x):
        return torch.stack([row + 1 for row in x])


class Outside(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy()) * 2


@pytest.mark.parametrize(
    ("model", "arguments", "sentence"),
    [
        (Deciding(), {}, r"Deciding decides by the values of its input \(.*test_onnx_refusals.py, line \d+\)"),
        (Fixed(), {}, "Fixed fixes axis 0, 'batch', of its input at 3"),
        (Looping(), {}, "Looping fixes axis 0, 'batch', of its input at 3"),
        (Noisy(), {}, "outputs differ from call to call"),
        (Calls(), {}, "outputs differ from call to call; remove what is random, or counts calls"),
        (Complex(), {}, "Complex returns complex numbers, which ONNX does not have"),
        (Nothing(), {}, "Nothing returns no tensor"),
        (Counting(), {}, "Counting returns int beside tensors"),
        (Foreign(), {}, "ONNX has no operator for aten.special_airy_ai, which Foreign uses"),
        (Outside(), {}, r"torch.export cannot follow the forward of Outside: .*test_onnx_refusals.py, line \d+"),
        (nn.Linear(3, 2), {}, r"Linear does not run on the example: .*3x4 and 3x2.*; give what its forward takes"),
        (nn.Linear(4, 2, device="meta"), {}, "weight has no values yet"),
        (nn.LazyLinear(2), {}, "weight has no values yet"),
        (nn.Linear(4, 2), {"dynamic": {2: "time"}}, "dynamic has the axis 2, which no input has"),
        (nn.Linear(4, 2), {"dynamic": {-1: "batch"}}, "dynamic has the axis -1"),
        (nn.Linear(4, 2), {"dynamic": {True: "batch"}}, "dynamic has the axis True"),
        (nn.Linear(4, 2), {"dynamic": {0: "a batch"}}, "dynamic has the name 'a batch'"),
        (nn.Linear(4, 2), {"dynamic": {0: "same", 1: "same"}}, "dynamic has two axes of one name"),
        (nn.Linear(4, 2), {"tolerance": -1.0}, "tolerance must be 0 or more, got -1.0"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence_and_no_file(model, arguments, sentence, tmp_path):
    (tmp_path / "m.onnx").write_text("an older file")
    with pytest.raises(ValueError, match=sentence) as raised:
        ow.export_onnx(model, X, tmp_path / "m.onnx", **arguments)
    assert "\n" not in str(raised.value)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("m.onnx", "an older file")]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_no_axis_is_blamed_for_what_runs_with_no_size(tmp_path):
    with pytest.raises(ValueError, match="cannot run what was exported, even on the example: "):
        ow.export_onnx(Projected(), X, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        ([1, 2], "the example holds no tensor"),
        ({}, "the example holds no tensor"),
        (torch.zeros(0, 4), "a tensor of the example is empty"),
    ],
)
def test_an_example_without_values_is_refused(example, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        ow.export_onnx(small(), example, tmp_path / "m.onnx")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"expected an nn.Module, got a state dict"):
        ow.export_onnx(small().state_dict(), X, tmp_path / "m.onnx")
    with pytest.raises(TypeError, match="DataParallel wraps the model"):
        ow.export_onnx(nn.DataParallel(small()), X, tmp_path / "m.onnx")


def test_a_place_where_no_file_can_be_is_refused_before_the_work(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "m.onnx"):
        with pytest.raises(ValueError, match=r"cannot write .*; give the name of a file in a folder that exists"):
            ow.export_onnx(small(), X, path)


def test_outputs_that_differ_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"output 0 of onnxruntime differs from PyTorch's by .*tolerance 0; raise it"):
        ow.export_onnx(LeNet300100(), torch.randn(8, 1, 28, 28), tmp_path / "m.onnx", tolerance=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_says_what_to_install(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'needs {package}: pip install "openwork\[onnx\]"'):
        ow.export_onnx(small(), X, tmp_path / "m.onnx")


@pytest.mark.parametrize("small", [lambda n: n <= 2, lambda n: n == 1])
def test_code_that_treats_a_batch_of_one_otherwise_is_refused(small, tmp_path):
    class OfOne(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return x if small(x.shape[0]) else self.layer(x)

    with pytest.raises(ValueError, match=r"with batch 1"):
        ow.export_onnx(OfOne(), torch.randn(4, 8), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_that_takes_no_batch_of_one_itself_is_not_run_with_it(tmp_path):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            if x.shape[0] == 1:
                raise ValueError("one is too few")
            return self.layer(x)

    assert ow.export_onnx(Several(), torch.randn(4, 8), tmp_path / "x.onnx").checked == ("batch 4", "batch 3")


def test_nothing_is_printed(tmp_path, capfd):
    ow.export_onnx(nn.MultiheadAttention(8, 2, batch_first=True), (torch.randn(2, 5, 8),) * 3, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="decides by the values"):
        ow.export_onnx(Deciding(), X, tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_names_the_path_and_keeps_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_text("old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/model.onnx'$"):
        ow.export_onnx(nn.Linear(2, 2), torch.ones(1, 2), tmp_path / "model.onnx")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("model.onnx", "old")]
