"""Models in float16 and bfloat16: what techniques learn, sum and rank is float32 at least."""

import copy
import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from tests.helpers import conv_net, image_batches, mean
from tests.layers import LAYERS, example, matrices
from tests.test_contract import TECHNIQUES, calibration, label

LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
RANDOM = [
    ow.VariationalDropout(ow.Constant(1e-2), log_sigma2=-5.0),
    ow.L0(ow.Constant(1e-2), weight_decay=1e-3),
    ow.GroupL0(ow.Constant(1e-2), weight_decay=1e-3),
    ow.SoftWeightSharing(ow.Constant(1e-3)),
]
every_random = pytest.mark.parametrize("technique", RANDOM, ids=label)


def learned(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if "reparam" in name}


@LOW
@pytest.mark.filterwarnings("ignore:.* keeps no weight")  # the gates close, all of them
@pytest.mark.parametrize("technique", TECHNIQUES, ids=label)
def test_every_technique_trains(technique, dtype):
    torch.manual_seed(0)
    model = conv_net().to(dtype)
    sparsifier = ow.sparsify(model, technique, calibrate=calibration(technique, dtype))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-4)  # 1e-8 is 0 in float16
    sparsifier.attach(optimizer)
    for x, y in itertools.islice(image_batches(), 12):
        output = model(x.to(dtype))
        assert output.dtype == dtype
        assert sparsifier.penalty().dtype == torch.float32
        (F.cross_entropy(output.float(), y) + sparsifier.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert sparsifier.sparsity() > 0.1
    sparsity, expected = sparsifier.sparsity(), model.eval()(x.to(dtype))
    plain = sparsifier.finalize()
    assert {parameter.dtype for parameter in plain.parameters()} == {dtype}
    assert ow.report(plain).sparsity == pytest.approx(sparsity, abs=1e-12)
    assert torch.equal(plain(x.to(dtype)), expected)


@LOW
@pytest.mark.parametrize("technique", RANDOM[:2], ids=label)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_every_layer_returns_its_own_dtype(name, technique, dtype):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model, x = make().to(dtype), example(shape)
    x = x.to(dtype) if x.is_floating_point() else x
    ow.sparsify(model, technique, select=matrices)
    for _ in range(2):
        output = model(x)
        assert output.dtype == dtype
        model.eval()
    model.train()(x).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert all(parameter.dtype == parameter.grad.dtype == torch.float32 for parameter in learned(model).values())


@every_random
@pytest.mark.parametrize("convert", ["bfloat16", "half", "to", "type"])
def test_a_model_that_is_converted_later_learns_in_float32_all_the_same(technique, convert):
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, technique)
    before = {name: parameter.detach().clone() for name, parameter in learned(model).items()}
    arguments = () if convert in ("bfloat16", "half") else (torch.bfloat16,)
    getattr(model, convert)(*arguments)
    assert {p.dtype for name, p in model.named_parameters() if "reparam" not in name} < {torch.bfloat16, torch.half}
    for name, parameter in learned(model).items():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name]), name
    assert sparsifier.penalty().dtype == torch.float32
    x = next(image_batches())[0].to(model[0].bias.dtype)
    model(x).float().sum().backward()
    twin = copy.deepcopy(model)
    twin.load_state_dict({name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}, assign=True)
    assert {parameter.dtype for parameter in learned(twin).values()} == {torch.float32}
    assert {parameter.dtype for parameter in learned(model.double()).values()} == {torch.float64}
    assert sparsifier.penalty().dtype == torch.float64
    assert learned(model.to("meta")).popitem()[1].is_meta


@pytest.mark.filterwarnings("ignore:.* keeps no weight", "ignore:.* stopped at .* of a schedule")
@pytest.mark.parametrize("technique", TECHNIQUES, ids=label)
def test_a_model_whose_type_changes_trains(technique):
    torch.manual_seed(0)
    model = conv_net()
    sparsifier = ow.sparsify(model, technique, calibrate=calibration(technique))
    model.type(torch.float64)  # of buffers too, which torch casts whatever they hold
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    sparsifier.attach(optimizer)
    for images, labels in itertools.islice(image_batches(), 2):
        (F.cross_entropy(model(images.double()), labels) + sparsifier.penalty()).backward()
        optimizer.step()
    sparsifier.finalize()


def test_masks_of_a_model_on_the_meta_device_get_memory_as_its_weights_do():
    model = nn.Linear(8, 8)
    ow.sparsify(model, ow.TopKAST(sparsity=0.8, backward_sparsity=0.5))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.to("meta").to_empty(device="cpu").load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert any(value.dtype is torch.bool for value in model.state_dict().values())


def test_gates_move_in_bfloat16_as_in_float32():
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        layer = nn.Linear(20, 8).to(dtype)
        sparsifier = ow.sparsify(layer, ow.L0(ow.Constant(1e-2)))
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
        sparsifier.attach(optimizer)
        gates = layer.reparam.weight.log_alpha
        before = gates.detach().clone()
        for _ in range(100):
            sparsifier.penalty().backward()
            optimizer.step()
            optimizer.zero_grad()
        moved[dtype] = (gates - before).abs().mean().item()
    assert moved[torch.float32] == pytest.approx(0.1, rel=0.05)  # 100 steps of Adam, 1e-3 each
    assert moved[torch.bfloat16] == pytest.approx(moved[torch.float32], rel=1e-4)


