"""The layouts in which other libraries keep sparse weights: their true zeros, or a sentence that says what they are."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import parametrizations, parametrize, prune

import openwork as ow
from tests.helpers import raises


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))


def counts(source: object) -> list[tuple[str, int]]:
    """(name, zeros) of each layer."""
    return [(layer.name, layer.weights - layer.nonzero) for layer in ow.report(source).layers]


class Masked(nn.Module):
    """A parametrization that keeps its mask in the state."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def half(shape: tuple[int, ...]) -> Tensor:
    """True for every second element."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[::2] = True
    return mask


def torch_prune(model: nn.Sequential) -> None:
    prune.l1_unstructured(model[0], "weight", amount=0.9)
    prune.l1_unstructured(model[0], "bias", amount=0.5)
    prune.random_structured(model[2], "weight", amount=0.25, dim=1)


def torch_parametrize(model: nn.Sequential) -> None:
    parametrize.register_parametrization(model[0], "weight", Masked(half((64, 20))))


def spectral_then_mask(model: nn.Sequential) -> None:
    parametrizations.spectral_norm(model[0])
    torch_parametrize(model)


def weight_norm(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight[half((64, 20))] = 0
    parametrizations.weight_norm(model[0])


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def old_weight_norm(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight[half((64, 20))] = 0
    nn.utils.weight_norm(model[0])


def old_spectral_norm(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[0].weight[half((64, 20))] = 0
    nn.utils.spectral_norm(model[0])


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "change",
    [torch_prune, torch_parametrize, spectral_then_mask, weight_norm, old_weight_norm, old_spectral_norm],
    ids=lambda change: change.__name__,
)
def test_a_state_and_its_live_model_have_the_zeros_that_run(change: Callable[[nn.Sequential], None]):
    model = two_layers()
    plain = ow.report(model)
    change(model)
    with torch.no_grad():
        model(torch.ones(1, 20))  # hooks compute the weights
    zeros = [(f"{i}.weight", int((model[i].weight == 0).sum())) for i in (0, 2)]
    assert zeros[0][1] in (640, 1152)
    for report in (ow.report(model), ow.report(model.state_dict())):
        assert [(layer.name, layer.weights - layer.nonzero) for layer in report.layers] == zeros
        assert report.parameters == plain.parameters  # masks, norms and vectors are none
        biases = sum(int((model[i].bias == 0).sum()) for i in (0, 2))
        assert report.zeros == sum(n for _, n in zeros) + biases


def test_a_report_says_whose_layout_it_read():
    model = two_layers()
    torch_prune(model)
    expected = ("0.weight and 2 more: the values of torch.nn.utils.prune",)
    assert ow.report(model).notes == ow.report(model.state_dict()).notes == expected
    assert str(ow.report(model)).count("the values of torch.nn.utils.prune") == 1
    assert ow.report(model.state_dict()).to_dict()["notes"] == list(expected)


def test_pruned_recurrent_and_tied_weights_have_their_own_names():
    model = nn.LSTM(3, 4)
    prune.random_unstructured(model, "weight_ih_l0", amount=0.5)
    assert counts(model) == [("weight_hh_l0", 0), ("weight_ih_l0", 24)] or counts(model) == [
        ("weight_ih_l0", 24),
        ("weight_hh_l0", 0),
    ]
    assert dict(counts(model.state_dict())) == {"weight_ih_l0": 24, "weight_hh_l0": 0}


def test_a_selection_sees_the_plain_names_of_pruned_weights():
    model = two_layers()
    torch_prune(model)
    parametrize.register_parametrization(model[2], "bias", Masked(half((2,))))
    assert [la.name for la in ow.report(model, select=ow.matching("2.*")).layers] == ["2.weight"]
    assert [la.name for la in ow.report(model, select=ow.weights_of(nn.Linear)).layers] == ["0.weight", "2.weight"]


def test_flops_of_pruned_layers_know_their_zeros():
    model = two_layers()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    report = ow.report(model, example=torch.ones(1, 20))
    assert [layer.flops for layer in report.layers] == [(2 * 20 * 64, 20 * 64), (2 * 64 * 2, 2 * 64 * 2)]


def test_a_state_without_its_masks_is_refused_and_the_live_model_counts():
    """torch.ao's FakeSparsity keeps its mask out of the state."""
    model = two_layers()
    sparsifier = WeightNormSparsifier(sparsity_level=0.5, sparse_block_shape=(1, 4))
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    assert counts(model) == [("0.weight", int((model[0].weight == 0).sum())), ("2.weight", 0)]
    with raises(ValueError, "0.weight is computed from 0.parametrizations.weight.original by a parametrization"):
        ow.report(model.state_dict())


