"""A small model, and the code that a recipe becomes, executed on it."""

import torch
from torch import nn

MODEL = {"fc1": (16, 32), "fc2": (32, 16), "head": (16, 4)}


class Model(nn.Sequential):
    """Linear layers fc1, fc2 and head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        for name, (inputs, outputs) in MODEL.items():
            self.add_module(name, nn.Linear(inputs, outputs))


def execute(code, steps=30, *, zeros=()):
    """Runs the printed code with ten batches an epoch; the model, and its sparsity after every step."""
    model, seen = Model(), []
    for layer, rows in zeros:
        with torch.no_grad():
            model.get_submodule(layer).weight[:rows] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    batches = [torch.randn(8, 16, generator=torch.Generator().manual_seed(number)) for number in range(10)]

    def train(model, optimizer):
        for step in range(steps):
            optimizer.zero_grad()
            model(batches[step % 10]).square().mean().backward()
            optimizer.step()
            seen.append(sparsity(model))

    exec(compile(code, "recipe", "exec"), {"model": model, "optimizer": optimizer, "loader": batches,
                                           "batches": batches, "train": train})  # fmt: skip
    return model, seen


def sparsity(model, *layers):
    weights = [model.get_submodule(name).weight for name in layers or MODEL]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


GRADUAL = """
modifiers:
  - !{kind}
    init_sparsity: 0.05
    final_sparsity: 0.75
    start_epoch: 0.5
    end_epoch: 2.0
    update_frequency: 0.5
    params: {params}
{more}
"""


def gradual(kind="GMPruningModifier", params="__ALL_PRUNABLE__", more=""):
    return GRADUAL.format(kind=kind, params=params, more=more)
