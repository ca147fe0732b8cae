"""Every technique passes the same suite. A new technique adds one line to TECHNIQUES."""

import copy
import io
import itertools
import pickle
from functools import cache

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.nn import functional as F

import openwork as ow
from openwork.core.masks.listening import calibrates
from openwork.core.masks.technique import MaskTechnique
from openwork.core.technique import Technique
from tests.helpers import Tied, conv_net, image_batches, mean, train_step
from tests.optimizers import OPTIMIZERS

# So small are these layers, and so short is the training.
pytestmark = pytest.mark.filterwarnings("ignore:.* keeps no weight", "ignore:.* stopped at .* of a schedule")

RAMP = ow.Cubic(0.8, begin=2, end=10, every=2)
COEFFICIENT = ow.Linear(1e-2, begin=1, end=5)
TECHNIQUES = [
    ow.GradualMagnitude(RAMP),
    ow.GradualMagnitude(RAMP, hidden="trained"),
    ow.GradualMagnitude(RAMP, allocation=ow.GlobalRanking(), hidden="lost"),
    ow.GradualMagnitude(RAMP, pattern=ow.Block(1, 2)),
    ow.GradualMagnitude(RAMP, pattern=ow.Block(1, 2), allocation=ow.LAMP(), hidden="trained"),
    ow.RandomPruning(RAMP),
    ow.RandomPruning(RAMP, pattern=ow.Block(1, 2)),
    ow.VariationalDropout(COEFFICIENT, log_sigma2=-5.0),
    ow.L0(COEFFICIENT, dropout=0.925),
    ow.PruneRetrain(ow.Linear(1.2, end=10, every=2)),
    ow.DynamicSurgery(ow.Splicing(12), rate=0.5),
    ow.GroupL0(COEFFICIENT, dropout=0.925, weight_decay=1e-4),
    ow.SoftWeightSharing(ow.Constant(1e-3), zero_proportion=0.15),
    ow.RigL(ow.Constant(0.8, every=2, stop=10)),
    ow.SET(ow.Constant(0.8, every=2, stop=10), pattern=ow.Block(1, 2)),
    ow.Movement(RAMP),
    ow.SNIP(RAMP),
    ow.SNIP(RAMP, allocation=ow.Uniform(), pattern=ow.Block(1, 2)),
    ow.Wanda(ow.OneShot(0.8)),
    ow.RIA(ow.OneShot(0.8)),
    ow.SparseGPT(ow.OneShot(0.8)),
    ow.SparseGPT(ow.OneShot(0.8), pattern=ow.Block(1, 2)),
    ow.ADMM(ow.OneShot(0.8)),
    ow.ALPS(ow.OneShot(0.8)),
    ow.DSnoT(ow.OneShot(0.8)),
    ow.ACDC(ow.Phases(0.8, begin=2, end=9, sparse=2, dense=2)),
    ow.STR(-2.0),
    ow.SRSTE(pattern=ow.NM(1, 2)),
    ow.SoftMovement(COEFFICIENT, tau=0.5),
    ow.TopKAST(sparsity=0.8, backward_sparsity=0.5, every=3),
    ow.SNIP(ow.OneShot(0.8), rounds=4),
    ow.FORCE(ow.OneShot(0.8), rounds=4),
    ow.FORCE(ow.OneShot(0.8), rounds=4, allocation=ow.Uniform(), pattern=ow.Block(1, 2)),
    ow.GraSP(ow.OneShot(0.8)),
    ow.GraSP(ow.OneShot(0.8), allocation=ow.Uniform(), pattern=ow.PerOutput()),
    ow.SynFlow(ow.OneShot(0.8), rounds=10),
    ow.SynFlow(ow.OneShot(0.8), rounds=10, allocation=ow.Uniform(), pattern=ow.Block(1, 2)),
    ow.OBS(ow.OneShot(0.8), block=9, damping=1e-3),
    ow.OBS(ow.OneShot(0.8), pattern=ow.PerOutput(), rounds=2),
    ow.OBS(ow.OneShot(0.8), allocation=ow.GlobalRanking(), pattern=ow.Block(1, 2)),
]


def label(technique: Technique) -> str:
    if not isinstance(technique, MaskTechnique):
        return type(technique).__name__
    return f"{type(technique).__name__}-{technique.hidden}-{technique.pattern}"


