"""What reads, writes and lists a module with random weights: nothing that is written is lost without a word."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import openwork as ow
from tests.helpers import mean
from tests.layers import Bare

L0 = ow.L0(ow.Constant(1.0), dropout=0.5)
GAUSSIAN = ow.VariationalDropout(ow.Constant(1.0), log_sigma2=-3.0)
techniques = pytest.mark.parametrize("technique", [L0, GAUSSIAN], ids=lambda technique: type(technique).__name__)
LOST = r"^0.weight is a random variable, .* write to its mean, dict\(model.named_parameters\(\)\)\['0.weight'\]$"
ONES = torch.ones(4, 4)


def net(technique=L0, training=True) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model.sparsifier = [ow.sparsify(model, technique)]
    return model.train(training)


def run(statement: str):
    return lambda model: exec(statement, {"layer": model[0], "nn": nn, "torch": torch, "ones": ONES})


REFUSED = [
    "nn.init.xavier_uniform_(layer.weight)",
    "nn.init.orthogonal_(layer.weight)",
    "nn.init.trunc_normal_(layer.weight)",
    "nn.init.zeros_(layer.weight)",
    "layer.weight.data.clamp_(-1e-3, 1e-3)",
    "layer.weight.data += ones",
    "layer.weight.data = ones",
    "layer.weight.data[0] = 1",
    "layer.weight += ones",
    "layer.weight.mul_(2)",
    "layer.weight.copy_(ones)",
    "layer.weight.detach().copy_(ones)",
    "layer.weight[0].zero_()",
    "layer.weight[:, 1:] = 0",
    "layer.weight.T.fill_diagonal_(0)",
    "layer.weight.view(-1).mul_(2)",
    "for row in layer.weight: row.zero_()",
    "layer.weight.chunk(2)[0].zero_()",
    "layer.weight.requires_grad = False",
    "layer.weight.requires_grad_(False)",
    "layer.weight.grad = ones",
    "layer.weight.set_(ones)",
    "nn.utils.parametrizations.weight_norm(layer)",
]


@techniques
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "no gradients"])
@pytest.mark.parametrize("statement", REFUSED)
def test_a_write_to_a_sample_names_the_mean(statement, gradients, training, technique):
    model = net(technique, training)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.set_grad_enabled(gradients), pytest.raises(ValueError, match=LOST):
        run(statement)(model)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "statement",
    ["nn.init.eye_(layer.weight)", "torch._foreach_mul_([layer.weight], 2)", "torch.clamp_(layer.weight, 0, 1)"],
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_write_that_only_torchs_core_sees_is_a_warning_that_names_the_mean(statement, training):
    model = net(training=training)
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        run(statement)(model)
    assert [str(warning.message) for warning in caught if "random variable" in str(warning.message)]


def test_a_write_through_numpy_is_refused():
    array = net()[0].weight.detach().numpy()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


REACHES = [
    "layer.reset_parameters()",
    "layer.weight = nn.Parameter(ones)",
    "layer.register_parameter('weight', nn.Parameter(ones))",
    "layer._parameters['weight'].data.fill_(1)",
    "layer.load_state_dict({**layer.state_dict(), 'weight': ones})",
    "nn.init.zeros_(dict(layer.named_parameters())['weight'])",
]


@techniques
@pytest.mark.parametrize("statement", REACHES)
def test_what_reaches_the_mean(statement, technique):
    model = net(technique)
    before, learned = mean(model[0]).detach().clone(), copy.deepcopy(model[0].reparam.state_dict())
    run(statement)(model)
    assert not torch.equal(mean(model[0]), before)
    assert all(torch.equal(value, learned[name]) for name, value in model[0].reparam.state_dict().items())
    assert model(torch.randn(3, 4)).shape == (3, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(4, 4),
        lambda: nn.Conv2d(4, 4, 3),
        lambda: nn.Embedding(5, 4, padding_idx=0),
        lambda: nn.LSTM(4, 4),
        lambda: nn.GRUCell(4, 4),
        lambda: nn.Bilinear(4, 4, 2),
    ],
)
@techniques
def test_resetting_a_layer_draws_the_means_as_in_the_plain_layer(make, technique):
    layer, plain = make(), make()
    ow.sparsify(layer, technique)
    learned = copy.deepcopy(layer.reparam.state_dict())
    for one in (layer, plain):
        torch.manual_seed(1)
        one.reset_parameters()
    for name, parameter in plain.named_parameters():
        assert torch.equal(dict(layer.named_parameters())[name], parameter), name
    assert all(torch.equal(value, learned[name]) for name, value in layer.reparam.state_dict().items())


def test_resetting_attention_draws_the_means():
    attention = nn.MultiheadAttention(4, 2)
    ow.sparsify(attention, L0)
    before = dict(attention.named_parameters())["in_proj_weight"].detach().clone()
    attention._reset_parameters()
    assert not torch.equal(dict(attention.named_parameters())["in_proj_weight"], before)
    assert attention.out_proj.reparam is not None


class Normed(nn.Linear):
    """Normalises its own weight in the forward, as some generators do."""

    def forward(self, x):
        with torch.no_grad():
            self.weight.copy_(self.weight / self.weight.norm())
        return nn.functional.linear(x, self.weight)


def test_a_forward_that_writes_to_its_own_weight_is_refused():
    model = nn.Sequential(Normed(4, 4))
    ow.sparsify(model, L0)
    with pytest.raises(ValueError, match=LOST):
        model(torch.ones(1, 4))


def test_a_sample_is_a_tensor_like_any_other_to_read():
    weight = net()[0].weight
    assert type(weight + 1) is type(weight @ ONES) is type(weight.clone()) is torch.Tensor
    assert weight.clone().mul_(2).shape == (4, 4)
    plain = weight.detach()
    for twin in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain)), plain.clone()):
        assert type(twin) is torch.Tensor
        assert torch.equal(twin, weight)
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), weight)
    assert np.asarray(plain).shape == (4, 4)
    assert weight.requires_grad
    assert repr(weight).startswith("Sample(")
    assert weight.tolist() == [row.tolist() for row in weight]
    target = torch.zeros(4, 4)
    assert torch.equal(target.copy_(plain), weight)


def test_the_weight_of_weight_sharing_reads_as_the_parameter_itself_in_training():
    layer = nn.Linear(4, 4)
    ow.sparsify(layer, ow.SoftWeightSharing(ow.Constant(1.0)))
    nn.init.zeros_(layer.weight)
    assert int(mean(layer).count_nonzero()) == 0


@pytest.mark.parametrize("statement", ["del layer.weight", "layer.weight = None"])
def test_a_weight_that_is_gone_is_said_to_be_so(statement):
    model = net()
    run(statement)(model)
    with pytest.raises(ValueError, match=r"^the weight of a Linear is a random variable and no longer a parameter; "):
        model(ONES)


@techniques
def test_fx_calls_torchs_own_layers_and_refuses_to_record_a_sample(technique):
    model = net(technique)
    traced = torch.fx.symbolic_trace(model)
    assert not torch.equal(traced(ONES), traced(ONES))
    assert torch.equal(traced.eval()(ONES), model.eval()(ONES))
    for module in (Bare(), nn.Sequential(Bare()), nn.Linear(4, 4)):
        for training in (True, False):
            ow.sparsify(twin := copy.deepcopy(module), technique, select=ow.all_parameters)
            with pytest.raises(ValueError, match=r"is a random variable, and torch\.fx would record one sample"):
                torch.fx.symbolic_trace(twin.train(training))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@techniques
def test_jit_traces_draws_and_scripts_nothing(technique):
    for model, x in ((net(technique), ONES), (Bare(), torch.ones(2, 6))):
        if isinstance(model, Bare):
            ow.sparsify(model, technique, select=ow.all_parameters)
        traced = torch.jit.trace(model, x, check_trace=False)
        assert not torch.equal(traced(x), traced(x))
        with pytest.raises(ValueError, match=r"torch\.jit\.script cannot compile; script the sparsifier"):
            torch.jit.script(model)


@techniques
@pytest.mark.parametrize("training", [True, False])
def test_random_weights_cannot_be_tied_afterwards(technique, training):
    model = net(technique, training)
    before = mean(model[2])
    with pytest.raises(ValueError, match=r"2\.weight is a random variable, .* tie weights before sparsify"):
        model[2].weight = model[0].weight
    assert mean(model[2]) is before
    model[2].anything = 3
    assert model[2].anything == 3


@techniques
def test_sparsify_and_its_questions_take_nothing_from_torchs_generator(technique):
    model = nn.Sequential(*[nn.Linear(3, 3)] * 2)
    state = torch.get_rng_state()
    sparsifier = ow.sparsify(model, technique)
    sparsifier.sparsity(), sparsifier.masks(), sparsifier.penalty(), sparsifier.finalized_copy()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_copy_of_a_sample_can_be_written_to():
    weight = net()[0].weight.detach()
    for copied in (weight.clone(), weight.t().contiguous(), weight.t().reshape(16), weight[[0, 1]], weight.double()):
        assert type(copied.zero_()) is torch.Tensor
    assert weight.count_nonzero() > 0


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # the compiler's own look at it
@techniques
def test_a_sample_that_is_handed_to_a_compiled_function_breaks_its_graph_only(technique):
    torch._dynamo.reset()
    model = net(technique)
    compute = torch.compile(lambda x, weight: (x @ weight.T).sum() + weight[0].detach().sum(), backend="aot_eager")
    weight = model[0].weight
    expected = (ONES @ weight.T).sum() + weight[0].sum()
    torch.testing.assert_close(compute(ONES, weight), expected)
    compute(ONES, weight).backward()
    assert mean(model[0]).grad is not None


@techniques
def test_fake_tensors_and_functional_calls_pass_through_attention(technique):
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), torch.randn(2, 5, 8)
    ow.sparsify(layer, technique)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert isinstance(layer(mode.from_tensor(x)), torch._subclasses.FakeTensor)

    def loss(weight):
        return torch.func.functional_call(layer, {"self_attn.out_proj.weight": weight}, (x,)).square().sum()

    assert torch.func.grad(loss)(torch.randn(8, 8)).count_nonzero() > 0
    assert torch.export.export(layer, (x,)).module()(x).shape == x.shape
