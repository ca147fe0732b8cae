"""Patterns of zeros against hand counts and against plain loops."""

import pytest
import torch
from torch import Tensor

from openwork.core.layout import Layout
from openwork.inspect import structure
from openwork.inspect.structure import BLOCKS, GROUPS, count_nonzero, count_structure, count_structures


def test_dead_outputs_and_inputs_by_hand():
    weight = torch.ones(3, 4, 2, 2)
    weight[1] = 0  # one filter
    weight[:, 0] = weight[:, 3] = 0  # two input channels
    weight[0, 1, 0, 0] = 0  # a hole in a live filter
    found = count_structure(weight)
    assert (found.nonzero, found.dead_outputs, found.dead_inputs) == (15, 1, 2)


def test_groups_run_along_the_inputs_at_one_kernel_position():
    weight = torch.zeros(1, 4, 1, 2)
    weight[0, :2, 0, 0] = 1  # position 0 keeps 2 of 4, position 1 keeps 0
    assert count_structure(weight).groups == {"1:4": 0.5, "2:4": 1.0}
    weight[0, 2, 0, 0] = 1
    assert count_structure(weight).groups == {"1:4": 0.5, "2:4": 0.5}


def test_what_does_not_divide_the_shape_is_left_out():
    weight = torch.ones(6, 7)
    weight[0, 0] = 0
    found = count_structure(weight)
    assert (found.groups, found.blocks) == ({}, {})


def test_blocks_by_hand():
    weight = torch.ones(8, 8)
    weight[:4, 4:] = 0  # one block of 4 x 4
    weight[7, 0] = 0  # and one zero outside
    assert count_structure(weight).blocks == {"1x4": 16 / 17, "4x1": 16 / 17, "4x4": 16 / 17, "8x8": 0.0}


def by_loops(weight: Tensor) -> tuple[int, int, int, dict[str, float], dict[str, float]]:
    mask = (weight != 0).reshape(*weight.shape[:2], -1)
    matrix = mask.flatten(1)
    groups, blocks = {}, {}
    for name in GROUPS:
        n, m = map(int, name.split(":"))
        if mask.shape[1] % m == 0:
            all_groups = mask.transpose(1, 2).reshape(-1, m)
            groups[name] = sum(int(g.sum()) <= n for g in all_groups) / len(all_groups)
    for h, w in BLOCKS:
        if matrix.shape[0] % h == 0 and matrix.shape[1] % w == 0:
            inside = sum(
                h * w
                for i in range(0, matrix.shape[0], h)
                for j in range(0, matrix.shape[1], w)
                if not matrix[i : i + h, j : j + w].any()
            )
            blocks[f"{h}x{w}"] = inside / int((~mask).sum())
    outputs = sum(not row.any() for row in matrix)
    inputs = sum(not mask[:, i].any() for i in range(mask.shape[1]))
    return int(mask.sum()), outputs, inputs, groups, blocks


@pytest.mark.parametrize("shape", [(32, 32), (64, 96), (40, 8), (12, 8, 3, 3), (8, 16, 2), (5, 7), (100, 4, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn])
def test_chunks_and_byte_tricks_agree_with_loops(monkeypatch, shape, dtype):
    monkeypatch.setattr(structure, "_CHUNK", 500)  # several chunks for each tensor
    generator = torch.Generator().manual_seed(sum(shape))
    coarse = torch.rand(-(-shape[0] // 8), -(-shape[1] // 8), generator=generator) < 0.5
    mask = coarse.repeat_interleave(8, 0).repeat_interleave(8, 1)[: shape[0], : shape[1]]
    weight = torch.ones(shape) * mask.reshape(*mask.shape, *[1] * (len(shape) - 2))
    weight *= torch.rand(shape, generator=generator) < 0.6
    weight[0, 0] = 0
    found = count_structure(weight.to(dtype))
    assert (
        found.nonzero, found.dead_outputs, found.dead_inputs, found.groups, pytest.approx(found.blocks)
    ) == by_loops(weight)  # fmt: skip
    assert count_nonzero(weight.to(dtype)) == found.nonzero


@pytest.mark.parametrize(
    ("axes", "shape", "groups"),
    [
        (("out", "in"), (32, 64), 1),
        (("in", "out"), (7, 12), 1),
        (("experts", "out", "in"), (3, 8, 4), 1),
        (("matrices", "out", "in", "kernel", "kernel"), (8, 4, 3, 3), 2),
        (("out", "in"), (0, 4), 1),
    ],
)
def test_weights_counted_together_have_the_structure_that_each_has_alone(monkeypatch, axes, shape, groups):
    layout = Layout(axes, shape, groups)
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(5, *shape, generator=generator)
    weights *= torch.rand(weights.shape, generator=generator) < torch.tensor([0.0, 0.1, 0.5, 1.0, 1.0]).view(
        -1, *[1] * len(shape)
    )
    monkeypatch.setattr(structure, "_CHUNK", max(2 * weights[0].numel(), 1))  # two of them at a time
    assert count_structures(weights, layout) == [count_structure(weight, layout) for weight in weights]


def test_special_values():
    assert count_nonzero(torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-45])) == 3
    assert count_nonzero(torch.tensor([0.0, -0.0, 448.0]).to(torch.float8_e4m3fn)) == 1
    assert count_nonzero(torch.empty(0)) == count_nonzero(torch.tensor(0.0)) == 0
    assert count_structure(torch.empty(0, 3)).nonzero == count_structure(torch.empty(3, 0)).nonzero == 0


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_layouts_count_their_non_zero_values():
    weight = torch.eye(4)
    coo = torch.sparse_coo_tensor(
        [[0, 0, 1], [0, 0, 1]], [1.0, -1.0, 2.0], (4, 4), check_invariants=True
    )  # two entries cancel
    assert count_nonzero(coo) == count_structure(coo).nonzero == 1
    for sparse in (weight.to_sparse_csr(), weight.to_sparse_csc(), weight.to_sparse_bsr((2, 2))):
        assert count_nonzero(sparse) == 4
        assert count_structure(sparse) == count_structure(weight)
    enormous = torch.sparse_coo_tensor([[0], [0]], [1.0], (1 << 40, 1 << 20), check_invariants=True)
    assert (count_nonzero(enormous), count_structure(enormous)) == (1, None)


def test_an_expanded_tensor_is_counted_without_being_written_out():
    enormous = torch.tensor([0.0, 1.0]).expand(1 << 40, 2)
    assert (count_nonzero(enormous), count_structure(enormous)) == (1 << 40, None)
    with pytest.raises(ValueError, match="overlap in memory; save a contiguous"):
        count_nonzero(torch.ones(1 << 12).as_strided((1 << 11, 1 << 11), (1, 1)))
    with pytest.raises(ValueError, match="meta device and has no values"):
        count_nonzero(torch.empty(3, device="meta"))