every_technique = pytest.mark.parametrize("technique", TECHNIQUES, ids=label)
MASKS = [t for t in TECHNIQUES if isinstance(t, MaskTechnique)]
every_mask = pytest.mark.parametrize("technique", MASKS, ids=label)

# What prunes once, before training, is afterwards a mask that stays: the same code whichever technique found it. Wanda
# stands for all of them where a test is about steps and slow.
ONCE = [t for t in MASKS if isinstance(t.schedule, ow.OneShot)]
MOVING = [t for t in TECHNIQUES if t not in ONCE or isinstance(t, ow.Wanda)]
every_moving = pytest.mark.parametrize("technique", MOVING, ids=label)


def calibration(technique, dtype=torch.float32):
    """What the technique wants of one batch: outputs, a loss, gradients or inputs; or nothing."""
    if not (isinstance(technique, MaskTechnique) and calibrates(technique)):
        return None
    images, labels = next(image_batches())
    images = images.to(dtype)
    ids = torch.arange(20).view(4, 5) % 11

    def loss(model):
        if isinstance(model, Tied):
            return F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        return F.cross_entropy(model(images).float(), labels)

    if technique.evidence.returns == "outputs":
        return lambda model: model(images)
    if technique.evidence.differentiates and technique.evidence.returns == "nothing":
        return lambda model: loss(model).backward()
    return loss


def sparsified(model, technique):
    """The sparsifier, calibrated where the technique wants it."""
    return ow.sparsify(model, technique, calibrate=calibration(technique))


def started(technique, model=None, steps=0, optimizer=OPTIMIZERS["adam"]):
    """A sparsified model, its sparsifier and its optimizer after some steps, all from seed 0."""
    torch.manual_seed(0)
    model = conv_net() if model is None else model
    sparsifier = sparsified(model, technique)
    optimizer = optimizer(model.parameters())
    sparsifier.attach(optimizer)
    for batch in itertools.islice(image_batches(), steps):
        train_step(model, sparsifier, optimizer, batch)
    return model, sparsifier, optimizer


@every_technique
def test_a_technique_is_a_value(technique):
    assert eval(repr(technique), {name: getattr(ow, name) for name in ow.__all__}) == technique
    assert hash(copy.deepcopy(technique)) == hash(technique)
    with pytest.raises(AttributeError):
        technique.extra = 1


@every_technique
def test_dense_keys_are_kept(technique):
    dense = conv_net().state_dict()
    model, sparsifier, _ = started(technique, steps=3)
    assert dense.keys() <= model.state_dict().keys()
    if isinstance(technique, MaskTechnique):
        assert dense.keys() == model.state_dict().keys()
    assert sparsifier.finalize().state_dict().keys() == dense.keys()


@pytest.mark.parametrize(
    ("technique", "name"),
    [
        pytest.param(t, name, id=f"{name}-{label(t)}")
        for t in MASKS
        for name in (OPTIMIZERS if t in MOVING else ["adam"])
    ],
)
def test_zeros_are_exact_after_every_step(technique, name):
    model, sparsifier, optimizer = started(technique, optimizer=OPTIMIZERS[name])
    first, exchanged = sparsifier.masks(), False
    comes_back = technique.regrows or isinstance(technique, ow.ACDC)
    for batch in itertools.islice(image_batches(), 14):
        train_step(model, sparsifier, optimizer, batch)
        exchanged |= comes_back and any(not torch.equal(m, first[n]) for n, m in sparsifier.masks().items())
        expected = sum(int((~mask).sum()) for mask in sparsifier.masks().values())
        found = sum(int((w.parameter == 0).sum()) for w in sparsifier.weights)
        assert found == expected or (exchanged and found > expected)  # a weight that comes back begins at 0
        for weight in sparsifier.weights:
            mask = sparsifier.masks()[weight.name]
            assert (weight.parameter[~mask] == 0).all()
            for state in optimizer.state.get(weight.parameter, {}).values():
                if torch.is_tensor(state) and state.shape == mask.shape and technique.hidden != "trained":
                    assert (state[~mask].abs() <= 1e-8).all()  # Adamax keeps it at its eps or above
    assert sparsifier.sparsity() > (0.1 if technique.criterion == ow.Threshold() else 0.79)


