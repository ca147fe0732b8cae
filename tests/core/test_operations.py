"""Random weights in torch's own layers: what is drawn once, and what their forwards must do like the plain ones."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import openwork as ow
from openwork.core.parameters.layers import FORWARDS
from tests.layers import LAYERS, Bare

QUIET = ow.VariationalDropout(ow.Constant(1.0), log_sigma2=-30.0, clip=40.0)
NOISY = ow.VariationalDropout(ow.Constant(1.0), log_sigma2=0.0)
L0 = ow.L0(ow.Constant(1.0), dropout=0.5)


def kind_of(technique) -> str:
    return type(technique).__name__


INPUT, HIDDEN = ow.matching("*weight_ih*"), ow.matching("*weight_hh*")


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("form", ["batch", "batch first", "one", "packed", "packed in order"])
def test_recurrent_layers_take_and_return_what_the_plain_ones_do(kind, bidirectional, form):
    torch.manual_seed(0)
    plain = kind(3, 4, num_layers=2, bidirectional=bidirectional, batch_first=form == "batch first")
    layer = copy.deepcopy(plain)
    ow.sparsify(layer, QUIET)
    depth = 4 if bidirectional else 2
    if form.startswith("packed"):
        lengths = (5, 3, 2) if form == "packed in order" else (2, 5, 3)
        x = pack_sequence([torch.randn(n, 3) for n in lengths], enforce_sorted=form == "packed in order")
        state = torch.randn(depth, 3, 4)
    elif form == "one":
        x, state = torch.randn(6, 3), torch.randn(depth, 4)
    else:
        x, state = torch.randn(6, 2, 3), torch.randn(depth, 6 if form == "batch first" else 2, 4)
    for hx in (None, (state, -state) if kind is nn.LSTM else state):
        (output, last), (expected, final) = layer(x, hx), plain(x, hx)
        if isinstance(x, PackedSequence):
            assert torch.equal(output.batch_sizes, expected.batch_sizes)
            output, expected = pad_packed_sequence(output)[0], pad_packed_sequence(expected)[0]
        torch.testing.assert_close(output, expected, atol=2e-3, rtol=0)
        torch.testing.assert_close(last, final, atol=2e-3, rtol=0)


def test_noise_on_the_inputs_is_drawn_once_for_each_sequence():
    torch.manual_seed(0)
    layer = nn.RNN(3, 4, batch_first=True)
    nn.init.zeros_(layer.weight_hh_l0)
    ow.sparsify(layer, NOISY, select=INPUT)
    output, _ = layer(torch.ones(2, 5, 3))  # equal inputs and no memory: what differs is noise
    assert torch.equal(output, output[:, :1].expand_as(output))
    assert not torch.allclose(output[0], output[1])


def test_noise_on_the_inputs_has_the_moments_of_a_linear_layer():
    torch.manual_seed(0)
    layer = nn.RNN(3, 2, bias=False, nonlinearity="relu")
    nn.init.ones_(layer.weight_ih_l0)
    ow.sparsify(layer, ow.VariationalDropout(ow.Constant(1.0), log_sigma2=-2.0), select=INPUT)
    with torch.no_grad():
        x = torch.tensor([2.0, 1.0, 3.0]).expand(1, 20_000, 3)
        first, _ = layer(x)  # mean 6, variance 14 e^-2: 4.4 sigma above the ReLU's kink
    std = (14 * torch.e**-2) ** 0.5
    assert first.mean().item() == pytest.approx(6, abs=6 * std / 40_000**0.5)  # 6 sigma of the mean of 40,000
    assert first.std().item() == pytest.approx(std, rel=6 / 80_000**0.5)


@pytest.mark.parametrize("technique", [NOISY, L0], ids=kind_of)
def test_hidden_weights_are_drawn_once_for_all_time_and_examples(technique):
    torch.manual_seed(0)
    layer = nn.RNN(3, 4, nonlinearity="relu", bias=False)
    ow.sparsify(layer, technique, select=HIDDEN)
    x = torch.zeros(5, 2, 3)
    output, _ = layer(x, torch.ones(1, 2, 4))
    assert torch.equal(output[:, 0], output[:, 1])
    assert not torch.allclose(output, layer(x, torch.ones(1, 2, 4))[0])  # another call, another draw


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
@pytest.mark.parametrize("technique", [NOISY, L0], ids=kind_of)
def test_a_cell_draws_once_for_an_optimizer_step(kind, technique):
    torch.manual_seed(0)
    cell = kind(3, 4)
    sparsifier = ow.sparsify(cell, technique)
    x = torch.ones(2, 3)

    def output() -> torch.Tensor:
        y = cell(x)
        return y[0] if kind is nn.LSTMCell else y

    first = output()
    assert torch.equal(first, output())
    assert torch.equal(copy.deepcopy(cell)(x)[0] if kind is nn.LSTMCell else copy.deepcopy(cell)(x), first)
    assert torch.equal(first[0], first[1]) == (technique is L0)  # noise on the inputs is for each example
    sparsifier.step()
    assert not torch.allclose(first, output())


def test_a_resumed_cell_draws_the_same_noise():
    cells, sparsifiers = [nn.GRUCell(3, 4) for _ in range(2)], []
    for seed, cell in enumerate(cells):
        sparsifiers.append(ow.sparsify(cell, NOISY, seed=seed))
    sparsifiers[0].step()
    cells[1].load_state_dict(cells[0].state_dict())
    assert not torch.equal(cells[0](torch.ones(2, 3)), cells[1](torch.ones(2, 3)))
    sparsifiers[1].load_state_dict(sparsifiers[0].state_dict())
    assert torch.equal(cells[0](torch.ones(2, 3)), cells[1](torch.ones(2, 3)))


def test_a_weight_that_is_read_twice_in_a_forward_is_drawn_once():
    class Twice(Bare):
        def forward(self, x):
            return self.matrix, self.matrix

    module = Twice()
    ow.sparsify(module, L0, select=ow.all_parameters)
    (one, two), (three, _) = module(None), module(None)
    assert one is two
    assert not torch.equal(one, three)


class TiedByHand(nn.Module):
    """The softmax reads the embedding's weight without calling the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)

    def forward(self, ids):
        return self.embedding(ids) @ self.embedding.weight.T


