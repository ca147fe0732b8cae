"""What must hold on a CUDA device; `make test-gpu`."""

import itertools
import warnings

import pytest
import torch

import openwork as ow
from openwork.core.masks.stacked import StackedMasks
from openwork.core.masks.threshold import keep_largest
from openwork.kernels.select import kth_largest
from tests.core.test_stacked_masks import BATCHED, different
from tests.helpers import conv_net, image_batches, train_step
from tests.kernels.select_cases import kth_largest_plain
from tests.members import equal, random_steps

pytestmark = pytest.mark.gpu
PRUNE = ow.Cubic(0.8, begin=2, end=10, every=2)


def masks_on(device: str, technique) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = conv_net().to(device)
    return {k: v.cpu() for k, v in ow.sparsify(model, technique).state_dict()["masks"].items()}


@pytest.mark.parametrize(
    "technique",
    [
        ow.GradualMagnitude(ow.OneShot(0.7)),
        ow.GradualMagnitude(ow.OneShot(0.7), allocation=ow.GlobalRanking()),
        ow.RandomPruning(ow.OneShot(0.7)),
    ],
    ids=repr,
)
def test_masks_are_the_same_as_on_the_cpu(technique):
    expected, found = masks_on("cpu", technique), masks_on("cuda", technique)
    assert all(torch.equal(found[name], mask) for name, mask in expected.items())


def test_ties_are_drawn_alike_and_selections_agree():
    scores = torch.randn(40_000, device="cuda").round(decimals=1)
    for k in (1, 4_000, 39_999):
        assert kth_largest(scores, k) == kth_largest_plain(scores, k)
        masks = [keep_largest(s, k, torch.Generator().manual_seed(0)) for s in (scores, scores.cpu())]
        assert torch.equal(masks[0].cpu(), masks[1])
        assert int(masks[0].sum()) == k


def waits(step) -> int:
    """How often the host waits for the device while ``step()`` runs."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # not the warning that the mode is a prototype, which comes once in a process and speaks of such operations, too
    return sum(str(warning.message).startswith("called a synchronizing CUDA operation") for warning in caught)


def waits_of_an_update(layers: int, technique) -> int:
    """How often the host waits in a step that recomputes the masks of so many layers, beyond one that does not."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(layers))).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    ow.sparsify(model, technique).attach(optimizer)
    found = []
    for _ in range(6):  # the masks change after even steps
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        found.append(waits(optimizer.step))
    return found[5] - found[4]


@pytest.mark.parametrize(
    "technique",
    [
        ow.GradualMagnitude(PRUNE),
        ow.GradualMagnitude(PRUNE, allocation=ow.GlobalRanking()),
        ow.RandomPruning(PRUNE),
        ow.SNIP(PRUNE),
        ow.RigL(ow.Constant(0.8, every=2, stop=10)),
        ow.SET(ow.Constant(0.8, every=2, stop=10)),
    ],
    ids=repr,
)
def test_the_waits_of_an_update_do_not_grow_with_the_number_of_tensors(technique):
    waits_of_an_update(2, technique)  # torch warns of the mode itself the first time
    few, many = waits_of_an_update(2, technique), waits_of_an_update(20, technique)
    assert few == many <= 4


def test_a_calibration_gives_the_masks_of_the_cpu():
    found = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model, x = conv_net().to(device), next(image_batches())[0].to(device)
        sparsifier = ow.sparsify(model, ow.Wanda(ow.OneShot(0.5)), calibrate=lambda model, x=x: model(x))
        found[device] = {name: mask.cpu() for name, mask in sparsifier.masks().items()}
    assert all(torch.equal(found["cuda"][name], mask) for name, mask in found["cpu"].items())


