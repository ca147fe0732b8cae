"""The packing in lanes, and its plain product."""

import pytest
import torch
import torch.nn.functional as F

from openwork.kernels import lanes
from tests.kernels.lane_cases import matrices

LAYOUTS = [(0, 0), (32, 4), (16, 4), (8, 8), (32, 8)]


@pytest.mark.parametrize("name", matrices())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_unpacking_gives_back_every_weight(name, dtype, layout):
    weight = matrices(dtype)[name]
    packed = lanes.pack(weight, *layout)
    assert torch.equal(lanes.unpack_plain(*packed, weight.shape[1]), weight)


def test_nan_and_infinite_weights_and_the_smallest_ones_are_kept():
    weight = torch.tensor([[0.0, float("nan"), 0.0, float("inf")], [1e-45, 0.0, -1e-45, -float("inf")]])
    back = lanes.unpack_plain(*lanes.pack(weight), 4)
    assert torch.equal(back.view(torch.int32), weight.view(torch.int32))


def test_a_negative_zero_is_a_zero():
    packed = lanes.pack(torch.tensor([[-0.0, 1.0]]))
    assert lanes.unpack_plain(*packed, 2).tolist() == [[0.0, 1.0]]


def test_dealt_lanes_take_turns_and_keep_gaps():
    weight = torch.tensor([[1.0, 0, 2, 3, 0, 4, 5, 0, 0, 6]])
    packed = lanes.pack(weight, 2, 8)
    assert packed.starts[0, 0].tolist() == [0, 2]
    assert packed.values[0, 0].tolist() == [[1, 3, 5, 0], [2, 4, 6, 0]]
    assert packed.gaps[0, 0].tolist() == [[0, 3, 3, 0], [0, 3, 4, 0]]


def test_stretches_lie_one_after_the_other_with_two_gaps_a_byte():
    weight = torch.tensor([[1.0, 0, 2, 3, 0, 4, 5, 0, 0, 6]])
    packed = lanes.pack(weight, 2, 4)
    assert packed.starts[0, 0].tolist() == [0, 5]
    assert packed.values[0, 0].tolist() == [[1, 2, 3, 0], [4, 5, 6, 0]]
    assert packed.gaps[0, 0].tolist() == [[0 | 2 << 4, 1], [0 | 1 << 4, 3]]


@pytest.mark.parametrize(("bits", "gap", "stored"), [(4, 15, 2), (4, 16, 3), (4, 31, 4), (8, 255, 2), (8, 256, 3)])
def test_a_gap_that_does_not_fit_is_bridged_by_zeros(bits, gap, stored):
    weight = torch.zeros(1, gap + 1)
    weight[0, 0], weight[0, gap] = 1, 2
    packed = lanes.pack(weight, 1, bits)
    assert packed.values[0, 0, 0].tolist() == [1, *[0] * (stored - 2), 2, *[0] * (4 - stored)]


def test_rows_are_computed_longest_first_so_that_groups_need_little_padding():
    weight = torch.zeros(64, 64)
    for row in range(64):
        weight[row, : row % 2 * 60 + 1] = 1
    packed = lanes.pack(weight, 8, 8)  # 32 rows a group: 32 of 61 weights, then 32 of one
    assert packed.offsets.tolist() == [0, 2, 3]
    assert packed.order.tolist() == [*range(1, 64, 2), *range(0, 64, 2)]


def test_packing_in_pieces_packs_the_same(monkeypatch):
    weight = matrices()["one long row"]
    whole = lanes.pack(weight, 32, 8)
    monkeypatch.setattr(lanes, "_AT_ONCE", 1)
    assert all(torch.equal(one, other) for one, other in zip(whole, lanes.pack(weight, 32, 8), strict=True))


@pytest.mark.parametrize(("sparsity", "factor"), [(0.5, 1.45), (0.7, 2.2), (0.8, 2.8), (0.9, 5.0), (0.95, 9.5)])
def test_memory_falls_by_the_factor_of_the_bytes(sparsity, factor):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1024, 4096, generator=generator).bfloat16()
    weight *= torch.rand(1024, 4096, generator=generator) >= sparsity
    assert weight.nbytes / sum(tensor.nbytes for tensor in lanes.pack(weight)) > factor


def test_the_product_on_a_cpu_is_that_of_the_dense_weight():
    for weight in matrices().values():
        packed, bias = lanes.pack(weight), torch.randn(len(weight))
        for shape in ((1,), (3,), (2, 5), (40,), ()):
            x = torch.randn(*shape, weight.shape[1])
            assert torch.allclose(lanes.lanes_linear(x, *packed, bias), F.linear(x, weight, bias), atol=1e-5)
            assert torch.allclose(lanes.lanes_linear(x, *packed, None), F.linear(x, weight), atol=1e-5)


def test_the_operator_declares_the_shapes_that_it_returns():
    weight = matrices()["empty rows"]
    packed = lanes.pack(weight)
    checks = ("test_schema", "test_faketensor")
    for x in (torch.randn(300), torch.randn(4, 300), torch.randn(2, 17, 300)):
        torch.library.opcheck(lanes.lanes_linear, (x, *packed, torch.randn(37)), test_utils=checks)
