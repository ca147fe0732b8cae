"""Weights whose elements are codes are left out with a reason; those that are numbers are not."""

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.core.numbers import not_numbers

HALF = ow.GradualMagnitude(ow.OneShot(0.5))


class Wrapped(torch.Tensor):
    """A tensor that computes by rules of its own."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError


class Rules(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


class Named(nn.Parameter):
    """A library's own class of parameters, with ordinary arithmetic."""


def parameter(tensor):
    return nn.Parameter(tensor, requires_grad=False)


def storage(tensor, kind, **attributes):
    made = torch.Tensor._make_subclass(kind, tensor)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


CODES = {
    "int8": lambda: parameter(torch.ones(4, 4, dtype=torch.int8)),
    "uint8, packed": lambda: parameter(torch.ones(8, 1, dtype=torch.uint8)),
    "int32, packed": lambda: parameter(torch.ones(4, 4, dtype=torch.int32)),
    "bool": lambda: parameter(torch.ones(4, 4, dtype=torch.bool)),
    "float8_e4m3fn": lambda: parameter(torch.ones(4, 4).to(torch.float8_e4m3fn)),
    "float8_e5m2": lambda: parameter(torch.ones(4, 4).to(torch.float8_e5m2)),
    "float8_e8m0fnu": lambda: parameter(torch.ones(4, 4).to(torch.float8_e8m0fnu)),
    "a subclass with dispatch": lambda: storage(torch.ones(4, 4), Wrapped),
    "a subclass with functions": lambda: parameter(storage(torch.ones(4, 4), Rules)),
    "codes stored as floats": lambda: storage(torch.ones(4, 4), Named, quant_state=None),
    "a sparse matrix": lambda: parameter(torch.eye(4).to_sparse_csr()),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("kind", CODES)
def test_codes_are_left_out_with_a_reason_and_stay(kind):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0]._parameters["weight"] = weight = CODES[kind]()
    sparsifier = ow.sparsify(model, HALF)
    assert [each.name for each in sparsifier.weights] == ["1.weight"]
    reason = sparsifier.skipped["0.weight"]
    assert reason.endswith(("sparsify the model before it is quantised", "make it dense"))
    assert model[0]._parameters["weight"] is weight
    with pytest.raises(ValueError, match="that the selection picks hold no numbers"):
        ow.sparsify(nn.Sequential(model[0]), HALF)


def test_a_name_that_fits_only_codes_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0]._parameters["weight"] = CODES["int8"]()
    with pytest.raises(
        ValueError, match=r"'0' fits no weight that can be selected, only such as 0.weight: it holds int8"
    ):
        ow.sparsify(model, HALF, select=["0", "1"])
    assert [each.name for each in ow.sparsify(model, HALF, select="*.weight").weights] == ["1.weight"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_numbers_of_any_precision_are_numbers(dtype):
    assert not not_numbers(parameter(torch.ones(2, 2, dtype=dtype)))


def test_a_librarys_own_class_of_parameters_is_pruned():
    layer = nn.Linear(4, 4)
    layer.weight = Named(torch.arange(1.0, 17).view(4, 4))
    ow.sparsify(layer, HALF).finalize()
    assert (layer.weight != 0).flatten().tolist() == [False] * 8 + [True] * 8


def test_weights_quantised_by_bitsandbytes_are_left_out():
    bnb = pytest.importorskip("bitsandbytes")
    four = bnb.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32, quant_storage=torch.bfloat16)
    four.weight = four.weight._quantize("cpu")
    model = nn.Sequential(four, bnb.nn.Linear8bitLt(64, 64, has_fp16_weights=False), nn.Linear(64, 2))
    sparsifier = ow.sparsify(model, HALF)
    assert [each.name for each in sparsifier.weights] == ["2.weight"]
    assert sparsifier.skipped.keys() == {"0.weight", "1.weight"}
    assert sparsifier.sparsity() == 0.5


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_torchs_quantised_tensors_are_codes():
    quantised = torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8)
    assert not_numbers(quantised) == "it holds qint8 codes, not numbers; sparsify the model before it is quantised"
