"""Optimizer state is masked by what it is: momentum and copies of weights; not codes, preconditioners or scales."""

import pytest
import torch
from torch import nn

import openwork as ow

bitsandbytes = pytest.importorskip("bitsandbytes")
HALF = ow.GradualMagnitude(ow.OneShot(0.5, at=1))
STATE = torch.tensor([[1.0, -2.0, 3.0, -4.0]])


class Keeps(torch.optim.SGD):
    """SGD that keeps for each parameter what a function of it returns."""

    def __init__(self, params, keep):
        super().__init__(params, lr=0.0)
        self.keep = keep

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            if "value" not in self.state[parameter]:
                self.state[parameter]["value"] = self.keep(parameter.detach())
        return super().step(closure)


def after_pruning(keep, weight=((1.0, 2.0, 3.0, 4.0),), others=(), technique=HALF, dtype=torch.float32):
    """The state of a weight whose first half has been masked in the step, and the mask."""
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor(weight, dtype=dtype))
    sparsifier = ow.sparsify(layer, technique)
    optimizer = Keeps([layer.weight, *others], keep)
    sparsifier.attach(optimizer)
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    return optimizer.state[layer.weight]["value"], sparsifier.masks()["weight"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_momentum_is_masked_in_whatever_precision_it_is_kept(dtype):
    assert after_pruning(lambda p: STATE.to(dtype))[0].tolist() == [[0.0, 0.0, 3.0, -4.0]]


@pytest.mark.parametrize(
    "codes",
    [
        torch.tensor([[True, False, True, True]]),
        torch.tensor([[1, -2, 3, -4]]),
        torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8),
        torch.tensor([[1, -2, 3, -4]], dtype=torch.int8),
        STATE.to(torch.float8_e4m3fn),
    ],
    ids=lambda codes: str(codes.dtype),
)
def test_codes_are_left_alone(codes):
    assert torch.equal(after_pruning(lambda p: codes.clone())[0].float(), codes.float())


