"""A report of any module: also where the default selection finds nothing, or the model is not an ordinary one."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import openwork as ow
from tests.helpers import Tied, conv_net, raises


class Bare(nn.Module):
    """Matrices that no layer owns."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.tensor([[1.0, 0.0], [2.0, 3.0]]))
        self.right = nn.Parameter(torch.zeros(2, 3))
        self.pos_embed = nn.Parameter(torch.ones(1, 4, 2))
        self.norm = nn.LayerNorm((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x @ self.left @ self.right)


def test_bare_matrices_count_where_the_default_selection_finds_nothing():
    report = ow.report(Bare())
    assert [(la.name, la.weights - la.nonzero) for la in report.layers] == [("left", 1), ("right", 6)]
    assert (report.sparsity, report.parameters) == (7 / 10, 4 + 6 + 8 + 12)
    assert ow.report(Bare().state_dict()).layers == report.layers


def test_a_selection_of_the_users_own_that_finds_nothing_is_still_an_error():
    with pytest.raises(ValueError, match="the selection matches no parameter of Bare"):
        ow.report(Bare(), select=ow.weight_matrices)


@pytest.mark.parametrize("model", [nn.LayerNorm(3), nn.BatchNorm1d(3), nn.ReLU()], ids=lambda m: type(m).__name__)
def test_a_model_without_matrices_has_no_layers(model):
    report = ow.report(model)
    assert (report.layers, report.sparsity) == ((), 0.0)
    assert report.parameters == sum(p.numel() for p in model.parameters())
    assert "selected weights" in str(report)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_the_layers_of_a_scripted_or_traced_model_count():
    model = conv_net()
    with torch.no_grad():
        model[3].weight[:5] = 0
    expected = ow.report(model)
    example = torch.ones(1, 2, 6, 6)
    for compiled in (torch.jit.script(model), torch.jit.trace(model, example), torch.compile(model, backend="eager")):
        report = ow.report(compiled)
        assert [layer.nonzero for layer in report.layers] == [layer.nonzero for layer in expected.layers]
        assert (report.parameters, report.zeros) == (expected.parameters, expected.zeros)


def test_tied_weights_that_are_pruned_on_one_side_count_as_two():
    """torch.nn.utils.prune replaces one of the two; the other side stays dense."""
    model = Tied()
    prune.l1_unstructured(model.embedding, "weight", amount=0.5)
    report = ow.report(model)
    assert {layer.name: layer.weights - layer.nonzero for layer in report.layers} == {
        "embedding.weight": 33, "hidden.weight": 0, "output.weight": 0
    }  # fmt: skip


def test_tied_weights_that_are_pruned_together_count_once():
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    model[1].weight = model[0].weight
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.custom_from_mask(model[1], "weight", model[0].weight_mask)
    assert [(la.name, la.also, la.nonzero) for la in ow.report(model).layers] == [("0.weight", ("1.weight",), 8)]


def test_an_orthogonal_weight_counts_as_the_model_computes_it():
    model = parametrizations.orthogonal(nn.Linear(4, 4))
    (layer,) = ow.report(model).layers
    assert (layer.name, layer.nonzero) == ("weight", int((model.weight != 0).sum()))
    assert ow.report(model).parameters == 20


def test_the_outputs_of_a_pruned_transposed_convolution_lie_along_its_second_axis():
    model = nn.ConvTranspose2d(4, 6, 3)
    prune.ln_structured(model, "weight", amount=2, n=2, dim=1)
    (layer,) = ow.report(model).layers
    assert (layer.dead_outputs, layer.dead_inputs) == (2, 0)


def test_codes_of_a_live_model_are_refused():
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("qweight", torch.ones(4, 4, dtype=torch.int32))
            self.head = nn.Linear(4, 4)

    with raises(ValueError, "qweight holds GPTQ or AWQ codes"):
        ow.report(Packed())


def test_a_learned_mask_of_a_live_model_is_no_parameter():
    model = nn.Module()
    model.f = nn.Linear(4, 2)
    hooks = nn.Module()
    hooks.mask = nn.Parameter(torch.tensor([[-1.0, 1, 1, 1], [-1, -1, 1, 1]]))
    model.add_module("__nncf_hooks", nn.ModuleDict({"post_hooks": nn.ModuleDict()}))
    model.get_submodule("__nncf_hooks.post_hooks").add_module("f:weight__0", nn.ModuleDict({"0": hooks}))
    report = ow.report(model)
    assert [(layer.name, layer.nonzero) for layer in report.layers] == [("f.weight", 5)]
    assert report.parameters == 10


def test_values_that_are_not_there_are_one_sentence():
    with raises(ValueError, "cannot count the zeros of weight: it is on the meta device and has no values"):
        ow.report(nn.Linear(2, 2, device="meta"))
    pruned = nn.Linear(2, 2, device="meta")
    prune.identity(pruned, "weight")
    with raises(ValueError, "cannot count the zeros of weight: it is on the meta device and has no values"):
        ow.report(pruned)
    with raises(ValueError, "weight has no values yet; run the model on one batch first"):
        ow.report(nn.LazyLinear(2))


@pytest.mark.parametrize("source", [5, None, [nn.Linear(2, 2)], torch.ones(2, 2), nn.Linear])
def test_what_is_no_model_is_one_sentence(source):
    with raises(TypeError, "report counts a module, a Sparsifier, a state dict or a file, got "):
        ow.report(source)
