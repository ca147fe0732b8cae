"""Noise on the outputs of layers: gradients beside those of the formulas, what is kept, and who looks on."""

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import openwork as ow
from openwork.kernels.divergence import kl
from openwork.noise import key, keyed
from tests.core.noisy_cases import CASES, CONSTANT, assert_close, compared, made

MEMORY = ["fast", "small"]
KEY = torch.tensor(key(3, 4))


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_the_formulas(name, memory):
    layer, _, x = made(name, memory)
    assert_close(compared(name, layer, x, layer), 1e-10)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", ["matrix", "sequence", "3x3", "transposed", "few ids"])
def test_compiled_to_one_graph_they_are_as_well(name, memory):
    layer, _, x = made(name, memory)
    torch._dynamo.reset()
    assert_close(compared(name, layer, x, torch.compile(layer, backend="aot_eager", fullgraph=True)), 1e-10)


def as_it_is(graph, inputs):
    return make_boxed_func(graph.forward)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 4, bias=False) for _ in range(3))

    def forward(self, x):
        return self.query(x) * self.key(x) + self.value(x)


@pytest.mark.parametrize("memory", MEMORY)
def test_a_compiler_squares_a_shared_input_once_and_keeps_neither_square_nor_noise(memory):
    model, graphs = Attention(), {}
    ow.sparsify(model, ow.VariationalDropout(CONSTANT, memory=memory))

    def partitioned(joint, inputs, **settings):
        graphs["forward"], graphs["backward"] = min_cut_rematerialization_partition(joint, inputs, **settings)
        return graphs["forward"], graphs["backward"]

    torch._dynamo.reset()
    run = as_it_is
    backend = aot_autograd(fw_compiler=run, bw_compiler=run, partition_fn=partitioned)
    x = torch.randn(5, 7, 6, requires_grad=True)
    torch.compile(model, backend=backend, fullgraph=True)(x).square().sum().backward()
    nodes = {part: list(graph.graph.nodes) for part, graph in graphs.items()}
    squares = [node for node in nodes["forward"] if node.target is torch.ops.aten.pow.Tensor_Scalar]
    assert len(squares) == 1
    again = [node for node in nodes["backward"] if node.target is torch.ops.openwork.product_again.default]
    assert len(again) == (3 if memory == "small" else 0)
    kept = [node for node in nodes["forward"][-1].args[0][1:] if node.op != "placeholder"]
    assert squares[0] not in kept
    sizes = [node.meta["val"].numel() for node in kept if isinstance(node.meta.get("val"), torch.Tensor)]
    outputs = sum(size == 5 * 7 * 4 for size in sizes)
    assert outputs == (2 if memory == "small" else 5)  # q and k, which are multiplied, and a number for each output
    torch._dynamo.reset()


