import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import openwork as ow
from openwork.core.selection import find_weights
from tests.helpers import Tied, conv_net


def names(model, select):
    return [weight.name for weight in find_weights(model, select)[0]]


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.volume = nn.Conv3d(1, 2, 3)
        self.norm = nn.LayerNorm((2, 4))
        self.table = nn.Parameter(torch.zeros(2, 3))
        self.lstm = nn.LSTM(4, 4)
        self.head = nn.Linear(4, 2)


def test_the_default_is_every_matrix_and_kernel_of_a_layer():
    assert names(Mixed(), ow.weight_matrices) == [
        "embedding.weight", "conv.weight", "volume.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight",
    ]  # fmt: skip
    assert names(nn.MultiheadAttention(4, 2), ow.weight_matrices) == ["in_proj_weight", "out_proj.weight"]
    separate = nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
    assert names(separate, ow.weight_matrices)[:3] == ["q_proj_weight", "k_proj_weight", "v_proj_weight"]


def test_matrices_that_are_left_out_are_named():
    sparsifier = ow.sparsify(Mixed(), ow.GradualMagnitude(ow.OneShot(0.5)))
    assert sparsifier.skipped == {
        "table": "select does not pick the table of a Mixed",
        "norm.weight": "select does not pick the weight of a LayerNorm",
        "norm.bias": "select does not pick the bias of a LayerNorm",
    }
    assert "6 tensors, 3 skipped, " in repr(sparsifier)


def test_a_parametrized_weight_is_named_with_the_cure():
    model = nn.Sequential(nn.Linear(2, 2), nn.utils.parametrizations.orthogonal(nn.Linear(2, 2)))
    skipped = ow.sparsify(model, ow.GradualMagnitude(ow.OneShot(0.5))).skipped
    assert list(skipped) == ["1.parametrizations.weight.original"]
    assert "call torch.nn.utils.parametrize.remove_parametrizations" in skipped["1.parametrizations.weight.original"]


BENEATH = {
    "weight_norm": (lambda layer: nn.utils.weight_norm(layer), "0.weight_g", "remove_weight_norm(layer, 'weight')"),
    "spectral_norm": (nn.utils.spectral_norm, "0.weight_orig", "remove_spectral_norm(layer, 'weight')"),
    "torch's prune": (lambda layer: prune.identity(layer, "weight"), "0.weight_orig", "prune.remove(layer, 'weight')"),
    "parametrization": (
        nn.utils.parametrizations.orthogonal, "0.parametrizations.weight.original", "remove_parametrizations",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("how", BENEATH)
def test_what_a_weight_is_computed_from_is_named_with_the_cure(how):
    wrap, name, cure = BENEATH[how]
    model = nn.Sequential(wrap(nn.Linear(2, 2)), nn.Linear(2, 2))
    said = f"{re.escape(name)}: .*{re.escape(cure)}"
    assert cure in find_weights(model, ow.weight_matrices)[1][name]
    for select in ("0", ["0", "1"], ow.excluding("1")):
        with pytest.raises(ValueError, match=said):
            find_weights(model, select)
    with pytest.raises(ValueError, match=said):
        find_weights(model[:1], ow.weight_matrices)
    assert len(find_weights(model, ow.all_parameters)[0]) > 3  # who asks for it gets it


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("how", BENEATH)
def test_a_selection_that_cannot_pick_a_computed_weight_is_not_told_to_make_it_plain(how):
    wrap, name, cure = BENEATH[how]
    model = nn.Sequential(wrap(nn.Linear(2, 2)), nn.Linear(2, 2))
    convolutions = ow.weights_of(nn.Conv2d)
    for select in (
        convolutions, ow.matching("0", among=convolutions), ow.excluding("1", among=convolutions),
        ow.excluding("0", "1"), ow.matching("0", among=ow.excluding("0")),
        ow.matching("0", "1", among=ow.excluding("0")), lambda name, parameter, module: False,
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"matches no parameter of|fits no weight that can be selected") as raised:
            find_weights(model, select)
        assert cure not in str(raised.value)
    for chosen, select in (
        (model[:1], ow.weights_of(nn.Linear)),
        (model, ow.excluding("1", among=ow.weights_of(nn.Linear))),
    ):
        with pytest.raises(ValueError, match=f"{re.escape(name)}: .*{re.escape(cure)}"):
            find_weights(chosen, select)


def test_selection_by_type_name_and_exclusion():
    assert names(Mixed(), ow.weights_of(nn.Linear, nn.Conv1d)) == ["conv.weight", "head.weight"]
    assert names(Mixed(), ow.matching("*o*.weight")) == ["conv.weight", "volume.weight"]
    assert names(Mixed(), ow.excluding("head.*", "embedding.*", "lstm.*")) == ["conv.weight", "volume.weight"]
    assert names(Mixed(), ow.matching("norm.*", among=ow.all_parameters)) == ["norm.weight", "norm.bias"]
    assert names(Mixed(), lambda name, parameter, module: parameter.dim() == 5) == ["volume.weight"]


def test_selections_are_values_and_print_as_the_call_that_makes_them():
    assert ow.matching("a.*", "b") == ow.Matching(("a.*", "b"))
    assert repr(ow.matching("a.*", "b")) == "matching('a.*', 'b')"
    narrow = ow.excluding("head.*", among=ow.weights_of(nn.Linear, nn.Conv2d))
    assert narrow == ow.Excluding(("head.*",), ow.WeightsOf((nn.Linear, nn.Conv2d)))
    assert str(narrow) == "excluding('head.*', among=weights_of(Linear, Conv2d))"
    assert repr(ow.matching("norm.*", among=ow.all_parameters)) == "matching('norm.*', among=all_parameters)"


def test_a_tied_weight_is_found_once_with_all_its_places():
    (embedding, hidden), _ = find_weights(Tied(), ow.weight_matrices)
    assert [site.name for site in embedding.sites] == ["embedding.weight", "output.weight"]
    assert [site.name for site in hidden.sites] == ["hidden.weight"]
    assert names(Tied(), ow.weights_of(nn.Linear)) == ["embedding.weight", "hidden.weight"]


def test_a_model_that_is_one_layer():
    assert names(nn.Linear(3, 2), ow.weight_matrices) == ["weight"]


def test_a_selection_that_matches_nothing_says_what_there_is():
    with pytest.raises(
        ValueError, match=r"matches no parameter of Sequential; it has 0.weight \(4, 2, 3, 3\) of Conv2d; 0.b"
    ):
        ow.sparsify(conv_net(), ow.GradualMagnitude(ow.OneShot(0.5)), select=ow.matching("encoder.*"))
    with pytest.raises(ValueError, match="it has none"):
        ow.sparsify(nn.ReLU(), ow.GradualMagnitude(ow.OneShot(0.5)))


def with_an_empty_layer():
    with warnings.catch_warnings(action="ignore"):  # torch's: initializing it is a no-op
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 0), nn.Linear(0, 4))


