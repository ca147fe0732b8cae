"""`shrink`: what it refuses, with the reason, and that the rest still shrinks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

import openwork as ow
from tests.inference.shrink.dead import Net, dead, net, reasons, shapes, shrink

pytestmark = pytest.mark.usefixtures("operators_collected_once")

X = torch.randn(3, 4)


def functional(self, x):
    return self.c(F.relu(self.b(F.linear(x, self.weight))))


def einsum(self, x):
    return self.c(F.relu(self.b(torch.einsum("ni,oi->no", x, self.a.weight))))


def normed(self, x):
    return self.c(F.relu(self.b(F.layer_norm(self.a(x), (6,)))))


def softmaxed(self, x):
    return self.c(F.relu(self.b(self.a(x).softmax(-1))))


def averaged(self, x):
    return Net.forward(self, x) + self.a(x).mean(-1, keepdim=True)


def returned(self, x):
    return Net.forward(self, x).sum() + F.relu(self.a(x))


def viewed(self, x):
    return self.c(F.relu(self.b(F.relu(self.a(x)).view(-1, 6))))


def reshaped_to_heads(self, x):
    heads = self.a(x).reshape(-1, 2, 3)  # dead units in both heads
    return self.c(F.relu(self.b(heads.transpose(0, 1).reshape(2, -1, 3).transpose(0, 1).reshape(-1, 6))))


def sliced(self, x):
    x = F.relu(self.a(x))
    return self.c(F.relu(self.b(torch.cat([x[:, 2:], x[:, :2]], 1))))


def selected(self, x):
    x = F.relu(self.a(x))
    return self.c(F.relu(self.b(x))) + x[:, 5:]


def scaled_by_a_buffer(self, x):
    return self.c(F.relu(self.b(self.a(x) * torch.arange(6.0))))


def divided_by_its_size(self, x):
    x = F.relu(self.a(x))
    return self.c(F.relu(self.b(x / x.shape[1])))


def divided_by_an_attribute(self, x):
    return self.c(F.relu(self.b(F.relu(self.a(x)) / self.a.out_features)))


def group_normed(self, x):
    return self.c(F.relu(self.b(F.group_norm(self.a(x), 2))))


def through_an_lstm(self, x):
    return self.c(F.relu(self.b(self.lstm(self.a(x))[0])))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (functional, "it is not known how Own keeps the size of its weight"),
        (einsum, "openwork does not know what einsum does with it"),
        (normed, "a layer norm takes the mean over it"),
        (softmaxed, "a softmax sums over it"),
        (averaged, "a mean is taken over it"),
        (returned, "it is an output of the model"),
        (viewed, "the code reshapes it by sizes of its own (view)"),
        (reshaped_to_heads, "the rest of its unit is needed"),
        (sliced, "the code slices it at places that it counts itself"),
        (selected, "the code slices it at places that it counts itself"),
        (scaled_by_a_buffer, "it meets the model's input or another tensor of a fixed size"),
        (divided_by_its_size, "the code counts on how many there are"),
        (divided_by_an_attribute, "the code counts on how many there are"),
        (group_normed, "a group norm takes the mean over it"),
        (through_an_lstm, "openwork does not know what lstm does with it"),
    ],
)
def test_the_units_of_a_layer_stay_where_it_is_not_proven_that_they_may_go(forward, reason):
    own = net(forward)
    own.weight = nn.Parameter(dead(nn.Linear(4, 6, bias=False), [1]).weight)
    own.lstm = nn.LSTM(6, 6, batch_first=True)
    shrunk = shrink(own, X)
    found = shapes(shrunk)
    assert found["a.weight"] == (6, 4)
    assert found["b.weight"] == (4, 6)  # the unit of the next layer goes all the same
    assert any(why.startswith(reason) for why in reasons(shrunk)), reasons(shrunk)


class Counting(Net):
    def forward(self, x):
        x = F.relu(self.a(x)).view(-1, 6)  # counts
        x = F.relu(self.b(x))
        return self.c(x.view(len(x), -1))


def test_a_line_that_counts_keeps_its_units_and_one_that_does_not_lets_them_go():
    shrunk = shrink(Counting(), X)
    assert shapes(shrunk) == {"a.weight": (6, 4), "b.weight": (4, 6), "c.weight": (2, 4)}
    (why,) = (why for why in reasons(shrunk) if "reshapes" in why)
    assert why.startswith("the code reshapes it by sizes of its own (test_refusals.py:")
    assert why.endswith(": x = F.relu(self.a(x)).view(-1, 6)  # counts)")


def test_a_layer_with_hooks_stays():
    model = Net()
    model.a.register_forward_hook(lambda layer, args, output: None)
    shrunk = shrink(model, X)
    assert shapes(shrunk)["a.weight"] == (6, 4)
    assert "its Linear has hooks, which may count on its size; remove them" in reasons(shrunk)


def test_a_computed_weight_stays():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    model = Net()
    parametrize.register_parametrization(model.a, "weight", Doubled())
    shrunk = shrink(model, X)
    assert shapes(shrunk)["b.weight"] == (4, 6)
    assert any("parametrization" in why for why in reasons(shrunk))


def test_a_table_that_is_also_the_last_layer_keeps_its_width():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.up, self.down = nn.Embedding(7, 4), dead(nn.Linear(4, 6), [0]), nn.Linear(6, 4)
            self.last = nn.Linear(4, 7, bias=False)
            self.last.weight = self.table.weight

        def forward(self, ids):
            return self.last(self.down(torch.relu(self.up(self.table(ids)))))

    model = Language()
    with torch.no_grad():
        model.table.weight[:, 1] = 0
        model.down.weight[1], model.down.bias[1] = 0, 0
    shrunk = shrink(model, torch.tensor([[1, 2, 3]]))
    assert shapes(shrunk) == {"table.weight": (7, 3), "up.weight": (5, 3), "down.weight": (3, 5)}
    assert shrunk.model.last.weight is shrunk.model.table.weight
    assert shrunk.model.table.embedding_dim == shrunk.model.last.in_features == 3


def refused(model, example, message, kind=ValueError):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(kind, match=message) as caught:
        ow.shrink(model, example)
    assert "\n" not in str(caught.value)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("example", [torch.randn(3, 5), torch.randn(3, 4).long(), "text", None, (X, X), {"y": X}])
def test_an_example_that_does_not_fit_is_a_sentence(example):
    refused(Net(), example, "the model does not take this example")


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: Net.forward(self, x) if x.sum() > 0 else Net.forward(self, -x),
        lambda self, x: Net.forward(self, x * float(x.sum())),
        lambda self, x: Net.forward(self, torch.from_numpy(x.numpy())),
    ],
)
def test_code_that_decides_by_values_is_refused(forward, capfd):
    refused(net(forward), X, r"torch\.export cannot follow this model's forward")
    assert capfd.readouterr() == ("", "")


def test_random_outputs_are_refused():
    refused(net(lambda self, x: Net.forward(self, F.dropout(x, 0.5))), X, "computes something else each time")


def test_a_model_that_is_being_sparsified_is_refused():
    model = Net()
    sparsifier = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5)))
    with pytest.raises(ValueError, match=r"a\.weight is still being sparsified; call finalize\(\)"):
        ow.shrink(model, X)
    sparsifier.finalize()
    shrink(model, X)


def test_a_model_with_random_weights_is_refused_and_its_finalized_copy_is_not():
    model = Net()
    sparsifier = ow.sparsify(model, ow.GroupL0(ow.Constant(1e-3)))
    with pytest.raises(ValueError, match=r"a\.weight is still being sparsified"):
        ow.shrink(model, X)
    shrink(sparsifier.finalized_copy(), X)


def test_a_mask_of_torch_is_refused():
    model = Net()
    prune.l1_unstructured(model.a, "weight", 0.5)
    with pytest.raises(ValueError, match=r"a\.weight_orig is still masked .* call prune\.remove\(module, 'weight'\)"):
        ow.shrink(model, X)


def test_a_weight_without_values_is_refused():
    with pytest.raises(ValueError, match=r"a\.weight is on the meta device"):
        ow.shrink(Net().to("meta"), X)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(value):
    model = Net()
    with torch.no_grad():
        model.b.weight[0, 0] = value
    refused(model, X, r"b\.weight holds NaN or infinity")


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="got a state dict"):
        ow.shrink(Net().state_dict(), X)
    with pytest.raises(TypeError, match=r"pass model\._orig_mod"):
        ow.shrink(torch.compile(Net(), backend="eager"), X)


def test_an_output_that_hides_a_change_does_not_hide_that_code_counts():
    def forward(self, x):
        hidden = F.relu(self.a(x))
        return (self.c(F.relu(self.b(hidden / hidden.shape[1]))) > -1e9).long()

    shrunk = ow.shrink(net(forward), X)
    assert shapes(shrunk)["a.weight"] == (6, 4)
    assert shapes(shrunk)["b.weight"] == (4, 6)


def test_a_layer_that_was_never_called_is_refused():
    with pytest.raises(ValueError, match=r"0\.weight is not initialised yet; call the model once"):
        ow.shrink(nn.Sequential(nn.LazyLinear(3)), X)


def test_complex_weights_stay():
    layers = [nn.Linear(4, 3, dtype=torch.complex64), nn.Linear(3, 2, dtype=torch.complex64)]
    shrunk = ow.shrink(nn.Sequential(dead(layers[0], [1]), layers[1]), X.to(torch.complex64))
    assert shapes(shrunk) == {"0.weight": (3, 4), "1.weight": (2, 3)}