# In bfloat16 the products, their sums and the outputs are rounded to 2^-9 of themselves.
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", ["matrix", "sequence", "1x1", "few ids"])
def test_in_bfloat16_they_are_close(name, memory):
    layer, _, x = made(name, memory)
    layer, x = layer.float(), x.float() if x.is_floating_point() else x

    def run(x):
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x)

    pairs = compared(name, layer, x, run)
    assert_close(pairs, 2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_on_a_gpu_they_are_close(name, dtype, tolerance, compiled, memory, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    layer, _, x = made(name, memory)
    layer, x = layer.float().cuda(), (x.float() if x.is_floating_point() else x).cuda()
    torch._dynamo.reset()

    def run(x):
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return layer(x)

    if compiled and (name not in ("matrix", "sequence", "1x1", "3x3", "few ids", "many ids")):
        pytest.skip("compiled, each kind once")
    run = torch.compile(run, fullgraph=True, dynamic=False) if compiled else run
    assert_close(compared(name, layer, x, run), tolerance)


def kept(run):
    """(The bytes that the backward pass of what ``run`` returns keeps beside parameters, that result)."""
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter) and not isinstance(tensor._base, nn.Parameter):
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = run()
    return sum(sizes.values()), y


@pytest.mark.parametrize("name", ["matrix", "sequence", "1x1", "3x3", "transposed", "many ids"])
def test_fast_keeps_less_than_autograd_and_small_less_than_fast(name, monkeypatch):
    layer, _, x = made(name)
    fast, _y = kept(lambda: layer(x))
    small, _y = kept(lambda: made(name, "small")[0](x))
    monkeypatch.setattr("openwork.techniques.variational_dropout.transformed", lambda: True)
    plain, _y = kept(lambda: layer(x))
    assert small < fast < plain


def test_fast_keeps_a_number_for_each_output_besides_x_and_the_variances():
    layer = nn.Linear(30, 20)
    ow.sparsify(layer, ow.VariationalDropout(CONSTANT))
    x = torch.randn(50, 30)
    found, y = kept(lambda: layer(x))
    assert found == 4 * (x.numel() + layer.weight.numel() + y.numel())


def test_small_keeps_no_number_for_each_output():
    layer = nn.Linear(30, 20)
    ow.sparsify(layer, ow.VariationalDropout(CONSTANT, memory="small"))
    x = torch.randn(50, 30)
    assert kept(lambda: layer(x))[0] == 4 * (x.numel() + layer.weight.numel() + 2)  # and the two words of a key


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", ["matrix", "1x1", "3x3", "transposed"])
def test_an_input_without_gradient_costs_no_product(name, memory):
    layer, _, x = made(name, memory)
    layer(x).sum().backward()
    expected = layer.reparam.weight.log_sigma2.grad.clone()
    calls = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                calls.append(None)
            if function is torch.ops.aten.convolution_backward.default:
                calls.extend(wanted for wanted in args[-1][:2] if wanted)
            return function(*args, **(kwargs or {}))

    y = layer(x)
    with Products():
        y.sum().backward()
    again = memory == "small" and name == "matrix"  # a convolution's forward is not counted
    assert len(calls) == 2 + again
    assert layer.reparam.weight.log_sigma2.grad.shape == expected.shape


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("frozen", ["weight", "log_sigma2", "both"])
def test_what_is_frozen_gets_no_gradient(frozen, memory):
    layer, _, x = made("matrix", memory)
    theta, log_sigma2 = layer._parameters["weight"], layer.reparam.weight.log_sigma2
    theta.requires_grad_(frozen == "log_sigma2")
    log_sigma2.requires_grad_(frozen == "weight")
    x.requires_grad_()
    layer(x).square().sum().backward()
    assert (theta.grad is None, log_sigma2.grad is None) == (frozen != "log_sigma2", frozen != "weight")
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", ["matrix", "sequence", "3x3", "many ids"])
def test_gradients_can_be_differentiated_again(name, memory):
    layer, _, x = made(name, memory)
    if x.is_floating_point():
        x.requires_grad_()
    parameters = list(layer.parameters())
    with torch.no_grad():
        parameters[0].uniform_(0.1, 1)  # away from the limits, where finite differences are none

    def loss(*parameters):
        names = [name for name, _ in layer.named_parameters()]
        with keyed(KEY):
            y = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))
        return y.pow(3).sum() / 10

    assert torch.autograd.gradgradcheck(loss, parameters, rtol=1e-3, atol=1e-4)