@every_mask
def test_the_target_is_reached_exactly(technique):
    if technique.criterion == ow.Threshold():
        pytest.skip("the technique has thresholds and no target")
    _, sparsifier, _ = started(technique, steps=10)
    numels = [w.parameter.numel() for w in sparsifier.weights]
    assert numels == [72, 640, 50]
    zeros = {name: int((~mask).sum()) for name, mask in sparsifier.masks().items()}
    if technique.allocation == ow.Uniform():  # n - floor(0.2 n)
        assert list(zeros.values()) == [72 - 14, 640 - 128, 50 - 10]
    assert abs(sum(zeros.values()) - 0.8 * sum(numels)) < len(numels)


@every_technique
def test_sparsity_is_what_the_report_counts(technique):
    _model, sparsifier, _ = started(technique, steps=12)
    sparsity, layers = sparsifier.sparsity(), sparsifier.layer_sparsity()
    report = ow.report(sparsifier.finalize())
    assert report.sparsity == pytest.approx(sparsity, abs=1e-12)
    assert {layer.name: layer.sparsity for layer in report.layers} == pytest.approx(layers, abs=1e-12)
    assert 0.1 < sparsity < 1


@every_technique
def test_deepcopy_gives_an_independent_model(technique):
    model, sparsifier, optimizer = started(technique, steps=6)
    twin = copy.deepcopy(model)
    x, _ = next(image_batches())
    model.eval(), twin.eval()
    before = twin(x)
    assert torch.equal(model(x), before)
    model.train()
    for batch in itertools.islice(image_batches(), 3):
        train_step(model, sparsifier, optimizer, batch)
    assert torch.equal(twin(x), before)
    twin.train()(x).sum().backward()


@every_technique
def test_pickle_round_trip(technique):
    model, _, _ = started(technique, steps=6)
    twin = pickle.loads(pickle.dumps(model))
    x, _ = next(image_batches())
    assert torch.equal(model.eval()(x), twin.eval()(x))