def test_a_subclass_of_tensor_is_left_alone():
    class Quantised(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            assert "fill" not in function.__name__, "an operation that quantised state may not have"
            return super().__torch_function__(function, types, args, kwargs or {})

    kept = after_pruning(lambda p: STATE.clone().as_subclass(Quantised))[0]
    assert kept.as_subclass(torch.Tensor).tolist() == STATE.tolist()


@pytest.mark.parametrize("start", [0.5, 0.0])
def test_what_is_never_negative_is_left_alone(start):
    """Second moments and precisions: where one begins at 1, a 0 would be divided by."""
    assert after_pruning(lambda p: torch.full_like(p, start))[0].tolist() == [[start] * 4]


def test_infinite_and_nan_state_is_zero_under_the_mask():
    state = torch.tensor([[torch.inf, torch.nan, -1.0, torch.inf]])
    assert after_pruning(lambda p: state)[0].tolist() == [[0.0, 0.0, -1.0, torch.inf]]


def test_complex_momentum_is_masked_and_a_real_state_of_a_complex_weight_too():
    weight = ((1 + 1j, 2j, 3 + 0j, -4j),)
    complex_state = after_pruning(lambda p: torch.full_like(p, 1j), weight, dtype=torch.complex64)[0]
    assert complex_state.tolist() == [[0, 0, 1j, 1j]]
    assert after_pruning(lambda p: STATE.clone(), weight, dtype=torch.complex64)[0].tolist() == [[0, 0, 3, -4]]


SQUARE = ((1.0, 2.0), (3.0, 4.0))


def factor(parameter):
    """A preconditioner: a matrix of the rows' number, whatever the parameter's shape."""
    rows = parameter.shape[0]
    return torch.eye(rows) - torch.full((rows, rows), 0.25)


@pytest.mark.parametrize("others", [(), (torch.zeros(3, 5),), (torch.zeros(3),), (torch.zeros(3, 3),)], ids=str)
def test_a_preconditioner_of_a_square_weight_is_no_momentum(others):
    kept, _ = after_pruning(factor, SQUARE, [nn.Parameter(other) for other in others])
    assert torch.equal(kept, factor(torch.zeros(2, 2)))


@pytest.mark.parametrize("other", [torch.zeros(3, 5), torch.zeros(3), torch.zeros(2, 2, 2)], ids=str)
def test_another_parameter_shows_that_a_square_state_is_momentum(other):
    kept, mask = after_pruning(lambda p: torch.full_like(p, -1.0), SQUARE, [nn.Parameter(other)])
    assert torch.equal(kept, -mask.float())


def test_torchs_own_optimizers_need_no_other_parameter_to_show_it():
    layer = nn.Linear(2, 2, bias=False)
    layer.weight = nn.Parameter(torch.tensor(SQUARE))
    optimizer = torch.optim.Adam(layer.parameters())
    ow.sparsify(layer, HALF).attach(optimizer)
    layer.weight.square().sum().backward()
    optimizer.step()
    for name in ("exp_avg", "exp_avg_sq"):
        assert (optimizer.state[layer.weight][name] == 0).tolist() == [[True, True], [False, False]]


def test_state_that_is_kept_elsewhere_is_masked_there():
    weight = nn.Parameter(torch.zeros(1, 4))
    kept = after_pruning(lambda p: STATE.clone().to(torch.float64), others=[weight])[0]
    assert kept.dtype == torch.float64
    assert kept.tolist() == [[0.0, 0.0, 3.0, -4.0]]


class Averages(Keeps):
    """Moves every weight, and averages them before the step ends; eval() puts the average in their place."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(0.1)
            self.state[parameter]["value"].lerp_(parameter, 0.5)

    @torch.no_grad()
    def eval(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.copy_(self.state[parameter]["value"])


def test_averages_that_are_swapped_in_for_evaluation_have_the_zeros():
    layer = nn.Linear(4, 2, bias=False)
    optimizer = Averages(layer.parameters(), torch.clone)
    sparsifier = ow.sparsify(layer, HALF).attach(optimizer)
    for _ in range(3):
        layer.weight.grad = torch.ones(2, 4)
        optimizer.step()
    optimizer.eval()
    assert sparsifier.sparsity() == 0.5
    assert (layer.weight[~sparsifier.masks()["weight"]] == 0).all()


EIGHT_BITS = ["AdamW8bit", "Lion8bit", "SGD8bit", "RMSprop8bit", "Adagrad8bit", "LAMB8bit", "AdEMAMix8bit"]


@pytest.mark.parametrize("name", EIGHT_BITS)
def test_an_8_bit_optimizer_trains_under_masks(name):
    torch.manual_seed(0)
    model = nn.Linear(64, 64)  # 4,096 weights, from which on bitsandbytes quantises
    settings = {"momentum": 0.9} if name in ("SGD8bit", "RMSprop8bit") else {}
    optimizer = getattr(bitsandbytes.optim, name)(model.parameters(), lr=1e-3, **settings)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.Cubic(0.75, begin=1, end=4, every=1))).attach(optimizer)
    for _ in range(8):
        (model(torch.randn(8, 64)) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert int((model.weight == 0).sum()) == round(sparsifier.sparsity() * 4096)
    assert optimizer.state[model.weight]["state1"].dtype == torch.uint8
    assert (sparsifier.steps, sparsifier.sparsity()) == (8, 0.75)
    assert model.weight.isfinite().all()


def attached(optimizer_of, dtype=torch.float32, hidden="frozen"):
    layer = nn.Linear(4, 4).to(dtype)
    sparsifier = ow.sparsify(layer, ow.GradualMagnitude(ow.OneShot(0.5, at=1), hidden=hidden))
    return sparsifier.attach(optimizer_of(layer.parameters()))


class WithoutEps(torch.optim.Optimizer):
    """A class that has no use for an eps, and sets it to 0 for its kernel, as bitsandbytes' Lion does."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr, "eps": 0.0})

    def step(self, closure=None):
        pass


class ZeroByDefault(torch.optim.Adam):
    """Its own default is 0, so it knows how not to divide by it."""

    def __init__(self, params, eps=0.0):
        super().__init__(params)
        self.param_groups[0]["eps"] = eps


class PassesOn(torch.optim.Adam):
    """Names only what it adds."""

    def __init__(self, params, extra=1, **settings):
        super().__init__(params, **settings)


class Second(torch.optim.Optimizer):
    """Has its eps under another name, and not in a group."""

    def __init__(self, params, adam_eps=1e-8, num_steps=0):
        super().__init__(params, {"num_steps": num_steps})
        self.adam_eps = adam_eps

    def step(self, closure=None):
        pass


def test_an_eps_of_0_matters_only_where_the_optimizer_divides_by_it():
    for fine in (WithoutEps, ZeroByDefault, bitsandbytes.optim.Lion8bit, Second):
        attached(fine)
    for bad, name in (
        (lambda p: torch.optim.Adam(p, eps=0.0), "Adam has eps=0 "),
        (lambda p: torch.optim.RMSprop([{"params": p, "eps": 0}]), "RMSprop has eps=0 "),
        (lambda p: PassesOn(p, eps=0.0), "PassesOn has eps=0 "),
        (lambda p: Second(p, adam_eps=0.0), "Second has adam_eps=0 "),
        (lambda p: bitsandbytes.optim.Adam8bit(p, eps=0.0), "Adam8bit has eps=0 "),
    ):
        with pytest.raises(ValueError, match=f"{name}and would turn every masked weight into 0 / 0 = NaN"):
            attached(bad)


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adam, Second])
def test_an_eps_that_is_0_in_float16_is_refused(kind):
    with pytest.raises(ValueError, match=r"eps=1e-08, 0 in float16, and would turn .* pass an eps such as 1e-06"):
        attached(kind, torch.float16)
    attached(kind, torch.bfloat16)


def test_rmsprop_in_float16_trains_with_an_eps_that_float16_has():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2)).half()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, eps=1e-6)
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5, at=3))).attach(optimizer)
    for _ in range(20):
        x = torch.randn(8, 20).half()
        (nn.functional.cross_entropy(model(x).float(), (x[:, 0] > 0).long()) * 1024).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert sparsifier.sparsity() == 0.5