@LOW
def test_the_penalty_is_that_of_float32(dtype):
    for technique in RANDOM:
        torch.manual_seed(0)
        layer = nn.Linear(300, 300).to(dtype)
        twin = copy.deepcopy(layer).float()
        low, exact = ow.sparsify(layer, technique), ow.sparsify(twin, technique)
        torch.testing.assert_close(low.penalty(), exact.penalty())
        low.penalty().backward(), exact.penalty().backward()
        torch.testing.assert_close(mean(layer).grad, mean(twin).grad.to(dtype))
        assert low.expected_nonzero() == pytest.approx(exact.expected_nonzero())


def test_zeros_are_counted_in_the_dtype_that_holds_them():
    layer = nn.Linear(2, 1, bias=False, dtype=torch.float16)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1e-7]]))
    sparsifier = ow.sparsify(layer, ow.GroupL0(ow.Constant(1.0)))
    with torch.no_grad():
        layer.reparam.weight.log_alpha.fill_(-2.0)  # gates of 0.043: float16 ends at 6e-8
    assert sparsifier.sparsity() == 0.5
    assert sparsifier.masks()["weight"].tolist() == [[True, False]]
    assert int((sparsifier.finalize().weight == 0).sum()) == 1


@pytest.mark.parametrize("autocast", [False, True])
def test_inputs_whose_squares_float16_does_not_hold_have_a_finite_variance(autocast):
    torch.manual_seed(0)
    layer = nn.Linear(4, 20_000, bias=False).to(torch.float32 if autocast else torch.float16)
    nn.init.constant_(layer.weight, 1.0)
    ow.sparsify(layer, ow.VariationalDropout(ow.Constant(1.0), log_sigma2=-4.0))
    x = torch.full((1, 4), 300.0, dtype=torch.float32 if autocast else torch.float16)
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        y = layer(x)
    assert y.dtype == torch.float16
    std = 2 * 300 * math.exp(-2)
    assert y.float().mean().item() == pytest.approx(1200, abs=6 * std / 20_000**0.5)  # 6 sigma of the mean
    assert y.float().std().item() == pytest.approx(std, rel=6 / 40_000**0.5)
    y.float().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


class Scaled(ow.ReparameterizedWeight):
    """The weight times what is learned for it, in the dtype that torch makes by default."""

    def __init__(self, weight):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(weight.shape))
        self.register_buffer("seen", torch.zeros_like(weight))

    def sample(self, weight, generator=None):
        assert weight.dtype == self.scale.dtype == self.seen.dtype == torch.float32
        return self.scale * weight

    def effective(self, weight):
        return self.sample(weight)

    def penalty(self, weight):
        return (self.scale * weight).square().sum()


@dataclass(frozen=True)
class Scaling(ow.Reparameterization):
    def distribution(self, weight, generator):
        return Scaled(weight)


@pytest.mark.parametrize("name", ["linear at the root", "embedding", "lstm", "packed attention", "bare parameter"])
def test_techniques_of_users_learn_in_float32_without_knowing_of_it(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model, x = make().bfloat16(), example(shape)
    x = x.bfloat16() if x.is_floating_point() else x
    expected = model(x)
    torch.set_default_dtype(torch.bfloat16)
    try:
        sparsifier = ow.sparsify(model, Scaling(ow.Constant(1.0)), select=matrices)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(model(x), expected, atol=1e-3, rtol=0.02)  # the inputs' products are rounded once more
    assert sparsifier.penalty().dtype == torch.float32
    assert model(x).dtype == torch.bfloat16


def test_a_low_precision_layer_under_autocast_gives_what_the_dense_one_gives():
    for make in (lambda: nn.Linear(6, 4), lambda: nn.Embedding(9, 6)):
        layer = make().bfloat16()
        x = torch.randn(3, 6) if isinstance(layer, nn.Linear) else torch.tensor([1, 2])
        with torch.autocast("cpu", torch.float16):
            expected = layer(x).dtype
            ow.sparsify(layer, ow.L0(ow.Constant(1.0)))
            assert layer(x).dtype == expected


@every_random
def test_low_precision_compiles_to_one_graph(technique):
    torch.manual_seed(0)
    model = conv_net().half()
    sparsifier = ow.sparsify(model, technique)

    def objective(x):
        return model(x).float().sum() + sparsifier.penalty()

    torch._dynamo.reset()
    x = next(image_batches())[0].half()
    torch.compile(objective, fullgraph=True, backend="aot_eager")(x).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@every_random
def test_complex_weights_cannot_be_random_variables(technique):
    model = nn.Sequential(nn.Linear(8, 8, dtype=torch.complex64), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"^0.weight is torch.complex64, and only real .*excluding\('0.weight'\)$"):
        ow.sparsify(model, technique)
    assert type(model[0]) is nn.Linear
    ow.sparsify(model, technique, select=ow.excluding("0.weight"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64], ids=str)
def test_the_penalty_of_masks_is_a_real_float32_zero(dtype):
    model = nn.Sequential(nn.Linear(4, 4, dtype=dtype), nn.Linear(4, 2))
    penalty = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5, at=3))).penalty()
    assert (penalty.dtype, penalty.shape, penalty.item()) == (torch.float32, (), 0)


