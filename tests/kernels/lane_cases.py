"""Matrices that are awkward to pack into lanes."""

import torch


def matrices(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """By name; the shapes are no multiples of anything."""
    generator = torch.Generator().manual_seed(0)

    def random(rows: int, inputs: int, sparsity: float) -> torch.Tensor:
        weight = torch.randn(rows, inputs, generator=generator)
        return weight * (torch.rand(rows, inputs, generator=generator) >= sparsity)

    empty_rows = random(37, 300, 0.5)
    empty_rows[[0, 5, 36]] = 0
    uneven = random(33, 600, 0.99)
    uneven[7] = 1
    ends = torch.zeros(3, 1000)
    ends[:, 0], ends[:, -1] = 1, -2
    made = {
        "half": random(40, 257, 0.5),
        "empty rows": empty_rows,
        "one long row": uneven,
        "far apart": random(16, 5000, 0.999),
        "first and last": ends,
        "dense": random(5, 64, 0.0),
        "all zero": torch.zeros(9, 5),
        "one row": random(1, 2000, 0.9),
        "one column": random(70, 1, 0.5),
        "one weight": torch.tensor([[3.0]]),
    }
    return {name: weight.to(dtype) for name, weight in made.items()}