EVERY_KIND = {
    "masks": ow.GradualMagnitude(ow.OneShot(0.5)),
    "variational dropout": ow.VariationalDropout(ow.Constant(1e-3)),
    "scores": ow.SoftMovement(ow.Constant(1e-3)),
    "deviations": ow.PruneRetrain(ow.OneShot(0.5)),
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_layer_without_weights_is_left_out_by_every_technique(kind):
    sparsifier = ow.sparsify(model := with_an_empty_layer(), EVERY_KIND[kind])
    assert sparsifier.skipped == {"1.weight": "it has no weights", "2.weight": "it has no weights"}
    model(torch.randn(3, 8)).sum().backward()
    sparsifier.finalize()


@pytest.mark.parametrize("kind", ["Wanda", "RIA", "SparseGPT", "ADMM", "ALPS", "DSnoT"])
def test_a_layer_without_weights_is_left_out_where_a_trained_model_is_pruned(kind):
    technique = getattr(ow, kind)(ow.OneShot(0.5))
    result = ow.prune(with_an_empty_layer(), technique, batches=[torch.randn(16, 8)])
    assert [layer.name for layer in result.layers] == ["0.weight"]
    assert result.skipped == {"1.weight": "it has no weights", "2.weight": "it has no weights"}


def test_a_selection_of_nothing_but_layers_without_weights_says_so():
    with pytest.raises(ValueError, match=r"1\.weight: it has no weights"):
        ow.sparsify(with_an_empty_layer(), EVERY_KIND["masks"], select=["1", "2"])


def test_a_name_that_reads_like_a_pattern_fits_itself():
    model = nn.ModuleDict({"block[0]": nn.Linear(4, 4), "*": nn.Linear(4, 4), "head": nn.Linear(4, 4)})
    assert names(model, "block[0]") == ["block[0].weight"]
    assert names(model, ["block[0].weight"]) == ["block[0].weight"]
    assert names(model, ow.excluding("block[0]")) == ["*.weight", "head.weight"]
    technique = ow.GradualMagnitude(ow.OneShot(0.5), allocation=ow.PerLayer({"block[0]": 0.25}))
    assert ow.sparsify(model, technique).layer_sparsity() == {
        "block[0].weight": 0.25,
        "*.weight": 0.5,
        "head.weight": 0.5,
    }
