"""Where a step of one run fills the device, the runs of a fleet are computed one after the other, as they are alone."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

import openwork as ow
from openwork.study.fleet import memory
from openwork.study.fleet.execute import execute_fleet
from openwork.study.fleet.stack import Stack, StackedModels
from openwork.study.runs.execute import execute
from openwork.study.runs.live import prepare
from openwork.study.runs.run import Run
from openwork.study.tasks import cifar10
from openwork.study.tasks.cifar10 import Cifar10WideResNet
from tests.study import alonelab
from tests.study.test_fleet_alone import both, of, widths
from tests.study.test_fleet_networks import compare, splits
from tests.study.tinylab import PRUNE, Still, Tiny

SGD = Cifar10WideResNet(depth=10, width=1, batch_size=8, peak_learning_rate=1e-2)
NOW = ow.Constant(0.8, every=2, stop=3)
TECHNIQUES = [
    None,
    ow.GradualMagnitude(ow.OneShot(0.8, at=2)),
    ow.RigL(NOW, allocation=ow.ERK()),
    ow.Movement(ow.OneShot(0.8, at=3)),
    ow.VariationalDropout(ow.Linear(1e-3, end=3)),
    ow.L0(ow.Linear(1e-4, end=3)),
]


@pytest.fixture(autouse=True)
def in_turn(monkeypatch):
    monkeypatch.setattr(memory, "FULL", 0)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=str)
def test_a_residual_network_with_batch_norm_computed_in_turn_is_the_network_alone(technique, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "_normalized", lambda *_: splits(3, 32, 32))
    # The same kernels: only weights whose channels are last alone, and are not here, are rounded in another order.
    compare([Run(SGD, technique, 4, seed) for seed in range(3)], tmp_path, steps=4, rtol=2e-3)


def test_weights_in_the_layout_of_the_stack_move_as_alone_to_the_last_bit():
    lives = [prepare(Run(Tiny(), PRUNE, 4, seed), torch.device("cpu")) for seed in range(3)]
    stack = Stack(lives)
    batch = next(Tiny().batches(0, 0, torch.device("cpu")))
    losses, _, gradients = stack.gradients(shared=True)(batch, torch.tensor(0))
    for row, live in enumerate(lives):
        loss, _ = live.objective(batch)
        assert torch.equal(loss, losses[row])
        expected = torch.autograd.grad(loss, [*live.model.parameters()])
        for (name, _), gradient in zip(live.model.named_parameters(), expected, strict=True):
            assert torch.equal(gradients[name][row], gradient)


@pytest.mark.parametrize("task", [alonelab.Asking, alonelab.Branching, alonelab.Lstm, alonelab.Gru])
def test_what_vmap_refuses_is_a_fleet_in_turn(task, tmp_path):
    ended, said = both(of(task), tmp_path)
    assert widths(ended) == [3, 3, 3]
    assert not said


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (alonelab.Dropping, "alone comes to another loss"),
        (alonelab.Drawing, "draws from torch's generator"),
        (alonelab.ScaledBySeed, "scale of model 1 is not that of the first one"),
        (alonelab.ScaledByIterator, "alone comes to another loss"),
        (alonelab.NotElementwise, "none of torch's elementwise optimizers"),
        (alonelab.InParts, "divides its batches into parts"),
    ],
)
def test_what_is_another_run_in_turn_is_found(task, reason, tmp_path):
    ended, (sentence,) = both(of(task), tmp_path)
    assert widths(ended) == [None] * 3
    assert reason in sentence


def test_models_in_turn_are_evaluated_by_their_own_forward_and_stay_in_training():
    models = [torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 3)) for _ in range(2)]
    stack = StackedModels(models, in_turn=True)
    x = torch.randn(5, 2)
    found = stack.outputs(lambda model, x: model(x), x)
    assert all(model.training for model in models)
    assert torch.equal(found, torch.stack([model.eval()(x) for model in models]))
    assert [model[0].num_batches_tracked.item() for model in models] == [0, 0]


def test_compiled_in_turn_is_one_graph_for_all_models():
    lives = [prepare(Run(Tiny(), None, 4, seed), torch.device("cpu")) for seed in range(2)]
    stack = Stack(lives)
    batch = next(Tiny().batches(0, 0, torch.device("cpu")))
    torch._dynamo.reset()
    torch.compiler.reset()
    eager = stack.gradients(shared=True)(batch, torch.tensor(0))
    compiled = stack.gradients(shared=True, compile=True)(batch, torch.tensor(0))
    torch.testing.assert_close(compiled, eager)


def test_a_step_fills_the_device_by_what_it_keeps_for_its_gradient(monkeypatch):
    live = prepare(Run(Tiny(), None, 4), torch.device("cpu"))
    kept = memory._kept_by_a_step(live)
    for full, expected in ((kept, True), (kept + 1, False)):
        monkeypatch.setattr(memory, "FULL", full)
        assert memory.fills_the_device(live) is expected


@pytest.mark.parametrize(("kind", "at_once"), [("cpu", 1), ("cuda", 4)])
def test_runs_in_turn_are_charged_for_the_steps_that_compute_at_once(kind, at_once, monkeypatch):
    live = prepare(Run(Tiny(), None, 4), torch.device("cpu"))
    held, kept = memory._held(live), memory._kept_by_a_step(live)
    monkeypatch.setattr(memory, "FULL", kept)
    monkeypatch.setattr(memory, "_kept_by_a_step", lambda _: kept)
    monkeypatch.setattr(memory, "SHARE", 1.0)
    there = SimpleNamespace(model=live.model, run=live.run, device=torch.device(kind))
    for runs in (1, 3, 4, 5, 9):
        needed = runs * held + 2 * min(runs, at_once) * kept
        monkeypatch.setattr(memory, "free_bytes", lambda _, needed=needed: needed)
        assert memory.width(there) == runs
    monkeypatch.setattr(memory, "FULL", kept + 1)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 9 * (held + 2 * kept))
    assert memory.width(there) == 9


@pytest.mark.gpu
@pytest.mark.parametrize("technique", TECHNIQUES, ids=str)
def test_a_residual_network_in_bfloat16_on_a_gpu_comes_to_the_loss_that_it_has_alone(technique, tmp_path, monkeypatch):
    data = splits(3, 32, 32)
    there = type(data)(*(type(part)(part.images.cuda(), part.labels.cuda()) for part in data))
    monkeypatch.setattr(cifar10, "_normalized", lambda *_: there)
    runs = [Run(SGD, technique, 8, seed) for seed in range(3)]  # more steps than are eager
    found = execute_fleet(runs, tmp_path / "together", device="cuda", precision="bf16", evaluations=1)
    for run in runs:
        alone = execute(run, tmp_path / "alone", device="cuda", evaluations=1)
        assert found[run.id].environment.fleet == 3, found[run.id]
        assert found[run.id].after["loss"] == pytest.approx(alone.after["loss"], rel=0.1)


def test_measuring_the_memory_of_a_step_leaves_none_of_it():
    live, outputs = prepare(Run(Still(), None, steps=20), torch.device("cpu")), []

    def squash(module, arguments, output):
        outputs.append(weakref.ref(found := torch.tanh(output)))  # whose gradient needs the output
        return found

    live.model.register_forward_hook(squash)
    gc.collect()
    gc.disable()
    try:
        memory.bytes_of_a_run(live)
        assert [each() for each in outputs] == [None]
    finally:
        gc.enable()
