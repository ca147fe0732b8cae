"""Models with dead units, for the tests of `shrink`."""

import torch
from torch import nn

import openwork as ow


@torch.no_grad()
def dead(layer, outputs=(), inputs=(), *, bias=True):
    """The layer with zero weights for these outputs and inputs; ``bias`` says whether the outputs keep theirs."""
    layer.weight[list(outputs)] = 0
    layer.weight[:, list(inputs)] = 0
    if layer.bias is not None and not bias:
        layer.bias[list(outputs)] = 0
    return layer


@torch.no_grad()
def lively(model, generator=None):
    """The model with batch norms as training leaves them, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                module.weight.normal_(generator=generator)
                module.bias.normal_(generator=generator)
    return model.eval()


class Net(nn.Module):
    """4-6-5-2, where unit 1 of ``a`` is dead, nobody reads its unit 3, and unit 2 of ``b`` is dead."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = dead(nn.Linear(4, 6), [1]), dead(nn.Linear(6, 5), [2], [3]), nn.Linear(5, 2)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


def net(forward):
    """The same net with another forward."""
    return type("Own", (Net,), {"forward": forward})()


def shapes(shrunk):
    return {name: tuple(p.shape) for name, p in shrunk.model.named_parameters() if p.dim() > 1}


def shrink(model, example, other=None):
    """`ow.shrink`, whose outputs are those of the model: for the example, and for an input of another batch size."""
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shrunk = ow.shrink(model, example)
    assert kept.keys() == shrunk.model.state_dict().keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    for x in [example] if other is None else [example, other]:
        arguments = x if isinstance(x, tuple) else (x,)
        with torch.no_grad():
            expected, found = (run.eval()(*arguments) for run in (model, shrunk.model))
        precise = expected.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=0, atol=(1e-12 if precise else 1e-5) * expected.abs().max())
    return shrunk


def reasons(shrunk):
    return {why for tensor in shrunk.tensors for _, why in tensor.kept}