def test_a_frozen_float8_weight_that_comes_first_leaves_the_penalty_alone():
    model = nn.Sequential(nn.Module(), nn.Linear(8, 2))
    model[0].weight = nn.Parameter(torch.randn(8, 8).to(torch.float8_e4m3fn), requires_grad=False)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5, at=3)))
    assert (torch.tensor(1.0) + sparsifier.penalty()).item() == 1


def test_penalties_of_several_dtypes_and_places_add_up():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4).half(), nn.Linear(4, 4), nn.Linear(4, 4).double())
    sparsifier = ow.sparsify(model, ow.L0(ow.Constant(1.0)))
    assert sparsifier.penalty().item() == pytest.approx(sum(sparsifier.expected_nonzero().values()))


@dataclass(frozen=True)
class Summed(ow.Evidence):
    """The sum of all gradients, in the dtype of what begin is shown."""

    def begin(self, weight):
        return {"sum": torch.zeros_like(weight), "product": torch.zeros_like(weight), "rows": torch.zeros(())}

    def gradient(self, kept, weight, gradient):
        kept["sum"] += gradient
        kept["product"] += weight * gradient

    def input(self, kept, rows):
        kept["rows"] = kept["rows"] + rows.sum()


@dataclass(frozen=True)
class Largest(ow.MaskTechnique):
    evidence: ClassVar[ow.Evidence] = Summed(gradients="at updates", inputs=True)

    def scores(self, view):
        assert view.weight.dtype == torch.float32
        return view.evidence["sum"].abs()


@LOW
def test_what_a_users_evidence_sums_goes_on_growing(dtype):
    layer = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.constant_(layer.weight, 1e-4)

    def run(layer):
        for _ in range(4000):
            layer(torch.ones(1, 1, dtype=dtype))
        (layer(torch.ones(1, 1, dtype=dtype)) * 1e-4).backward()

    sparsifier = ow.sparsify(layer, Largest(ow.OneShot(0.0, at=0)), calibrate=run)
    evidence = sparsifier._mechanism.weights[0].evidence
    assert evidence["rows"].item() == 4001  # bfloat16 stops at 256, float16 at 2048
    assert evidence["sum"].dtype == torch.float32
    assert evidence["product"].item() == pytest.approx(1e-8, rel=0.02)  # float16 ends at 6e-8


@LOW
def test_snip_ranks_products_that_float16_does_not_hold(dtype):
    layer = nn.Linear(2, 1, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1e-4, 2e-4]]))
    sparsifier = ow.sparsify(
        layer,
        ow.SNIP(ow.OneShot(0.5)),
        calibrate=lambda layer: (layer(torch.full((1, 2), 1e-4, dtype=dtype))).backward(),
    )
    assert sparsifier.masks()["weight"].tolist() == [[False, True]]


def test_thresholds_are_compared_in_float32():
    layer = nn.Linear(2, 1, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0078125]]))  # neighbours in bfloat16
    technique = ow.GradualMagnitude(ow.OneShot(1.003), criterion=ow.Threshold())  # which bfloat16 rounds to 1
    assert ow.sparsify(layer, technique).masks()["weight"].tolist() == [[False, True]]


def test_one_ranking_over_tensors_of_several_dtypes_is_exact():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False, dtype=torch.bfloat16))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.001, 1.002], [1.003, 1.004]]))
        model[1].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, 2.0]]))
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.375), allocation=ow.GlobalRanking()))
    assert sparsifier.layer_sparsity() == {"0.weight": 0, "1.weight": 0.75}
    keep = ow.GlobalRanking()({"a": torch.tensor([1.0, 1.0 + 2**-40]).double(), "b": torch.ones(2)}, 0.75, 0.75)
    assert keep == {"a": 1, "b": 0}


@pytest.mark.parametrize(
    "technique",
    [ow.PruneRetrain(ow.OneShot(1.0)), ow.DynamicSurgery(ow.Splicing(9)), ow.GradualMagnitude(ow.OneShot(0.5))],
    ids=label,
)
@pytest.mark.parametrize("pattern", [None, ow.Rows()], ids=["single weights", "rows"])
def test_masks_of_float16_weights_are_those_of_float32(technique, pattern):
    if pattern:
        technique = ow.GradualMagnitude(ow.OneShot(0.5), pattern=pattern, allocation=ow.LAMP())
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, dtype=torch.float16)
    with torch.no_grad():
        layer.weight.mul_(4e5)  # sums of rows and squares that float16 does not hold
    masks = [ow.sparsify(one, technique).masks()["weight"] for one in (layer, copy.deepcopy(layer).float())]
    assert torch.equal(*masks)
