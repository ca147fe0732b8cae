"""Neither torch's default device nor its default dtype has a part in what becomes of a model."""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

import openwork as ow
from tests.helpers import conv_net, image_batches, train_step
from tests.test_contract import TECHNIQUES, calibration, label

pytestmark = pytest.mark.filterwarnings("ignore:.* keeps no weight", "ignore:.* stopped at .* of a schedule")
SOURCE = Path(ow.__file__).parent
MAKERS = {
    "arange",
    "empty",
    "eye",
    "full",
    "linspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "tensor",
    "zeros",
}


@contextmanager
def other_defaults() -> Iterator[None]:
    """A device that no computation can use, and doubles."""
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=label)
def test_a_training_ends_with_the_same_weights(technique, tmp_path):
    def trained(defaults: bool):
        torch.manual_seed(0)
        model, batches, calibrate = conv_net(), list(islice(image_batches(), 4)), calibration(technique)
        with other_defaults() if defaults else torch.device("cpu"):
            sparsifier = ow.sparsify(model, technique, calibrate=calibrate)
            optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
            sparsifier.attach(optimizer)
            for batch in batches:
                train_step(model, sparsifier, optimizer, batch)
            sparsifier.load_state_dict(sparsifier.state_dict())
            ow.save(sparsifier, tmp_path / "model.safetensors")
            report = str(ow.report(sparsifier))
            return ow.load(tmp_path / "model.safetensors"), dict(sparsifier.finalize().state_dict()), report

    (loaded, state, report), plain = trained(True), trained(False)
    assert report == plain[2]
    assert state.keys() == loaded.keys() == plain[1].keys()
    for name, value in plain[1].items():
        assert torch.equal(state[name], value), name
        assert torch.equal(loaded[name], value), name


def test_a_trained_model_becomes_the_same(tmp_path):
    def made(defaults: bool):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        batches = [torch.randn(8, 16) for _ in range(3)]
        rows = ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.Rows())
        two_of_four = ow.GradualMagnitude(ow.OneShot(0.5), pattern=ow.NM(2, 4))
        with other_defaults() if defaults else torch.device("cpu"):
            ow.permute(model, batches[0], two_of_four, seconds=1.0)
            ow.prune(model, ow.Wanda(ow.OneShot(0.3)), batches=batches, reconstruct=True)
            ow.prune(model, rows, select="0")
            ow.sensitivity(model, lambda model: 1.0)
            shrunk = ow.shrink(model, batches[0]).model
            fast = ow.accelerate(model, batches[0], rounds=4).model.eval()(batches[0])
        return [*model.state_dict().values(), *shrunk.state_dict().values()], fast

    (other, fast), (plain, slow) = made(True), made(False)
    assert all(torch.equal(a, b) for a, b in zip(other, plain, strict=True))
    torch.testing.assert_close(fast, slow)


LIBRARY = [path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in ("cli", "study")]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(SOURCE)))
def test_each_tensor_that_the_library_makes_is_on_a_device_that_it_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in MAKERS}:
            assert any(keyword.arg == "device" for keyword in node.keywords), f"{path}:{node.lineno}"
