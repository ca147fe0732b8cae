"""Whole training steps in CUDA graphs, with a sparsifier attached, beside the same steps without; `make test-gpu`."""

import pytest
import torch
from torch import nn

import openwork as ow

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:This instance was constructed with capturable=True:UserWarning"),
]
EVERY_4 = ow.Cubic(0.9, begin=0, end=24, every=4)
STEPS = 40
WARM_UP = 6  # until a step under masks


class Signs(torch.optim.Optimizer):
    """Steps by the sign of momentum: not one of torch's elementwise optimizers, so zeros are put back at each step."""

    def __init__(self, params):
        super().__init__(params, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            momentum.lerp_(parameter.grad, 0.1)
            parameter.sub_(momentum.sign().add(0.01 * parameter), alpha=1e-3)


OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "fused Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, fused=True, capturable=True),
    "another": Signs,
}


class Training:
    """A small network with weights large enough for the kernels, its sparsifier and its static inputs."""

    def __init__(self, technique, make, **settings):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 33, 3), nn.ReLU(), nn.Flatten(), nn.Linear(33 * 36, 129), nn.ReLU(), nn.Linear(129, 10)
        ).cuda()
        self.sparsifier = ow.sparsify(self.model, technique, **settings)
        self.optimizer = make(self.model.parameters())
        self.sparsifier.attach(self.optimizer)
        generator = torch.Generator("cuda").manual_seed(1)
        self.batches = torch.randn(STEPS, 32, 3, 8, 8, device="cuda", generator=generator)
        self.labels = torch.randint(10, (STEPS, 32), device="cuda", generator=generator)
        self.x, self.y = self.batches[0].clone(), self.labels[0].clone()
        self.graph = None

    def load(self, number):
        self.x.copy_(self.batches[number])
        self.y.copy_(self.labels[number])

    def step(self):
        self.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self.model(self.x), self.y).backward()
        self.optimizer.step()

    def warm_up(self):
        for number in range(WARM_UP):
            self.load(number)
            self.step()

    def capture(self):
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
            self.step()

    def replay(self, number):
        self.load(number)
        self.graph.replay()
        self.sparsifier.step()


@pytest.fixture(autouse=True)
def one_stream():
    """Not the default one, so that a graph can be captured on it, and what autograd keeps of streams agrees."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.synchronize()


@pytest.fixture(autouse=True)
def same_algorithms(monkeypatch):
    """cuDNN may not choose by timing, so that both trainings compute the same sums."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


@pytest.mark.parametrize("hidden", ["frozen", "trained", "lost"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_replayed_step_is_the_step_without_a_graph(name, hidden):
    technique = ow.GradualMagnitude(EVERY_4, hidden=hidden)
    graphed, eager = (Training(technique, OPTIMIZERS[name]) for _ in range(2))
    graphed.warm_up()
    eager.warm_up()
    graphed.capture()
    for number in range(WARM_UP, STEPS):
        graphed.replay(number)
        eager.load(number)
        eager.step()
        assert graphed.sparsifier.steps == eager.sparsifier.steps == number + 1
        for weight, mask in graphed.sparsifier.masks().items():
            assert not graphed.model.get_parameter(weight)[~mask].any()
    for one, other in zip(graphed.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    for one, other in zip(graphed.sparsifier.masks().values(), eager.sparsifier.masks().values(), strict=True):
        assert (one == other).float().mean() > 0.999  # scores that are equal up to rounding may change places
    assert graphed.sparsifier.sparsity() == pytest.approx(0.9, abs=1e-3)
    graphed.step()  # and on without the graph
    eager.step()
    assert graphed.sparsifier.steps == STEPS + 1


def test_what_other_code_writes_between_replays_is_masked_when_the_step_is_counted():
    for hidden in ("frozen", "trained", "lost"):
        training = Training(ow.GradualMagnitude(ow.OneShot(0.5), hidden=hidden), OPTIMIZERS["SGD"])
        training.warm_up()
        training.capture()
        training.replay(3)
        with torch.no_grad():
            training.model[5].weight.fill_(7.0)
        training.replay(4)
        mask = training.sparsifier.masks()["5.weight"]
        assert (training.model[5].weight[mask] > 5).all()
        assert not training.model[5].weight[~mask].any()


def test_rigl_makes_its_update_steps_without_the_graph():
    technique = ow.RigL(ow.Constant(0.8, every=5, stop=30))
    training = Training(technique, OPTIMIZERS["SGD"])
    training.warm_up()
    training.capture()
    masks = training.sparsifier.masks()
    for number in range(WARM_UP, 20):
        if technique.schedule.due(training.sparsifier.steps + 1):
            training.load(number)
            training.step()
        else:
            training.replay(number)
    assert training.sparsifier.steps == 20
    for name, mask in training.sparsifier.masks().items():
        assert not torch.equal(mask, masks[name])
        assert (~mask).float().mean().item() == pytest.approx(0.8, abs=1e-3)


def test_a_graph_of_forward_and_backward_alone_leaves_the_zeros():
    training = Training(ow.GradualMagnitude(EVERY_4), OPTIMIZERS["fused Adam"])
    training.warm_up()
    graph = torch.cuda.CUDAGraph()
    training.optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        nn.functional.cross_entropy(training.model(training.x), training.y).backward()
    for number in range(WARM_UP, 20):
        training.load(number)
        graph.replay()
        for name, mask in training.sparsifier.masks().items():
            assert not training.model.get_parameter(name).grad[~mask].any()
        training.optimizer.step()  # counts itself
        for name, mask in training.sparsifier.masks().items():
            assert not training.model.get_parameter(name)[~mask].any()
    assert training.sparsifier.steps == 20


def launches(function):
    """The names of the kernels that run."""
    function()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]


@pytest.mark.parametrize(("hidden", "extra"), [("frozen", 0), ("trained", 2), ("lost", 0)])
def test_a_replay_has_one_launch_each_for_all_gradients_and_all_parameters(hidden, extra):
    training = Training(ow.GradualMagnitude(ow.OneShot(0.9), hidden=hidden), OPTIMIZERS["fused Adam"])
    training.warm_up()
    training.capture()
    dense = Training(ow.GradualMagnitude(ow.OneShot(0.9, at=1000)), OPTIMIZERS["fused Adam"])
    dense.sparsifier.detach()
    dense.warm_up()
    dense.capture()
    own, others = launches(training.graph.replay), launches(dense.graph.replay)
    if not others:
        pytest.skip("the profiler sees no kernels here")
    assert len(own) - len(others) <= 1 + extra, (own, others)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_channels_last_half_precision_weights_train_in_a_graph(name):
    training = Training(ow.GradualMagnitude(EVERY_4), OPTIMIZERS[name])
    training.model.to(memory_format=torch.channels_last)
    for number in range(WARM_UP):
        training.load(number)
        with torch.autocast("cuda", torch.bfloat16):
            training.step()
    training.optimizer.zero_grad(set_to_none=True)
    training.graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    with torch.cuda.graph(training.graph, stream=stream), torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        training.step()
    for number in range(WARM_UP, 30):
        training.replay(number)
    assert training.sparsifier.sparsity() == pytest.approx(0.9, abs=1e-3)
    assert all(parameter.isfinite().all() for parameter in training.model.parameters())
