"""Techniques that prune by a calibration: every layer, pattern and precision, and zeros that stay."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from openwork.study.experiments.at_initialisation import controls, lenet
from openwork.study.runs.live import prepare
from openwork.study.runs.run import Run
from tests.core.test_calibration import Conv1D
from tests.study.tinylab import Tiny

pytestmark = pytest.mark.filterwarnings("ignore:.* keeps no weight")

LAYERS = {
    "Linear": (lambda: nn.Linear(8, 8), (6, 8)),
    "Conv2d": (lambda: nn.Conv2d(8, 4, (1, 3)), (6, 8, 3, 5)),
    "grouped Conv2d": (lambda: nn.Conv2d(8, 8, 3, groups=2), (6, 8, 3, 5)),
    "Conv1D": (Conv1D, (6, 6)),
}
PATTERNS = [ow.Unstructured(), ow.PerOutput(), ow.NM(2, 4), ow.Block(2, 1), ow.Columns()]
KINDS = {
    "SNIP": lambda **settings: ow.SNIP(ow.OneShot(0.5), rounds=2, **settings),
    "FORCE": lambda **settings: ow.FORCE(ow.OneShot(0.5), rounds=2, **settings),
    "GraSP": lambda **settings: ow.GraSP(ow.OneShot(0.5), **settings),
    "SynFlow": lambda **settings: ow.SynFlow(ow.OneShot(0.5), rounds=2, **settings),
    "OBS": lambda **settings: ow.OBS(ow.OneShot(0.5), rounds=2, **settings),
}


def calibration(kind, x):
    """What the technique of that name wants of a batch."""

    def loss(model):
        outputs = model(x).flatten(1)
        return F.cross_entropy(outputs, torch.arange(len(x)) % outputs.shape[1])

    if kind == "SynFlow":
        return lambda model: model(x)
    return loss if kind == "GraSP" else lambda model: loss(model).backward()


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_can_have_every_pattern(kind, layer, pattern):
    make, shape = LAYERS[layer]
    torch.manual_seed(0)
    model = nn.Sequential(make())
    weight = model[0].weight
    if layer == "Conv1D" and isinstance(pattern, ow.NM):
        pattern = ow.NM(1, 2)  # 4 does not divide its 6 inputs
    x = torch.randn(shape)
    technique = KINDS[kind](pattern=pattern, allocation=ow.Uniform())
    masks = ow.sparsify(model, technique, calibrate=calibration(kind, x)).masks()
    assert int(masks["0.weight"].sum()) == weight.numel() // 2
    assert torch.equal(weight != 0, masks["0.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_that_stay_stay_and_the_count_is_exact(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].weight[:, ::4] = 0
    masks = ow.sparsify(model, KINDS[kind](), keep_zeros=True, calibrate=calibration(kind, torch.randn(6, 8))).masks()
    assert not masks["0.weight"][:, ::4].any()
    assert sum(int(mask.sum()) for mask in masks.values()) == 96


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_precision_is_kept(kind, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).to(dtype)
    sparsifier = ow.sparsify(model, KINDS[kind](), calibrate=calibration(kind, torch.randn(6, 8, dtype=dtype)))
    assert sparsifier.sparsity() == 0.5
    assert all(parameter.dtype == dtype for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_calibration_gives_the_same_masks_whatever_torch_has_drawn_before(kind):
    found = []
    for seed in (1, 2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        x = torch.randn(6, 8)
        torch.manual_seed(seed)
        found.append(ow.sparsify(model, KINDS[kind](), calibrate=calibration(kind, x)).masks())
    assert all(torch.equal(mask, found[1][name]) for name, mask in found[0].items())


def test_controls_keep_the_counts_of_a_run_s_mask_and_lose_its_places_or_its_weights():
    run = Run(Tiny(), ow.SNIP(ow.OneShot(0.5)), steps=3)
    shuffled, again = controls(run)
    assert (shuffled.name, again.name) == ("LotteryTicket, of SNIP, shuffled", "Scratch, of SNIP")
    assert shuffled.kept_zeros == again.kept_zeros == run
    weights = prepare(run, torch.device("cpu")).model.state_dict()
    zeros = {"weight": weights["weight"]}
    for control in (shuffled, again):
        model = prepare(control, torch.device("cpu"), None, zeros).model
        assert int((model.weight == 0).sum()) == 2
    assert len(lenet()) == 3 * (1 + 6 * 3)