@every_moving
def test_compile_takes_one_graph_and_does_not_recompile(technique):
    model, sparsifier, optimizer = started(technique)
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def objective(x, y):
        return F.cross_entropy(model(x), y) + sparsifier.penalty()

    compiled = torch.compile(objective, fullgraph=True, backend=counter)
    for x, y in itertools.islice(image_batches(), 12):  # masks change in 5 of these steps, the coefficient too
        compiled(x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert counter.frame_count == 1
    assert sparsifier.steps == 12


@every_moving
def test_compiled_evaluation_equals_eager(technique):
    model, sparsifier, _ = started(technique, steps=6)
    torch._dynamo.reset()
    x, _ = next(image_batches())
    compiled = torch.compile(model.eval(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), sparsifier.finalized_copy()(x))


@pytest.mark.parametrize(
    ("technique", "interrupted_after"),
    [
        pytest.param(t, step, id=f"{step}-{label(t)}")
        for t in TECHNIQUES
        for step in ([1, 5, 6, 11] if t in MOVING else [6])
    ],
)
def test_resume_is_bit_exact(technique, interrupted_after):
    model, sparsifier, optimizer = started(technique, steps=interrupted_after)
    file = io.BytesIO()
    state = [model.state_dict(), optimizer.state_dict(), sparsifier.state_dict(), torch.get_rng_state()]
    torch.save(state, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    torch.manual_seed(1)  # another start: everything must come from the checkpoint
    model = conv_net()
    sparsifier = sparsified(model, technique)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    sparsifier.attach(optimizer)
    for target, part in zip((model, optimizer, sparsifier), state, strict=False):
        target.load_state_dict(part)
    torch.set_rng_state(state[3])
    for batch in itertools.islice(image_batches(), interrupted_after, 14):
        train_step(model, sparsifier, optimizer, batch)
    for name, tensor in uninterrupted(technique).items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@cache
def uninterrupted(technique):
    """The state of a model after 14 steps: one training for all tests that only read it."""
    return started(technique, steps=14)[0].state_dict()


@every_technique
def test_finalize_gives_plain_modules_that_compute_the_same(technique):
    model, sparsifier, _ = started(technique, steps=12)
    x, _ = next(image_batches())
    expected = model.eval()(x)
    copied = sparsifier.finalized_copy()
    finalized = sparsifier.finalize()
    assert finalized is model
    for plain in (copied, finalized):
        assert [type(m) for m in plain.modules()] == [type(m) for m in conv_net().modules()]
        assert torch.equal(plain(x), expected)
        assert all(p.is_leaf and p.requires_grad for p in plain.parameters())


@every_technique
def test_a_tied_weight_counts_once(technique):
    looks = isinstance(technique, MaskTechnique) and technique.evidence.inputs
    if looks or isinstance(technique, ow.GroupL0 | ow.SynFlow):
        pytest.skip("its gates, norms or flow are those of units and filters, which an embedding does not have")
    model, sparsifier, optimizer = started(technique, Tied())
    assert [(w.name, w.parameter.numel()) for w in sparsifier.weights] == [
        ("embedding.weight", 66),
        ("hidden.weight", 36),
    ]
    ids = torch.randint(11, (4, 5))
    for _ in range(12):
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()) + sparsifier.penalty()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    expected = model.eval()(ids)
    plain = sparsifier.finalize()
    assert plain.output.weight is plain.embedding.weight
    assert torch.equal(plain(ids), expected)


@pytest.mark.parametrize("technique", [ow.VariationalDropout(ow.Constant(1.0)), ow.L0(ow.Constant(1.0))], ids=label)
def test_a_tied_weight_is_penalised_once(technique):
    tied = ow.sparsify(Tied(), technique, select=ow.matching("embedding.*"))
    model = Tied()
    model.output.weight = nn.Parameter(model.output.weight.detach().clone())
    untied = ow.sparsify(model, technique, select=ow.matching("embedding.*", "output.*"))
    assert len(untied.weights) == 2
    with torch.no_grad():
        for layer in (model.embedding, model.output):
            mean(layer).copy_(mean(tied.model.embedding))
    # KL depends on theta; P(z != 0) on log alpha = log 9 +- 0.01, so its mean over 66 draws is good to 1e-3
    torch.testing.assert_close(untied.penalty(), 2 * tied.penalty(), rtol=1e-3, atol=0)


@every_technique
def test_bfloat16_autocast_trains(technique):
    model, sparsifier, optimizer = started(technique)
    for x, y in itertools.islice(image_batches(), 12):
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
            loss = F.cross_entropy(output, y) + sparsifier.penalty()
        assert output.dtype == torch.bfloat16
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


@every_technique
def test_three_sparsifiers_in_a_row(technique):
    model = conv_net()
    for _ in range(3):
        model, sparsifier, _ = started(technique, model, steps=11)
        with pytest.raises(ValueError, match=r"is being sparsified .* already; call finalize"):
            ow.sparsify(model, technique)
        model = sparsifier.finalize()
        with pytest.raises(ValueError, match="is finalized; call sparsify again"):
            sparsifier.penalty()


@every_technique
def test_the_penalty_gradient_can_come_from_the_optimizer_hook(technique):
    def trained(penalty_gradient):
        torch.manual_seed(0)
        model = conv_net()
        sparsifier = sparsified(model, technique)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparsifier.attach(optimizer, penalty_gradient=penalty_gradient)
        for x, y in itertools.islice(image_batches(), 5):
            loss = F.cross_entropy(model(x), y)
            (loss if penalty_gradient else loss + sparsifier.penalty()).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()

    inside, outside = trained(True), trained(False)
    for name, tensor in outside.items():
        torch.testing.assert_close(inside[name], tensor, atol=1e-6, rtol=1e-5)


@every_technique
def test_the_state_of_another_technique_is_refused(technique):
    _, sparsifier, _ = started(technique, steps=3)
    other = ow.L0(COEFFICIENT) if not isinstance(technique, ow.L0) else ow.RandomPruning(RAMP)
    state = ow.sparsify(conv_net(), other).state_dict()
    with pytest.raises(ValueError, match=f"saved by {type(other).__name__} and this sparsifier runs"):
        sparsifier.load_state_dict(state)
    with pytest.raises(ValueError, match=r"not a sparsifier's state_dict"):
        sparsifier.load_state_dict({"model": 1})


@pytest.mark.parametrize("kind", [ow.GradualMagnitude, ow.RandomPruning, ow.VariationalDropout, ow.L0])
def test_a_number_in_place_of_a_schedule_is_answered_with_the_schedule(kind):
    with pytest.raises(TypeError, match=r"must be a schedule such as \w+\(0.9\), got 0.9"):
        kind(0.9)
