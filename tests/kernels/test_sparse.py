"""Sparse products on a CPU beside their plain twins."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from openwork.kernels import compiled, sparse

needs_compiler = pytest.mark.skipif("there is no C++ compiler" in str(compiled.load()), reason=str(compiled.load()))


def random_sparse(*shape, sparsity=0.7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    return weight * (torch.rand(shape, generator=generator) >= sparsity)


@needs_compiler
def test_the_kernels_compile_and_load():
    assert compiled.load() is None


def operands(batch, inputs, outputs, **settings):
    weight = random_sparse(outputs, inputs, **settings)
    return torch.randn(batch, inputs), weight, torch.randn(outputs)


def whole(*tensors):
    """The tensors as whole numbers: float32 sums of such products are exact in any order, up to 2^24."""
    return [(2 * tensor).round().clamp(-4, 4) for tensor in tensors]


@needs_compiler
@pytest.mark.parametrize("batch", [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 32, 33, 64, 100])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (5, 7), (300, 100), (64, 64), (33, 130), (70_000, 5)])
def test_the_kernel_is_its_plain_twin_for_any_batch_and_shape(batch, inputs, outputs):
    x, weight, bias = whole(*operands(batch, inputs, outputs))
    packed = sparse.pack(weight)
    expected = sparse.plain_linear(x, *packed, bias, inputs)
    assert torch.equal(sparse.linear(x, *packed, bias, inputs), expected)
    assert torch.equal(expected, nn.functional.linear(x, weight, bias))


@needs_compiler
def test_all_sparsities_from_no_zero_to_nothing_else():
    for sparsity in (0.0, 0.5, 0.98, 1.0):
        x, weight, bias = operands(20, 40, 30, sparsity=sparsity)
        y = sparse.linear(x, *sparse.pack(weight), bias, 40)
        torch.testing.assert_close(y, nn.functional.linear(x, weight, bias))


@needs_compiler
def test_empty_rows_give_the_bias_or_zero():
    packed = sparse.pack(torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    x = torch.tensor([[3.0, 4.0]])
    assert sparse.linear(x, *packed, torch.tensor([1.0, 2.0, 3.0]), 2).tolist() == [[1.0, 10.0, 3.0]]
    assert sparse.linear(x, *packed, None, 2).tolist() == [[0.0, 8.0, 0.0]]


@needs_compiler
def test_zeros_do_not_spread_infinities_and_nans_of_the_input_but_weights_do():
    packed = sparse.pack(torch.tensor([[0.0, 2.0], [1.0, 0.0]]))
    x = torch.tensor([[float("inf"), 1.0], [1.0, float("nan")]])
    for function in (sparse.linear, sparse.plain_linear):
        y = function(x, *packed, None, 2)
        assert y[0].tolist() == [2.0, float("inf")]
        assert y[1, 0].isnan()
        assert y[1, 1] == 1


def test_packing_keeps_every_value_bit_for_bit_but_for_the_sign_of_zeros():
    weight = torch.tensor([[0.0, -0.0, float("nan")], [float("-inf"), 1e-45, 0.0], [0.0, 0.0, 0.0]])
    starts, columns, values = sparse.pack(weight)
    assert starts.tolist() == [0, 1, 3, 3]
    assert columns.tolist() == [2, 0, 1]
    again = sparse.unpack(starts, columns, values, 3)
    assert torch.equal(again.view(torch.int32), weight.abs().copysign(weight).where(weight != 0, 0.0).view(torch.int32))


def test_columns_take_two_bytes_up_to_65536_of_them():
    assert sparse.pack(torch.ones(1, 2**16))[1].element_size() == 2
    assert sparse.pack(torch.ones(1, 2**16 + 1))[1].element_size() == 4


@needs_compiler
def test_inputs_may_have_any_strides_and_leading_dimensions():
    weight, bias = random_sparse(6, 10), torch.randn(6)
    packed = sparse.pack(weight)
    for x in (
        torch.randn(10, 4).t(),
        torch.randn(4, 20)[:, ::2],
        torch.randn(1, 10).expand(5, 10),
        torch.randn(10),
        torch.randn(2, 0, 10),
        torch.randn(3, 2, 5, 10).transpose(0, 2),
    ):
        y = sparse.linear(x, *packed, bias, 10)
        assert y.shape == (*x.shape[:-1], 6)
        assert y.is_contiguous()
        torch.testing.assert_close(y, nn.functional.linear(x, weight, bias))


@needs_compiler
def test_no_inputs_and_no_outputs():
    x = torch.zeros(3, 0)
    assert sparse.linear(x, *sparse.pack(torch.zeros(2, 0)), torch.ones(2), 0).tolist() == [[1.0, 1.0]] * 3
    assert sparse.linear(torch.ones(3, 2), *sparse.pack(torch.zeros(0, 2)), None, 2).shape == (3, 0)


@needs_compiler
def test_what_does_not_fit_is_one_sentence():
    packed = sparse.pack(random_sparse(6, 10))
    with pytest.raises(ValueError, match=r"must be float32 of shape \(\.\.\., 10\), got Float \[3, 9\]"):
        sparse.linear(torch.randn(3, 9), *packed, None, 10)
    with pytest.raises(ValueError, match="float32"):
        sparse.linear(torch.randn(3, 10).double(), *packed, None, 10)
    with pytest.raises(ValueError, match="pack the weight again"):
        sparse.linear(torch.randn(3, 10), packed[0], packed[1][:-1], packed[2], None, 10)
    with pytest.raises(ValueError, match="pack the weight again"):
        sparse.linear(torch.randn(3, 10), *packed, torch.zeros(5), 10)


@needs_compiler
def test_two_threads_compute_what_one_does():
    x, weight, bias = operands(70, 600, 700)
    packed = sparse.pack(weight)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(sparse.linear(x, *packed, bias, 600))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@needs_compiler
def test_the_operator_passes_torchs_own_checks():
    x, weight, bias = operands(5, 10, 6)
    torch.library.opcheck(torch.ops.openwork.sparse_linear, (x, *sparse.pack(weight), bias, 10))


TAPS = [
    ((1, 1), (1, 1), (0, 0), (1, 1)),
    ((1, 1), (2, 2), (0, 0), (1, 1)),
    ((1, 1), (1, 1), (2, 2), (1, 1)),
    ((3, 3), (1, 1), (1, 1), (1, 1)),
    ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((7, 7), (2, 2), (3, 3), (1, 1)),
    ((3, 2), (1, 3), (2, 0), (2, 1)),
    ((1, 5), (2, 1), (0, 3), (1, 2)),
    ((5, 5), (3, 2), (4, 4), (1, 2)),
    ((2, 2), (4, 4), (0, 0), (1, 1)),
    ((2, 2), (1, 1), (5, 5), (3, 3)),
]


@needs_compiler
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), TAPS)
@pytest.mark.parametrize(("channels", "outputs", "height", "width"), [(1, 1, 7, 7), (3, 70, 14, 9), (4, 3, 40, 70)])
def test_the_convolution_is_its_plain_twin(channels, outputs, height, width, kernel, stride, padding, dilation):
    packed = sparse.pack(random_sparse(outputs, channels * kernel[0] * kernel[1]))
    settings = torch.randn(outputs), channels, kernel, stride, padding, dilation
    for images in (1, 2):
        x = torch.randn(images, channels, height, width)
        expected = sparse.plain_convolution(x, *packed, *settings)
        torch.testing.assert_close(sparse.convolution(x, *packed, *settings), expected, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_what_does_not_fit_a_convolution_is_one_sentence():
    packed = sparse.pack(random_sparse(6, 18))
    settings = None, 2, (3, 3), (1, 1), (0, 0), (1, 1)
    with pytest.raises(ValueError, match=r"float32 of shape \(N, 2, H, W\), got Float \[1, 3, 5, 5\]"):
        sparse.convolution(torch.randn(1, 3, 5, 5), *packed, *settings)
    with pytest.raises(ValueError, match="larger than the padded input"):
        sparse.convolution(torch.randn(1, 2, 2, 5), *packed, *settings)


@needs_compiler
def test_the_convolution_passes_torchs_own_checks():
    packed = sparse.pack(random_sparse(6, 18))
    arguments = (torch.randn(2, 2, 8, 9), *packed, torch.randn(6), 2, [3, 3], [2, 1], [1, 1], [1, 2])
    torch.library.opcheck(torch.ops.openwork.sparse_convolution, arguments)


def test_blocks_on_the_diagonal_are_packed_as_columns_of_the_whole_matrix():
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    packed = sparse.pack(weight, groups=2)
    assert packed[1].tolist() == [0, 1, 2, 3]
    assert torch.equal(sparse.unpack(*packed, 2, groups=2), weight)


def test_without_a_compiler_the_twin_computes(tmp_path):
    program = (
        "import torch; from openwork.kernels import compiled, sparse\n"
        "w = torch.tensor([[0., 2.], [1., 0.]])\n"
        "print(sparse.linear(torch.ones(1, 2), *sparse.pack(w), None, 2).tolist()); print(compiled.load())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), "OPENWORK_CACHE": str(tmp_path), "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[0] == "[[2.0, 1.0]]"
    assert "there is no C++ compiler (no-such-compiler); install one, or set CXX to its name" in done.stdout