@pytest.mark.filterwarnings("ignore:.* keeps no weight")  # so small are these layers
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "technique",
    [
        ow.GradualMagnitude(PRUNE, hidden="trained"),
        ow.RandomPruning(PRUNE),
        ow.RigL(ow.Constant(0.8, every=2, stop=10)),
        ow.SET(ow.Constant(0.8, every=2, stop=10), pattern=ow.Block(1, 2)),
        ow.Movement(PRUNE),
        ow.SNIP(PRUNE),
        ow.VariationalDropout(ow.Constant(1e-3), log_sigma2=-4.0),
        ow.L0(ow.Constant(1e-3), dropout=0.925),
    ],
    ids=lambda t: type(t).__name__,
)
def test_every_technique_trains_and_finalizes(technique, compiled):
    torch.manual_seed(0)
    model = conv_net().cuda()
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    sparsifier.attach(optimizer)
    forward = torch.compile(model, fullgraph=True) if compiled else model
    for x, y in itertools.islice(image_batches(), 12):
        with torch.autocast("cuda", torch.bfloat16):
            assert torch.isfinite(train_step(forward, sparsifier, optimizer, (x.cuda(), y.cuda())))
    x = next(image_batches())[0].cuda()
    expected = model.eval()(x)
    sparsity = sparsifier.sparsity()
    plain = sparsifier.finalize()
    torch.testing.assert_close(plain(x), expected)
    assert ow.report(plain).sparsity == pytest.approx(sparsity)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "technique",
    [
        ow.VariationalDropout(ow.Constant(1e-3), log_sigma2=-4.0),
        ow.L0(ow.Constant(1e-3)),
        ow.GroupL0(ow.Constant(1e-3)),
        ow.SoftWeightSharing(ow.Constant(1e-4)),
    ],
    ids=lambda t: type(t).__name__,
)
def test_random_weights_of_low_precision_learn_in_float32(technique, dtype):
    torch.manual_seed(0)
    model = conv_net().to("cuda", dtype)
    sparsifier = ow.sparsify(model, technique)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    sparsifier.attach(optimizer)
    for x, _ in itertools.islice(image_batches(), 4):
        output = model(300 * x.to("cuda", dtype))  # whose squares float16 does not hold
        penalty = sparsifier.penalty()
        assert (output.dtype, penalty.dtype, penalty.device.type) == (dtype, torch.float32, "cuda")
        (output.float().square().mean().sqrt() * 1e-4 + penalty).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(p.dtype == torch.float32 for name, p in model.named_parameters() if "reparam" in name)


@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit", "Lion8bit", "AdEMAMix8bit"])
def test_an_8_bit_optimizer_trains_under_masks(name):
    optim = pytest.importorskip("bitsandbytes").optim
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64)).cuda()
    optimizer = getattr(optim, name)(model.parameters(), lr=1e-3)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(PRUNE)).attach(optimizer)
    for number in range(1, 16):
        (model(torch.randn(8, 64, device="cuda")) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        zeros = sum(int((model[place].weight == 0).sum()) for place in (0, 2))
        assert (sparsifier.steps, sparsifier.sparsity()) == (number, zeros / 16_384)
    assert optimizer.state[model[0].weight]["state1"].dtype == torch.uint8
    assert sparsifier.sparsity() == pytest.approx(0.8, abs=1e-4)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_clearing_the_state_of_an_unknown_optimizer_waits_for_nothing():
    class Unknown(torch.optim.AdamW):
        pass

    model = conv_net().cuda()
    optimizer = Unknown(model.parameters(), foreach=True)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5))).attach(optimizer)
    for batch in itertools.islice(image_batches(), 2):
        train_step(model, sparsifier, optimizer, [each.cuda() for each in batch])
    assert waits(lambda: sparsifier._mechanism._clear_state(optimizer)) == 0


def stacked_on_gpu(technique, *, many, members):
    """The stacked masks of members after some steps, and how often the host waits in the last update."""
    update = StackedMasks.update
    number = 0

    def counted(self, step):
        nonlocal number
        found = []
        number = waits(lambda: found.append(update(self, step)))
        return found[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StackedMasks, "update", counted)
        return random_steps([different(technique, i % 4) for i in range(members)], many=many, device="cuda"), number


@pytest.mark.filterwarnings("ignore:.* keeps no weight")
@pytest.mark.parametrize("technique", BATCHED, ids=repr)
def test_masks_of_many_members_are_those_of_each(technique):
    (many, waited), (each, _) = (stacked_on_gpu(technique, many=many, members=5) for many in (True, False))
    for one, other in zip(many, each, strict=True):
        equal(one, other)
    if technique.evidence.gradients == "never" and isinstance(technique, ow.GradualMagnitude):
        assert waited == stacked_on_gpu(technique, many=True, members=20)[1]
