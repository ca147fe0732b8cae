"""Any order of the channels that may change places, drawn at random, to see that the model computes the same."""

import torch

from openwork.inference.models import relative_difference
from openwork.inference.permute.order import source
from openwork.inference.permute.rules import follow
from openwork.inference.shrink.trace import outputs, trace


def shuffled(model, example, seed=0):
    """Draws an order for each cell, in place; returns how many channels each has, and how much outputs differ."""
    model.eval()
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    before = outputs(model, example)
    order = follow(trace(model, example).with_one_name(tensors), tensors)
    roots = order.roots()
    cells = order.cells(roots)
    generator = torch.Generator().manual_seed(seed)
    for cell in cells:
        drawn = cell[torch.randperm(len(cell), generator=generator)]
        now = dict(zip(cell.tolist(), drawn.tolist(), strict=True))
        with torch.no_grad():
            for name, axes in order.axes.items():
                for dim, ids in enumerate(axes):
                    if (comes := source(roots, ids, now)) is not None:
                        tensors[name].copy_(tensors[name].index_select(dim, comes))
    after = outputs(model, example)
    far = max(relative_difference(a, b) for a, b in zip(before, after, strict=True))
    return sorted(len(cell) for cell in cells), far
