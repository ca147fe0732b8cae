"""Tensors to select from, and what sorting makes of them."""

import math

import torch


def values(dtype):
    """Tensors of which each is awkward in its own way, by name."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    inf, nan, small = math.inf, math.nan, torch.finfo(dtype).smallest_normal / 4
    return {
        "a few": normal(7, 3),
        "more than a block": normal(20_001).abs(),
        "as many as a block": normal(8192),
        "equal": torch.full((9000,), -2.5, dtype=dtype),
        "many ties": torch.randint(-3, 3, (8193,), generator=generator).to(dtype),
        "zeros of both signs": torch.tensor([0.0, -0.0, 0.0, -0.0, 1.0], dtype=dtype),
        "subnormal": torch.tensor([0.0, small, -small, 2 * small, -0.0], dtype=dtype),
        "the largest": normal(50).sign() * torch.finfo(dtype).max,
        "infinite": torch.tensor([inf, -inf, 3.0, -inf, inf, -2.0], dtype=dtype),
        "nothing but -inf": torch.full((5,), -inf, dtype=dtype),
        "not numbers": torch.tensor([inf, nan, 3.0, -nan, -inf, -2.0], dtype=dtype),
        "masked": torch.where(torch.rand(9000, generator=generator) < 0.9, 0, normal(9000).abs()),
        "one": normal(1),
        "a number": normal()[()],
        "none": normal(0, 3),
        "channels last": normal(8, 4, 3, 3).to(memory_format=torch.channels_last),
        "not in one piece": normal(30, 20).t()[3:],
    }


def counts(tensors):
    """How many to keep of each, in turn: none, one, a tenth, half, most and all of them."""
    return [[round(part * tensor.numel()) for tensor in tensors.values()] for part in (0, 1e-9, 0.1, 0.5, 0.95, 1)] + [
        [min(1, tensor.numel()) for tensor in tensors.values()]
    ]


def expected(tensor, k):
    """The mask, the threshold and the numbers by sorting."""
    order = torch.where(tensor.isnan(), -math.inf, tensor).flatten().sort(descending=True).values
    threshold = order[k - 1].item() if k else math.nan
    usable = tensor > -math.inf
    mask = usable & (tensor >= threshold)
    ties = usable & (tensor == threshold)
    return mask, threshold, [int(mask.sum()), int(ties.sum()), int(tensor.isnan().sum())]


def check(selected, tensors, keep):
    """Compares what was selected with `expected`."""
    masks, thresholds, numbers = selected
    for name, mask, found, number, k in zip(
        tensors, masks, thresholds.tolist(), numbers.t().tolist(), keep, strict=True
    ):
        right, threshold, wanted = expected(tensors[name].cpu(), k)
        assert mask.dtype == torch.bool
        assert torch.equal(mask.cpu(), right), (name, k)
        assert found == threshold or (math.isnan(found) and math.isnan(threshold)), (name, k)
        assert number == wanted, (name, k)


def expected_of_all(tensors, k):
    """The k-th largest of all, and how many of each are above it and how many equal."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    threshold = torch.where(flat.isnan(), -math.inf, flat).sort(descending=True).values[k - 1]
    parts = [tensor > threshold for tensor in tensors] + [tensor == threshold for tensor in tensors]
    return threshold, torch.stack([part.sum() for part in parts]).view(2, -1)


ROWS = [(1, 1), (7, 1), (300, 1), (1, 20_000), (7, 8192), (7, 8193), (300, 100), (3, 20_000), (5, 0)]
"""Numbers of rows and their lengths: a block of the kernels has 8192 values."""


def rows_of(dtype, rows, n):
    """Rows that are awkward by turns, with NaN in the last of them."""
    generator = torch.Generator().manual_seed(rows + n)
    found = torch.randn(rows, n, generator=generator, dtype=dtype)
    inf, small = math.inf, torch.finfo(dtype).smallest_normal / 4
    found[1::14] = -2.5  # equal
    found[2::14] = torch.randint(-3, 3, found[2::14].shape, generator=generator).to(dtype)  # many ties
    found[3::14, ::3] = -inf
    found[4::14] = -inf
    found[5::14, ::2] = inf
    found[6::14, : n // 2] = 0.0
    found[6::14, ::3] = -0.0
    found[8::14] *= small  # subnormal
    found[9::14] = found[9::14].abs()
    found[10::14, ::3] = torch.nan
    found[11::14, n // 2 :] = torch.nan
    found[11::14, ::2] = inf
    found[12::14] = -torch.nan
    return found


def counts_of_rows(rows, n):
    """How many to keep of each row: none, one, a tenth, half, all, and by turns.

    Of many rows by turns alone, for Triton's interpreter takes a second for a few hundred programs.
    """
    turns = [round(part * n) for part in (0, 1, 0.3, 0.5, 0.95, 0.1)]
    same = [[k] * rows for k in sorted({0, min(1, n), n // 10, n // 2, n})] if rows < 100 else []
    return [*same, [turns[row % len(turns)] for row in range(rows)]]


def check_rows(selected, values, keep):
    """Compares what was selected of rows with `expected` of each; with NaN, the number of NaN alone counts."""
    assert selected.mask.dtype == torch.bool
    assert selected.mask.shape == values.shape
    assert selected.numbers.shape == (3, len(values))
    found = zip(selected.mask.cpu(), selected.thresholds.tolist(), selected.numbers.t().tolist(), strict=True)
    for row, (mask, threshold, numbers) in enumerate(found):
        right, level, wanted = expected(values[row].cpu(), keep[row])
        assert numbers[2] == wanted[2], (row, keep[row])
        if not wanted[2]:
            assert torch.equal(mask, right), (row, keep[row])
            assert threshold == level or (math.isnan(threshold) and math.isnan(level)), (row, keep[row])
            assert numbers == wanted, (row, keep[row])


def kth_largest_plain(values, k):
    """The k-th largest of ``values`` (1-D) by torch.topk, on any device."""
    return values.topk(k, sorted=False).values.min()
