"""Runs and bare weights as ONNX files, which `openwork export --to onnx` writes."""

import json

import onnx
import pytest
import torch
from safetensors.torch import save_file

import openwork as ow
from openwork.cli.to_onnx import to_onnx
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100
from openwork.study.tasks.number_words import NumberWords
from tests.processes import openwork

WITH_MODEL = "tests.programs.mylab:variational"  # its task has the model


def shape(path, place="input"):
    values = getattr(onnx.load(str(path)).graph, place)
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_a_run_is_exported_with_the_zeros_of_its_evaluation(tmp_path):
    run = Run(DigitsLeNet300100(), ow.VariationalDropout(ow.Constant(1e-4), log_sigma2=-1.0), steps=3)
    execute(run, tmp_path / "runs", evaluations=1)
    counted = ow.report(tmp_path / "runs" / run.id / "model.safetensors")
    text = str(to_onnx(tmp_path / "runs" / run.id, tmp_path / "digits.onnx"))
    (zeros,) = [float(word.rstrip("%")) for word in text.split() if word.endswith("%")]
    assert zeros == pytest.approx(100 * counted.sparsity_all, abs=0.01)
    assert zeros > 0
    assert shape(tmp_path / "digits.onnx") == {"x": ["batch", 1, 8, 8]}


@pytest.mark.slow
def test_a_translation_run_takes_sentences_of_any_length(tmp_path):
    run = Run(NumberWords(), ow.GradualMagnitude(ow.OneShot(0.8)), steps=1)
    execute(run, tmp_path / "runs", evaluations=1)
    to_onnx(tmp_path / "runs" / run.id / "checkpoint.pt", tmp_path / "words.onnx")
    assert shape(tmp_path / "words.onnx") == {
        "source": [3, "batch", "tokens"],
        "target": [3, "batch", "target_tokens"],
    }


def test_bare_weights_need_the_task_that_has_their_model(tmp_path):
    torch.manual_seed(0)
    model = DigitsLeNet300100().model()
    ow.prune(model, ow.GradualMagnitude(ow.OneShot(0.9)))
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights.safetensors holds weights and no model; give --task MODULE:FUNC"):
        to_onnx(tmp_path / "weights.safetensors", tmp_path / "m.onnx")
    text = str(to_onnx(tmp_path / "weights.safetensors", tmp_path / "m.onnx", task=WITH_MODEL))
    values = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert f"{(values == 0).float().mean():.2%} of 50,610 are zero" in text


def test_weights_of_another_model_are_one_sentence(tmp_path):
    save_file({"fc1.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not fit the model of"):
        to_onnx(tmp_path / "other.safetensors", tmp_path / "m.onnx", task=WITH_MODEL)
    with pytest.raises(FileNotFoundError):
        to_onnx(tmp_path / "missing", tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_the_command_writes_a_file_beside_the_weights_or_one_sentence(tmp_path):
    save_file(DigitsLeNet300100().model().state_dict(), tmp_path / "weights.safetensors")
    arguments = ("export", "weights.safetensors", "--to")
    answer = json.loads(openwork(tmp_path, *arguments, "onnx", "--task", WITH_MODEL, "--json").stdout)
    assert answer["parameters"] == 50_610
    assert (answer["path"], answer["out"]) == ("weights.safetensors", str(tmp_path / "weights.onnx"))
    assert answer["inputs"] == {"x": ["batch", 1, 8, 8]} == shape(tmp_path / "weights.onnx")
    assert "give --task MODULE:FUNCTION" in openwork(tmp_path, *arguments, "onnx", code=2).stderr
    assert "--task is for --to onnx" in openwork(tmp_path, *arguments, "sparse", "--task", WITH_MODEL, code=2).stderr