def test_the_penaltys_gradient_can_be_differentiated_again():
    layer, sparsifier, _ = made("matrix")
    theta, log_sigma2 = layer._parameters["weight"], layer.reparam.weight.log_sigma2
    with torch.no_grad():
        theta.uniform_(0.1, 1)
    first = torch.autograd.grad(sparsifier.penalty(), log_sigma2, create_graph=True)[0]
    found = torch.autograd.grad(first.sum(), (theta, log_sigma2))
    log_alpha = (log_sigma2 - torch.log(theta * theta + 1e-8)).clamp(-8, 8)
    first = torch.autograd.grad(CONSTANT(0) * kl(log_alpha).sum(), log_sigma2, create_graph=True)[0]
    for ours, theirs in zip(found, torch.autograd.grad(first.sum(), (theta, log_sigma2)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # by torch.func.jvp
@pytest.mark.parametrize("name", ["matrix", "sequence", "3x3", "few ids"])
def test_transforms_see_the_same_numbers(name):
    layer, _, x = made(name)
    parameters = dict(layer.named_parameters())

    def loss(parameters):
        with keyed(KEY):
            return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    gradients = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for one, parameter in parameters.items():
        torch.testing.assert_close(gradients[one], parameter.grad)
    tangents = {one: torch.ones_like(parameter) for one, parameter in parameters.items()}
    expected = sum(parameter.grad.sum() for parameter in parameters.values())
    torch.testing.assert_close(torch.func.jvp(loss, (parameters,), (tangents,))[1], expected)
    with forward_ad.dual_level():
        dual = {one: forward_ad.make_dual(parameter, tangents[one]) for one, parameter in parameters.items()}
        torch.testing.assert_close(forward_ad.unpack_dual(loss(dual)).tangent, expected)


def test_a_second_backward_pass_adds_the_same_gradients():
    layer, sparsifier, x = made("matrix")
    with keyed(KEY):
        loss = layer(x).square().sum() + sparsifier.penalty()
    loss.backward(retain_graph=True)
    first = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    loss.backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * first[name])


def test_the_penalty_can_be_scaled_and_its_coefficient_changed_before_the_backward_pass():
    layer, sparsifier, _ = made("matrix")
    expected = torch.autograd.grad(sparsifier.penalty(), layer.reparam.weight.log_sigma2)[0]
    scaled = 3 * sparsifier.penalty()
    sparsifier._mechanism._coefficient.fill_(0.5)
    torch.testing.assert_close(torch.autograd.grad(scaled, layer.reparam.weight.log_sigma2)[0], 3 * expected)


def test_one_pass_over_all_weights_costs_what_each_costs(monkeypatch):
    model = nn.Sequential(nn.Linear(5, 4), nn.Conv1d(2, 3, 2), nn.Linear(4, 3)).double()
    sparsifier = ow.sparsify(model, ow.VariationalDropout(CONSTANT))
    torch.nn.init.normal_(model[0].reparam.weight.log_sigma2)
    sparsifier.penalty().backward()
    value = sparsifier.penalty().item()
    monkeypatch.setattr("openwork.techniques.variational_dropout.transformed", lambda: True)
    assert sparsifier.penalty().item() == pytest.approx(value, rel=1e-12)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    sparsifier.penalty().backward()
    for found, parameter in zip(gradients, [p for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(found, parameter.grad)
    assert len(gradients) == 6


def test_noise_without_a_key_differs_between_calls_and_layers():
    layers = [made("matrix", "small")[0] for _ in range(2)]
    x = torch.randn(4000, 7, dtype=torch.float64)
    with torch.no_grad():
        mean = F.linear(x, layers[0]._parameters["weight"], layers[0].bias)
    noise = torch.stack([layer(x).detach() - mean for layer in (*layers, layers[0])]).flatten(1)
    correlation = torch.corrcoef(noise) - torch.eye(3)
    assert correlation.abs().max() < 6 / noise.shape[1] ** 0.5 * 5  # the outputs of a unit have different variances


def test_another_kind_of_memory_is_refused():
    with pytest.raises(ValueError, match="memory must be 'fast' or 'small', got 'tiny'"):
        ow.VariationalDropout(CONSTANT, memory="tiny")


@pytest.mark.parametrize("memory", MEMORY)
def test_float16_computes_squares_in_float32(memory):
    layer = nn.Linear(4, 2)
    ow.sparsify(layer, ow.VariationalDropout(CONSTANT, memory=memory))
    with torch.autocast("cpu", torch.float16):
        y = layer(torch.full((3, 4), 300.0))  # 300^2 is more than float16 holds
    assert y.isfinite().all()
    y.float().sum().backward()
    assert layer.reparam.weight.log_sigma2.grad.isfinite().all()


def test_a_convolution_that_a_subclass_defines_stays_its_own():
    class Doubled(nn.Conv1d):
        def _conv_forward(self, x, weight, bias):
            return 2 * super()._conv_forward(x, weight, bias)

    layer = Doubled(2, 3, 2)
    technique = ow.VariationalDropout(CONSTANT, log_sigma2=-60.0, clip=80.0)
    x = torch.randn(1, 2, 5)
    expected = layer(x)
    ow.sparsify(layer, technique)
    torch.testing.assert_close(layer(x), expected, rtol=1e-3, atol=1e-3)