@pytest.mark.parametrize("technique", [NOISY, L0], ids=kind_of)
def test_a_weight_that_another_module_reads_is_random_there_too(technique):
    torch.manual_seed(0)
    model = TiedByHand()
    ow.sparsify(model, technique)
    theta = dict(model.named_parameters())["embedding.weight"]
    one, two = model.embedding.weight, model.embedding.weight
    assert not torch.equal(one, two)
    assert not torch.equal(one, theta)
    model.eval()
    assert torch.equal(model.embedding.weight, model.embedding.weight)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("technique", [ow.VariationalDropout(ow.Constant(1.0), log_sigma2=-3.0), L0], ids=kind_of)
def test_the_encoders_fast_path_with_padding_sees_the_deterministic_weights(technique):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    sparsifier = ow.sparsify(model, technique)
    x, padding = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([[5], [3], [2]])
    with torch.no_grad():
        fast = model(x, src_key_padding_mask=padding)
        plain = sparsifier.finalize()
        torch.testing.assert_close(fast, plain(x, src_key_padding_mask=padding))
    slow = plain(x, src_key_padding_mask=padding)  # with gradients
    torch.testing.assert_close(fast[~padding], slow[~padding], atol=1e-5, rtol=1e-4)


COMPILED = {
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0),
    "bare parameter": Bare,
    "transposed conv": lambda: nn.Sequential(nn.ConvTranspose1d(5, 2, 3), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("technique", [ow.VariationalDropout(ow.Constant(1.0), log_sigma2=-3.0), L0], ids=kind_of)
@pytest.mark.parametrize("name", COMPILED)
def test_random_weights_compile_without_a_graph_break(name, technique):
    torch.manual_seed(0)
    model = COMPILED[name]()
    ow.sparsify(model, technique, select=lambda name, parameter, module: parameter.dim() > 1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 5, 6 if name != "attention" else 8)
    results = []
    for run in (model, compiled):
        model.zero_grad()
        torch.manual_seed(1)
        run(x).square().sum().backward()
        results.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize("technique", [NOISY, L0], ids=kind_of)
def test_random_weights_compile_for_batches_of_any_size(technique):
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    sparsifier = ow.sparsify(model, technique)

    def loss(x):
        return model(x).square().sum() + sparsifier.penalty()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (2, 3, 7):
        compiled(torch.randn(rows, 5)).backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    torch._dynamo.reset()


def test_every_forward_that_is_replaced_is_tested_as_a_layer():
    tested = {type(module).forward for make, _ in LAYERS.values() for module in make().modules()}
    assert FORWARDS.keys() <= tested