def test_a_parametrization_that_computes_new_numbers_is_counted_live_alone():
    class Diagonal(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return torch.diag(weight.diag())

    model = nn.Linear(4, 4)
    parametrize.register_parametrization(model, "weight", Diagonal())
    assert counts(model) == [("weight", 12)]
    with raises(ValueError, "its state does not say which weights are zero; report on the live model"):
        ow.report(model.state_dict())


def test_reading_a_parametrized_weight_leaves_the_model_as_it_was():
    model = two_layers()
    parametrizations.spectral_norm(model[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ow.report(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


WEIGHT = torch.arange(1.0, 9.0).view(2, 4)
MASK = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 1]])


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("__nncf_hooks.post_hooks.a:f:weight__0.0.binary_mask", MASK.bool()),  # NNCF 3, magnitude
        ("__nncf_hooks.post_hooks.a:f:weight__0.0.mask", MASK * 9.0 - 4),  # NNCF 3, learned: log odds
        ("a.f.pre_ops.0.op._binary_mask", MASK.float()),  # NNCF 2
        ("a.f.pre_ops.0.operand.binary_mask", MASK.float()),
        ("a.f.pre_ops.1.operand.weight_ctx._binary_mask", MASK.float()),  # NNCF 2, movement
        ("a.f.weight_binary_mask", MASK.float()),
        ("a.f.weight_mask", MASK.float()),  # SynFlow, NNI
        ("a.f.mask", MASK.to(torch.uint8)),  # MADE and many others
        ("a.f.weight.mask", MASK.bool()),
        ("a.f.__weight_mma_mask", MASK.bool()),  # apex
    ],
)
def test_a_mask_beside_a_weight_counts_and_is_no_parameter(name, mask):
    state = {"a.f.weight": WEIGHT, name: mask, "a.f.bias": torch.ones(2)}
    report = ow.report(state)
    assert counts(state) == [("a.f.weight", 3)]
    assert (report.parameters, report.skipped) == (10, {name: "mask"})


def test_other_masks_and_what_apex_keeps_aside_are_no_parameters():
    state = {
        "f.weight": WEIGHT * MASK,
        "f.__weight_mma_mask": MASK.bool(),
        "f.__weight_mma_pruned_p": WEIGHT * (1 - MASK),
        "block.attn_mask": torch.zeros(4, 9, 9),  # Swin
        "h.0.attn.bias": torch.ones(1, 1, 6, 6).tril(),  # GPT-2
        "h.0.attn.masked_bias": torch.tensor(-1e4),
    }
    report = ow.report(state)
    assert (report.parameters, report.zeros) == (8, 3)
    assert report.skipped == {
        "f.__weight_mma_mask": "mask",
        "f.__weight_mma_pruned_p": "pruned values that are kept aside",
        "block.attn_mask": "mask",
        "h.0.attn.bias": "mask of an attention",
        "h.0.attn.masked_bias": "mask of an attention",
    }


def test_a_mask_of_real_numbers_is_refused():
    state = {"f.weight": WEIGHT, "f.weight_mask": MASK * 0.5}
    with raises(ValueError, "f.weight_mask is a mask with other numbers than 0 and 1"):
        ow.report(state)
    state = {"f.weight": WEIGHT, "f.mask_scores": MASK * 0.5}  # movement pruning of transformers
    with raises(ValueError, "f.mask_scores holds scores that a library makes masks from"):
        ow.report(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8])
def test_bit_masks_of_compressed_tensors(dtype):
    """By hand: the lowest bit is the first weight of a row, and rows of 10 weights take 2 bytes."""
    state = {
        "f.weight.compressed": torch.tensor([1.0, 2, 3, 0, 5]).to(dtype),  # a kept weight may be 0: 2:4 fills up
        "f.weight.bitmask": torch.tensor([[0b1000_0001, 0b10], [0b1, 0b1]], dtype=torch.uint8),
        "f.weight.shape": torch.tensor([2, 10]),
        "f.weight.row_offsets": torch.tensor([0, 3]),
    }
    (layer,) = ow.report(state).layers
    assert (layer.name, layer.shape, layer.weights, layer.nonzero) == ("f.weight", (2, 10), 20, 4)
    assert (layer.dead_inputs, layer.dead_outputs) == (6, 0)  # columns 0, 7, 9 and 8, whose weight is 5
    assert ow.report(state).parameters == 20


@pytest.mark.parametrize("shape", [[2, 9], [2, 10, 1], [1 << 40, 1 << 40], [-2, 10], []])
def test_bit_masks_that_do_not_fit_are_refused(shape):
    state = {
        "f.weight.compressed": torch.ones(3),
        "f.weight.bitmask": torch.tensor([[0b1000_0001, 0b10], [0b1, 0b1]], dtype=torch.uint8),
        "f.weight.shape": torch.tensor(shape, dtype=torch.int64),
    }
    with raises(ValueError, "cannot count the zeros of f.weight, which f.weight.compressed"):
        ow.report(state)


