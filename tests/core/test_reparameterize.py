import pytest
import torch
from torch import nn

import openwork as ow
from tests.helpers import mean

L0 = ow.L0(ow.Constant(0.1))


@pytest.mark.parametrize("settings", [{"max_norm": 1.0}, {"sparse": True}], ids=repr)
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_what_cannot_be_a_random_variable_is_refused_by_name(kind, settings):
    model = nn.Sequential(kind(3, 2, **settings))
    with pytest.raises(ValueError, match=f"0.weight: an {kind.__name__} with max_norm or sparse gradients cannot"):
        ow.sparsify(model, L0)
    assert type(model[0]) is kind
    with pytest.raises(ValueError, match="matches no parameter"):
        ow.sparsify(model, L0, select=ow.excluding("0.weight"))


def test_the_module_object_stays():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding_mode="circular", padding=1))
    conv, weight = model[0], model[0].weight
    sparsifier = ow.sparsify(model, L0)
    assert model[0] is conv
    assert isinstance(conv, nn.Conv2d)
    assert mean(conv) is weight
    assert model(torch.randn(1, 1, 4, 4)).shape == (1, 2, 4, 4)
    assert sparsifier.finalize()[0] is conv
    assert not hasattr(conv, "reparam")


def test_padding_rows_of_an_embedding_get_no_gradient():
    embedding = nn.Embedding(4, 3, padding_idx=0)
    ow.sparsify(embedding, ow.VariationalDropout(ow.Constant(0.1)))
    embedding(torch.tensor([[0, 1]])).sum().backward()
    assert mean(embedding).grad[0].abs().sum() == 0
    assert mean(embedding).grad[1].abs().sum() > 0


def test_a_root_that_is_one_layer():
    layer = nn.Linear(3, 2)
    sparsifier = ow.sparsify(layer, L0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    sparsifier.attach(optimizer)
    assert type(sparsifier.finalize()) is nn.Linear
