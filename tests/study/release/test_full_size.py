"""The release's two models at their real sizes, and TensorFlow itself where it is installed."""

import importlib.util
import subprocess
import sys
import tarfile

import pytest
import torch

from openwork.study.experiments import resnet50, transformer
from openwork.study.release.convert import Model, read_release
from openwork.study.release.technique import Technique
from tests.formats.tensorflow_files import write_bundle
from tests.programs.tensorflow_checkpoints import FULL, variables
from tests.study.release.checkpoints import ARCHIVE

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("case", "weights", "parameters"),
    [
        # The paper's 97 and 54 tensors, and all parameters.
        ("transformer-magnitude", 61_083_648, 61_163_520),
        ("transformer-variational-dropout", 61_083_648, 61_163_520),
        ("resnet50-magnitude", 25_502_912, 25_557_032),
        ("resnet50-l0", 25_502_912, 25_557_032),
    ],
)
def test_names_and_shapes_of_the_real_models(tmp_path, case, weights, parameters):
    model, _, technique = case.partition("-")
    write_bundle(tmp_path / "model.ckpt-500000", variables(case, FULL))
    threshold = 1.5 if technique == "variational-dropout" else None
    found = read_release(tmp_path / "model.ckpt-500000", Model(model), Technique(technique), threshold)
    assert (found.release.total, found.everything.total) == (weights, parameters)
    assert found.own.total == weights
    if model == "resnet50":
        task = resnet50.released().task
    else:
        (tmp_path / "v.subwords").write_text("'<pad>_'\n'<EOS>_'\n" + "".join(f"'w{n}'\n" for n in range(33_286)))
        task = transformer.released().task.with_vocabulary(str(tmp_path / "v.subwords"))
    with torch.device("meta"):
        task.model().load_state_dict(found.model.state_dict(), assign=True)


def test_tensorflow_writes_the_checkpoints_of_the_tests(tmp_path):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed: pip install tensorflow==2.21.0")
    again = tmp_path / "again.tar.xz"
    subprocess.run([sys.executable, "-m", "tests.programs.tensorflow_checkpoints", str(again)], check=True)
    with tarfile.open(again) as first, tarfile.open(ARCHIVE) as second:
        assert first.getnames() == second.getnames()
        for name in first.getnames():
            if name.endswith("data-00000-of-00001"):
                assert first.extractfile(name).read() == second.extractfile(name).read()