CODES = torch.ones(4, 4, dtype=torch.int32)


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"q.qweight": CODES, "q.qzeros": CODES, "q.scales": torch.ones(1, 4)}, "q.qweight holds GPTQ or AWQ codes"),
        ({"q.weight_packed": CODES, "q.weight_scale": torch.ones(4, 1)}, "packed codes of compressed-tensors"),
        ({"q.weight": CODES.to(torch.uint8), "q.weight.absmax": torch.ones(4)}, "q.weight holds codes of type uint8"),
        ({"q.W_q": CODES.to(torch.uint8), "q.scale": torch.ones(4, 1)}, "q.W_q holds HQQ codes"),
        ({"e.gate_blocks": CODES.to(torch.uint8), "e.gate_scales": CODES.to(torch.uint8)}, "MXFP4 codes"),
        ({"q.B_24": CODES, "q.B_meta": CODES.short(), "q.s": torch.ones(1, 4)}, "Marlin's packed 2:4 codes"),
        ({"q.packed": torch.ones(4, 2), "q.meta": CODES.short()}, "q.meta holds the positions of packed 2:4 values"),
    ],
)
def test_packed_codes_are_refused_by_name(tmp_path, state, sentence):
    state = {"embedding.weight": torch.ones(4, 4), **state}
    with raises(ValueError, sentence, "which do not say which weights are zero; give the checkpoint"):
        ow.report(state)
    torch.save(state, tmp_path / "x.pt")
    with raises(ValueError, "x.pt: ", sentence):
        ow.report(tmp_path / "x.pt")


def test_scales_and_zero_points_of_8_bit_codes_are_no_parameters():
    codes = torch.tensor([[3, 0, -3, 3], [1, 1, 0, 1]], dtype=torch.int8)
    cases = {
        "SCB": (torch.ones(2), 2),  # bitsandbytes, 8 bits
        "weight_scale": (torch.ones(2, 1), 2),
        "weight_scale_inv": (torch.ones(1, 1), 2),
    }
    for name, (tensor, zeros) in cases.items():
        report = ow.report({"f.weight": codes, f"f.{name}": tensor})
        assert (report.parameters, report.zeros) == (8, zeros)
        assert report.skipped == {f"f.{name}": "scale of quantized values"}
    points = {(): 3, (2, 1): [[3], [1]], (2, 2): [[3, 3], [1, 0]], (2,): [3, 1]}
    for (shape, point), zeros in zip(points.items(), (2, 5, 5, 5), strict=True):
        state = {"f.weight": codes, "f.weight_scale": torch.ones(2, 1), "f.weight_zero_point": torch.tensor(point)}
        assert state["f.weight_zero_point"].shape == shape
        report = ow.report(state)
        assert (report.parameters, report.zeros) == (8, zeros)
    with raises(ValueError, "cannot count the zeros of f.weight", "zero points (3,) do not fit codes (2, 4)"):
        ow.report({"f.weight": codes, "f.weight_zero_point": torch.tensor([1, 2, 3])})


def test_symmetric_8_bit_codes_count_as_the_weight_that_they_are():
    codes = torch.tensor([[3, 0, -3, 3], [1, 1, 0, 1]], dtype=torch.int8)
    norm = torch.tensor([1, 0, 2], dtype=torch.int8)
    state = {"f.qweight": codes, "f.scale": torch.ones(2, 1), "n.weight.qweight": norm, "n.weight.scale": torch.ones(1)}
    report = ow.report(state)
    assert (counts(state), report.parameters, report.zeros) == ([("f", 2)], 11, 3)
    assert report.skipped == dict.fromkeys(["f.scale", "n.weight.scale"], "scale of quantized values")
    with raises(ValueError, "f.qweight holds GPTQ or AWQ codes"):
        ow.report({**state, "f.qzeros": torch.ones(2, 1, dtype=torch.int8)})


def test_fp8_weights_count_and_their_scales_do_not():
    state = {"f.weight": (WEIGHT * MASK).to(torch.float8_e4m3fn), "f.weight_scale_inv": torch.ones(1, 1)}
    assert counts(state) == [("f.weight", 3)]
    assert ow.report(state).parameters == 8
    assert ow.report({"f.weight": WEIGHT, "f.scale": torch.ones(2)}).parameters == 10  # a learned scale


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_tensors_in_a_state_count_their_stored_zeros():
    coo = torch.sparse_coo_tensor(torch.tensor([[0, 0, 1], [1, 1, 3]]), torch.tensor([1.0, -1.0, 2.0]), (2, 4))
    csr = (WEIGHT * MASK).to_sparse_csr()
    csr.values()[0] = 0
    assert counts({"a": coo, "b": csr}) == [("a", 7), ("b", 4)]


