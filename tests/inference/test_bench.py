"""Dense beside sparse for several batch sizes, from Python and from the command line."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import openwork as ow
from openwork.cli import app
from openwork.inference.bench import bench_model, bench_weights


def sparse(model, sparsity=0.9):
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(sparsity)))
    return model


def images():
    return sparse(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 8))), torch.randn(1, 1, 8, 8)


def texts():
    return sparse(nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8))), torch.randint(0, 20, (1, 6))


def test_each_batch_size_is_measured():
    measured = bench_model(*images(), [1, 3], rounds=4)
    assert [(one.phase, one.batch) for one in measured] == [("", 1), ("", 3)]


def test_prefill_and_decode_of_texts_are_apart():
    measured = bench_model(*texts(), [2], rounds=4)
    assert [(one.phase, one.batch) for one in measured] == [("prefill", 2), ("decode", 2)]


def test_the_batch_is_the_first_axis_of_size_1():
    shapes = []

    class Pairs(nn.Linear):
        def forward(self, pairs):
            shapes.append(tuple(pairs.shape))
            return super().forward(pairs)

    model = sparse(Pairs(4, 4))
    bench_model(model, torch.randn(3, 1, 4), [5], rounds=4)
    assert set(shapes) == {(3, 5, 4)}
    with pytest.raises(ValueError, match=r"got the shape \(3, 2, 4\); give model inputs with batch 1"):
        bench_model(model, torch.randn(3, 2, 4), [5], rounds=4)


def test_matrices_of_one_width_may_have_several_dtypes():
    double, single = (sparse(nn.Linear(40, 8)).weight.detach().to(dtype) for dtype in (torch.float64, torch.float32))
    measured, _ = bench_weights({"a": double, "b": single}, [1], tokens=3, rounds=4)
    assert [layer.name for layer in measured.accelerated.layers] == ["a", "b"]


def test_matrices_of_a_file_are_each_timed_alone():
    weights = {name: sparse(nn.Linear(*shape)).weight.detach() for name, shape in (("a", (40, 8)), ("b.c", (40, 2)))}
    measured = bench_weights(weights, [1, 2], tokens=3, rounds=4)
    assert [(one.phase, one.batch) for one in measured] == [
        ("decode", 1), ("decode", 2), ("prefill", 1), ("prefill", 2)
    ]  # fmt: skip
    assert [(layer.name, layer.shape) for layer in measured[0].accelerated.layers] == [("a", (8, 40)), ("b.c", (2, 40))]


def test_matrices_of_one_width_and_two_dtypes_each_get_an_input_of_their_own():
    weights = {"a": torch.eye(8), "b": torch.eye(8).bfloat16(), "c": torch.eye(8).double()}
    layers = bench_weights(weights, [1], tokens=2, rounds=4)[0].accelerated.layers
    assert [layer.name for layer in layers] == ["a", "b", "c"]


def command(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "a.weight": torch.randn(16, 8),
        "embeddings.weight": torch.randn(9, 8),
        "emb.weight": torch.randn(9, 8),
        "a.bias": torch.randn(16),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_the_command_prunes_first_and_prints_what_it_measured(weights):
    done = command(weights, "--sparsity", 0.5, "--batch", 1, 8, 2, "--rounds", 4, "--tokens", 4, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["format"] == 1
    assert found["machine"]["torch"] == torch.__version__
    assert [(one["phase"], one["batch"]) for one in found["measured"]][:4] == [
        ("decode", 1), ("decode", 8), ("decode", 2), ("prefill", 1)
    ]  # fmt: skip
    (layer,) = found["measured"][0]["layers"]
    assert layer["name"] == "a.weight"
    assert layer["sparsity"] == 0.5


def test_the_command_says_so_where_nothing_gains(weights, monkeypatch):
    monkeypatch.setattr("openwork.inference.accelerating.usual_alternatives", lambda device: ())
    done = command(weights, "--pattern", "2:4", "--rounds", 4)
    assert done.exit_code == 0
    assert "No sparse kernel makes this faster here" in done.stdout
    assert "Measured on" in done.stdout


def test_the_command_takes_a_function_that_returns_model_and_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "benched.py").write_text(
        "import torch\n"
        "def net():\n    return torch.nn.Linear(8, 8), torch.randn(1, 8)\n"
        "def wrong():\n    return torch.nn.Linear(8, 8)\n"
    )
    assert command("benched:net", "--sparsity", 0.5, "--rounds", 4, "--layers").exit_code == 0
    with pytest.raises(ValueError, match=r"benched:wrong must return \(model, sample\), got Linear"):
        CliRunner().invoke(app, ["bench", "benched:wrong"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--sparsity", "90"), "did you pass a percentage"),
        (("--sparsity", "many"), "--sparsity must be a fraction of zeros between 0 and 1"),
        (("--sparsity", "2:4"), "did you mean --pattern 2:4?"),
        (("--pattern", "4:2"), "--pattern 4:2: "),
        (("--dtype", "int8"), "unknown --dtype 'int8'"),
        ((3,), "unexpected 3; give batch sizes with --batch 3"),
        (("--batch", 1, 0), "--batch must be at least 1, got 0"),
        ((), "1 matrix without a zero; give a sparse one, or --sparsity 0.9"),
    ],
)
def test_wrong_use_is_one_sentence(weights, arguments, sentence):
    with pytest.raises(ValueError, match=r".") as raised:
        CliRunner().invoke(app, ["bench", str(weights), *map(str, arguments)], catch_exceptions=False)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_command_leaves_out_codes_of_a_quantised_file(tmp_path):
    save_file({"a": torch.eye(8), "code": torch.eye(8).to(torch.float8_e4m3fn)}, tmp_path / "quantised.safetensors")
    found = json.loads(command(tmp_path / "quantised.safetensors", "--rounds", 4, "--json").stdout)
    assert [layer["name"] for layer in found["measured"][0]["layers"]] == ["a"]


def test_the_command_says_that_a_number_is_no_model(tmp_path, monkeypatch):
    (tmp_path / "no_model.py").write_text("import torch\n\ndef net():\n    return 3, torch.randn(1, 8)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TypeError, match=r"expected an nn\.Module, got a int"):
        CliRunner().invoke(app, ["bench", "no_model:net"], catch_exceptions=False)


def test_weights_that_are_no_numbers_are_one_sentence_where_they_are_to_be_pruned(tmp_path, monkeypatch):
    save_file({"fc.weight": torch.full((8, 8), torch.nan)}, tmp_path / "nan.safetensors")
    (tmp_path / "spoiled.py").write_text(
        "import torch\nmodel = torch.nn.Linear(4, 4)\ntorch.nn.init.constant_(model.weight, torch.nan)\n"
        "pair = (model, torch.ones(1, 4))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for given in (str(tmp_path / "nan.safetensors"), "spoiled:pair"):
        result = CliRunner().invoke(app, ["bench", given, "--sparsity", "0.5", "--rounds", "4"])
        assert isinstance(result.exception, ValueError)
        assert "no finite numbers; give a checkpoint from before them" in str(result.exception)
