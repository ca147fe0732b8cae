"""Published checkpoints as weights of the study's models: the models compute what NumPy does with the variables."""

import numpy as np
import pytest
import torch

from openwork.study.models.resnet import ResNet
from openwork.study.models.transformer import Transformer
from openwork.study.release.convert import Model, read_release
from openwork.study.release.technique import Technique
from tests.programs.tensorflow_checkpoints import (
    CASES,
    CLASSES,
    HEADS,
    HIDDEN,
    LAYERS,
    USED_ROW,
    VOCABULARY,
    WIDTH,
    variables,
)
from tests.study.release import reference
from tests.study.release.checkpoints import NAME, unpacked

TECHNIQUES = {"split-heads": "magnitude", "extended": "magnitude"}
THRESHOLD = 1.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return unpacked(tmp_path_factory.mktemp("release"))


def read(folder, case, technique=None, threshold=None):
    model, _, made = case.partition("-")
    technique = technique or TECHNIQUES.get(made, made)
    if technique == "variational-dropout" and threshold is None:
        threshold = THRESHOLD
    return read_release(folder / case / NAME, Model(model), Technique(technique), threshold)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("transformer")])
def test_the_imported_transformer_computes_what_tensorflow_would(folder, case):
    found = read(folder, case)
    split = case.endswith("split-heads")
    model = Transformer(VOCABULARY, width=WIDTH, hidden=HIDDEN, heads=HEADS, layers=LAYERS, split_heads=split).eval()
    model.load_state_dict(found.model.state_dict())
    source, target = np.array([5, 9, 23, 2, 1]), np.array([7, 0, 3, 1])
    weights = reference.Weights(variables(case), case.partition("-")[2], THRESHOLD)
    row = USED_ROW if case.endswith("magnitude") else 0
    expected = reference.transformer(weights, source, target, heads=HEADS, layers=LAYERS, row=row)
    with torch.no_grad():
        rows = [torch.from_numpy(ids)[None] for ids in (source, target)]
        whole = [torch.stack([ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None]]) for ids in rows]
        logits = model(*whole).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("resnet50")])
@pytest.mark.parametrize("size", [64, 77])
def test_the_imported_resnet_computes_what_tensorflow_would(folder, case, size):
    found = read(folder, case)
    model = ResNet(50, 1 / 64, CLASSES, same_pool=True).eval()
    model.load_state_dict(found.model.state_dict())
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    weights = reference.Weights(variables(case), case.partition("-")[2], THRESHOLD)
    expected = reference.resnet50(weights, images.astype(np.float64))
    with torch.no_grad():
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert np.ptp(expected[0]) > 0.1
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())
