import pytest
import torch
from torch import nn

import openwork as ow

L0 = ow.L0(ow.Constant(0.1))


class MyLinear(nn.Linear):
    """A subclass may compute anything: its forward must not be replaced."""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(MyLinear(2, 2)), "0.weight of MyLinear cannot be a random variable: only the weight of Linear"),
        (nn.Sequential(nn.Embedding(3, 2, max_norm=1.0)), "an Embedding with max_norm or sparse gradients"),
        (nn.Sequential(nn.Embedding(3, 2, sparse=True)), "an Embedding with max_norm or sparse gradients"),
        (nn.Sequential(nn.MultiheadAttention(4, 2)), "0.out_proj.weight of NonDynamicallyQuantizableLinear cannot"),
    ],
)
def test_what_cannot_be_a_random_variable_is_refused_by_name(model, message):
    before = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=message) as error:
        ow.sparsify(model, L0)
    assert "leave it out with select=excluding(" in str(error.value)
    assert [type(module) for module in model.modules()] == before


def test_a_refused_layer_can_be_excluded():
    model = nn.Sequential(MyLinear(2, 2), nn.Linear(2, 2))
    sparsifier = ow.sparsify(model, L0, select=ow.excluding("0.*"))
    assert [weight.name for weight in sparsifier.weights] == ["1.weight"]
    assert sparsifier.skipped == {"0.weight": "select does not pick the weight of a MyLinear"}


def test_the_module_object_stays():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding_mode="circular", padding=1))
    conv, weight = model[0], model[0].weight
    sparsifier = ow.sparsify(model, L0)
    assert model[0] is conv
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight is weight
    assert model(torch.randn(1, 1, 4, 4)).shape == (1, 2, 4, 4)
    assert sparsifier.finalize()[0] is conv
    assert not hasattr(conv, "reparam")


def test_padding_rows_of_an_embedding_get_no_gradient():
    embedding = nn.Embedding(4, 3, padding_idx=0)
    ow.sparsify(embedding, ow.VariationalDropout(ow.Constant(0.1)))
    embedding(torch.tensor([[0, 1]])).sum().backward()
    assert embedding.weight.grad[0].abs().sum() == 0
    assert embedding.weight.grad[1].abs().sum() > 0


def test_a_root_that_is_one_layer():
    layer = nn.Linear(3, 2)
    sparsifier = ow.sparsify(layer, L0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    assert type(sparsifier.finalize()) is nn.Linear
