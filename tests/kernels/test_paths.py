"""Which way an operation goes: the kernel where it can run, else the plain twin, with the reason."""

from types import SimpleNamespace

import pytest
import torch

from openwork.kernels import compiled, csr, lanes, paths, semi_structured, sparse, stacked

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def gpu(monkeypatch):
    """Makes torch see a GPU of a compute capability, beside an installed Triton."""

    def make(*found: int) -> None:
        monkeypatch.setattr(paths, "HAS_TRITON", True)
        seen = SimpleNamespace(major=found[0], minor=found[1])
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: seen)

    return make


@pytest.mark.parametrize("operation", [lanes, stacked], ids=lambda module: module.__name__)
def test_triton_is_taken_on_a_gpu_that_is_new_enough(gpu, operation):
    gpu(8, 0)
    assert operation.path(GPU, torch.bfloat16) == ("Triton", "compute capability 8.0")
    gpu(7, 5)
    assert operation.path(GPU, torch.bfloat16) == (
        "plain",
        "the kernel needs compute capability 8.0 or higher, not 7.5",
    )
    assert operation.path(CPU, torch.bfloat16) == ("plain", "the kernel computes on a GPU, not on cpu")


def test_a_missing_triton_is_a_reason(gpu, monkeypatch):
    gpu(9, 0)
    monkeypatch.setattr(paths, "HAS_TRITON", False)
    assert paths.triton_or_plain(GPU, torch.float32).why == "Triton is not installed; `pip install triton` brings it"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.complex64, torch.int8], ids=str)
def test_a_dtype_that_the_kernel_does_not_take_is_a_reason(gpu, dtype):
    gpu(9, 0)
    taken = (torch.float32, torch.bfloat16)
    way = paths.triton_or_plain(GPU, dtype, taken)
    assert way == ("plain", "the kernel computes in float32 and bfloat16 alone")
    assert all(paths.triton_or_plain(GPU, one, taken).name == "Triton" for one in taken)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Found no NVIDIA driver on your system. Please check"),
        AssertionError("Torch not compiled with CUDA enabled"),
        AssertionError("Invalid device id"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
        RuntimeError(),
    ],
    ids=str,
)
def test_a_gpu_out_of_reach_is_a_reason_of_one_line(gpu, monkeypatch, error):
    def raised(device):
        raise error

    gpu(9, 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", raised)
    for way in (paths.triton_or_plain(GPU, torch.float32), semi_structured.path(GPU, torch.float16)):
        assert way.name in ("plain", "none")
        assert (
            way.why
            == f"CUDA is out of reach: {str(error).splitlines()[0].split('. ')[0] if str(error) else 'RuntimeError'}"
        )


def test_what_cannot_go_at_all_says_so(gpu, monkeypatch):
    gpu(9, 0)
    monkeypatch.setattr(semi_structured, "has_cusparselt", lambda: True)
    assert semi_structured.path(GPU, torch.bfloat16).name == "cuSPARSELt"
    assert semi_structured.path(GPU, torch.float32) == ("none", "2:4 is computed in bfloat16 and float16 alone")
    assert semi_structured.path(CPU, torch.bfloat16).name == "none"
    monkeypatch.setattr(semi_structured, "has_cusparselt", lambda: False)
    assert semi_structured.path(GPU, torch.bfloat16).name == "none"
    gpu(8, 6)
    assert semi_structured.path(GPU, torch.bfloat16).name == "CUTLASS"
    gpu(7, 5)
    assert semi_structured.path(GPU, torch.bfloat16).why == "2:4 needs compute capability 8.0 or higher, not 7.5"
    assert csr.path(GPU, torch.float32).name == "none"
    for there, names in ((True, ["MKL", "none"]), (False, ["plain", "plain"])):
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda there=there: there)
        assert [csr.path(CPU, dtype).name for dtype in (torch.float32, torch.float16)] == names


def test_sparse_products_on_a_cpu_say_why_nothing_compiles_them(monkeypatch):
    monkeypatch.setattr(compiled, "load", lambda: "there is no C++ compiler")
    assert sparse.path(CPU, torch.float32) == ("plain", "there is no C++ compiler")
    monkeypatch.setattr(compiled, "load", lambda: None)
    assert sparse.path(CPU, torch.float32).name == "compiled"
    assert sparse.path(CPU, torch.float16).name == "none"
    assert sparse.path(GPU, torch.float32) == ("plain", "the kernel computes on a CPU, not on cuda")


def test_an_operation_takes_the_way_that_it_tells():
    weight, x = torch.randn(5, 7), torch.randn(2, 7)
    assert lanes.path(x.device, x.dtype).name == "plain"
    assert torch.allclose(lanes.lanes_linear(x, *lanes.pack(weight), None), x @ weight.t(), atol=1e-5)


def test_a_way_is_a_constant_of_compiled_code():
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * (2 if paths.triton_or_plain(x.device, x.dtype).name == "plain" else 3)

    compiled_double = torch.compile(double, backend="eager", fullgraph=True)
    assert torch.equal(compiled_double(torch.ones(2)), torch.full((2,), 2.0))


class Asking(torch.nn.Module):
    """Adds 1 where torch's own operations must run."""

    def forward(self, x):
        return x + int(paths.transformed())


def test_an_export_needs_torchs_own_operations_and_a_compiled_step_does_not():
    x = torch.zeros(2)
    assert torch.compile(Asking(), fullgraph=True, backend="eager")(x).tolist() == [0, 0]
    for strict in (False, True):
        assert torch.export.export(Asking(), (x,), strict=strict).module()(x).tolist() == [1, 1]


IMAGES = torch.empty(2, 3, 4, 5)
LYING = {
    "straight": ([torch.empty(3, 4), torch.empty(3, 4)], True),
    "channels last": ([IMAGES.to(memory_format=torch.channels_last)] * 2, True),
    "channels last in 3d": ([torch.empty(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d)], True),
    "axes of one place": ([torch.empty(3, 1), torch.empty(1, 3).t()], True),
    "one of each order": ([IMAGES, IMAGES.to(memory_format=torch.channels_last)], False),
    "transposed": ([torch.empty(3, 4).t()], False),
    "every other": ([torch.empty(6)[::2]], False),
    "one for all": ([torch.empty(3, 1).expand(3, 4)], False),
}


@pytest.mark.parametrize("how", LYING)
def test_tensors_lie_in_one_piece_if_they_fill_their_memory_in_one_order(how):
    tensors, expected = LYING[how]
    assert paths.in_one_piece(*tensors) is expected
