"""The Triton kernels of masks beside their plain twins: in Triton's interpreter (TRITON_INTERPRET=1), or on a GPU."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from openwork.kernels import masks, paths
from tests.kernels.test_masks import INF, NAN, same, some

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [1, 15, 64, 65, 127, 128, 300]


@pytest.fixture(params=["small pieces", "as on a GPU"])
def kernels(request, monkeypatch):
    """The kernels, with small pieces too, so that small tensors have several."""
    from openwork.kernels.triton import masks as kernels

    if request.param == "small pieces":
        monkeypatch.setattr(kernels, "PIECE", 64)
        monkeypatch.setattr(kernels, "STEP", 16)
        monkeypatch.setattr(kernels, "AT_ONCE", 4)
    return kernels


@pytest.fixture
def fused(monkeypatch):
    """Every tensor that fits goes to the kernels, in the interpreter too."""
    monkeypatch.setattr(masks, "path", lambda device, dtype: paths.Path("Triton" if dtype in DTYPES else "plain", ""))
    monkeypatch.setattr(masks, "SMALL", 0)
    monkeypatch.setattr(masks, "_on_cpu", lambda tensors: False)


def flat(dtype, count):
    """(values, hidden, masks) of sizes around those of pieces, with NaN and infinities."""
    torch.manual_seed(0)
    values = [torch.randn(SIZES[place % len(SIZES)]).to(dtype) for place in range(count)]
    for value in values:
        value[::7], value[3::7] = NAN, -INF
    kept = [torch.rand(value.shape) < 0.5 for value in values]
    hidden = [torch.randn_like(value) for value in values]
    return tuple([tensor.to(DEVICE) for tensor in tensors] for tensors in (values, hidden, kept))


def bits(tensors):
    """The tensors' bits, by which NaN is equal to itself and 0.0 is not -0.0."""
    return [tensor.nan_to_num(nan=123.0).view(torch.int16 if tensor.element_size() == 2 else torch.int32).cpu()
            for tensor in tensors]  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning")  # numpy's, of inf * 0
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 3, 5, 40])
def test_the_kernels_are_their_plain_twins(kernels, dtype, count):
    for kernel, plain, order in (
        (kernels.mask_, masks.mask_plain, (0, 2)),
        (kernels.hide_, masks.hide_plain, (0, 1, 2)),
        (kernels.remember_, masks.remember_plain, (1, 0, 2)),
        (kernels.restore_, masks.restore_plain, (0, 1, 2)),
    ):
        own, expected = flat(dtype, count), flat(dtype, count)
        kernel(*(own[place] for place in order))
        plain(*(expected[place] for place in order))
        for one, other in zip(own, expected, strict=True):
            assert same(one, other) if one[0].dtype == torch.bool else same(bits(one), bits(other))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64, torch.complex64, torch.int32], ids=str)
def test_tensors_of_any_layout_and_dtype_come_out_as_on_the_plain_path(fused, dtype):
    own, expected = some(dtype, DEVICE), some(dtype)
    with torch.no_grad():
        masks.hide_(*own)
        masks.remember_(own[1], own[0], own[2])
        masks.mask_(own[1], own[2])
        masks.restore_(own[1], own[0], own[2])
    masks.hide_plain(*expected)
    masks.remember_plain(expected[1], expected[0], expected[2])
    masks.mask_plain(expected[1], expected[2])
    masks.restore_plain(expected[1], expected[0], expected[2])
    assert all(same(*pair) for pair in zip(own, expected, strict=True))


def test_the_ops_count_what_they_write(fused):
    parameter, hidden = nn.Parameter(torch.ones(5, device=DEVICE)), torch.zeros(5, device=DEVICE)
    kept = torch.tensor([True, False, True, False, True], device=DEVICE)
    with torch.no_grad():
        masks.mask_([parameter], [kept])
        masks.hide_([parameter], [hidden], [kept])
        masks.remember_([hidden], [parameter], [kept])
        assert parameter.tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]
        masks.restore_([parameter], [torch.full_like(hidden, 7)], [kept])
    assert (parameter._version, hidden._version, kept._version) == (3, 2, 0)
    assert parameter.tolist() == [1.0, 7.0, 1.0, 7.0, 1.0]


def test_tensors_that_fit_go_to_the_kernel_by_one_call_for_each_dtype(fused, monkeypatch):
    calls = []
    monkeypatch.setattr(masks, "_mask", lambda tensors, kept: calls.append([len(tensors), tensors[0].dtype]))
    (floats, _, kept), (halves, _, others) = some(torch.float32, DEVICE), some(torch.bfloat16, DEVICE)
    masks.mask_([*floats, *halves], [*kept, *others])
    assert calls == [[6, torch.float32], [6, torch.bfloat16]]  # without the empty, turned and spread ones


def test_a_gradient_that_is_to_be_differentiated_goes_to_torch(fused):
    x = torch.tensor([2.0, 3.0], device=DEVICE, requires_grad=True)
    (gradient,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    masks.mask_([gradient], [torch.tensor([False, True], device=DEVICE)])
    gradient.sum().backward()
    assert x.grad.tolist() == [0.0, 18.0]


def test_the_ops_are_declared_as_they_behave(fused):
    values, hidden, kept = ([tensor[4]] for tensor in some(torch.float32, DEVICE))
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.openwork.mask_.default, (values, kept), test_utils=checks)
    torch.library.opcheck(torch.ops.openwork.hide_.default, (values, hidden, kept), test_utils=checks)
    torch.library.opcheck(torch.ops.openwork.remember_.default, (hidden, values, kept), test_utils=checks)
    torch.library.opcheck(torch.ops.openwork.restore_.default, (values, hidden, kept), test_utils=checks)


def test_offsets_are_of_64_bits():
    """2^31 numbers take 8 GB, so the source is read: the piece's begin is widened before it is multiplied."""
    from openwork.kernels.triton import masks as kernels

    assert ".to(tl.int64) * PIECE" in Path(kernels.__file__).read_text()


@pytest.mark.gpu
def test_a_tensor_of_more_than_2_to_the_31_numbers_is_masked_to_its_end():
    size = 2**31 + 5
    if torch.cuda.mem_get_info()[0] < 4 * size:
        pytest.skip("takes 7 GB")
    values = torch.ones(size, dtype=torch.bfloat16, device="cuda")
    kept = torch.ones(size, dtype=torch.bool, device="cuda")
    kept[[0, 2**31 - 1, -2]] = False
    masks.mask_([values], [kept])
    assert values[[0, 1, 2**31 - 1, 2**31, -2, -1]].tolist() == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