def test_a_4_bit_layer_of_bitsandbytes_has_the_zeros_of_its_values(tmp_path):
    bnb = pytest.importorskip("bitsandbytes")
    for quant_type, nested in (("nf4", False), ("nf4", True), ("fp4", False)):
        layer = bnb.nn.Linear4bit(65, 3, quant_type=quant_type, compress_statistics=nested)
        with torch.no_grad():
            layer.weight.view(-1)[:130] = 0  # two whole blocks of 64 too
        layer = layer.to("cpu")
        if layer.weight.quant_state is None:
            layer.weight = layer.weight._quantize("cpu")
        values = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        state = layer.state_dict()
        report = ow.report(state)
        assert (report.layers[0].shape, report.parameters) == ((3, 65), 198)
        assert report.layers[0].nonzero == int(values.count_nonzero()) < 195
        torch.save(state, tmp_path / "x.pt")
        assert ow.report(tmp_path / "x.pt").layers == report.layers == ow.report(nn.Sequential(layer)[0]).layers


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_layers_of_torch_count_from_their_state():
    model = torch.ao.nn.quantized.Linear(4, 2)
    weight = torch.quantize_per_channel(WEIGHT * MASK, torch.ones(2), torch.tensor([0, 0]), 0, torch.qint8)
    model.set_weight_bias(weight, torch.ones(2))
    assert counts(model.state_dict()) == [("weight", 3)]
    with raises(ValueError, "Linear is quantized by torch.ao, which keeps no parameters; report on the model's state"):
        ow.report(model)


TECHNIQUES = [
    ow.VariationalDropout(ow.Constant(1e-3), log_sigma2=-1.0),
    ow.L0(ow.Constant(1e-3)),
    ow.GroupL0(ow.Constant(1e-3)),
    ow.SoftWeightSharing(ow.Constant(1e-3)),
]


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: type(technique).__name__)
def test_our_own_training_state_has_the_zeros_that_its_sparsifier_counts(tmp_path, technique):
    model = two_layers()
    with torch.no_grad():
        model[0].weight.mul_(5)
    sparsifier = ow.sparsify(model, technique)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("log_alpha"):
                parameter.view(-1)[::3] = -4.0  # closes a third of the gates
    assert 0.1 < sparsifier.sparsity() < 1
    torch.save({"model": model.state_dict(), "sparsifier": sparsifier.state_dict()}, tmp_path / "x.pt")
    for report in (ow.report(model.state_dict()), ow.report(tmp_path / "x.pt")):
        assert report.sparsity == sparsifier.sparsity()
        assert report.parameters == ow.report(sparsifier).parameters
        assert [layer.name for layer in report.layers] == ["0.weight", "2.weight"]
    (note,) = ow.report(model.state_dict()).notes
    assert note.startswith(f"0.weight and 1 more: the values of openwork's {type(technique).__name__}, as it is")
    assert note.endswith("at threshold 3") == (type(technique) is ow.VariationalDropout)


def test_a_random_weight_of_an_unknown_technique_is_refused():
    state = {"f.weight": WEIGHT, "f.reparam.weight.rho": WEIGHT}
    with raises(ValueError, "f.weight is a random variable of a technique that openwork does not have (rho)"):
        ow.report(state)
    state = {"f.weight": WEIGHT, "f.reparam.weight.log_sigma2": WEIGHT[:1]}
    with raises(ValueError, "f.weight and its f.reparam.weight.* do not fit each other"):
        ow.report(state)


def test_norms_positions_and_scales_of_a_state_are_parameters_but_no_layers():
    state = {
        "f.weight": WEIGHT,
        "f.bias": torch.ones(2),
        "ln.weight": WEIGHT.clone(),  # of LayerNorm((2, 4)): its bias has the same shape
        "ln.bias": WEIGHT.clone(),
        "block.norm1.weight": WEIGHT.clone(),  # without a bias
        "pos_embed": torch.ones(1, 5, 4),
        "cls_token": torch.ones(1, 1, 4),
        "block.relative_position_bias_table": torch.ones(9, 2),
        "stage.layer_scale_1": torch.ones(4, 1, 1),
        "experts.down_proj": torch.ones(2, 4, 4),
        "wpe.weight": torch.ones(5, 4),  # an embedding, as in a live model
    }
    assert [name for name, _ in counts(state)] == ["f.weight", "experts.down_proj", "wpe.weight"]
    assert ow.report(state).parameters == sum(tensor.numel() for tensor in state.values())
    assert json.dumps(ow.report(state).to_dict())
