"""Small models whose blocks are wired as those of others are."""

import torch
from torch import nn

import openwork as ow
from openwork.core.masks.inputs import counting

HALF = ow.Wanda(ow.OneShot(0.5))


class Layer(nn.Module):
    """x + two linear layers; with a scale, a tuple, or a mask if asked."""

    def __init__(self, width=8, *, tuples=False):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.tuples = tuples

    def forward(self, hidden, scale=None):
        out = hidden + self.down(self.up(hidden).relu())
        out = out if scale is None else out * scale
        return (out, None) if self.tuples else out


class Stack(nn.Module):
    """An embedding, layers that are wired as ``how`` says, and a head."""

    def __init__(self, how="plain", layers=3, width=8, words=20):
        super().__init__()
        self.how = how
        self.embedding = nn.Embedding(words, width)
        self.layers = nn.ModuleList(Layer(width, tuples=how == "tuples") for _ in range(layers))
        self.head = nn.Linear(width, words)

    def forward(self, ids, attention_mask=None):
        x = self.embedding(ids)
        scale = torch.ones(x.shape[1])[:, None]
        for number, layer in enumerate(self.layers):
            if self.how == "tuples":
                x = layer(x)[0]
            elif self.how == "names":
                x = layer(scale=scale, hidden=x)
            elif self.how == "in place":
                x = layer(x)
                x += 1
            elif self.how == "something between":
                x = layer(x).tanh()
            elif self.how == "a scale that depends on inputs":
                x = layer(x, x.mean() if number else scale)
            elif self.how == "a scale of each layer's own":
                x = layer(x, scale * number)
            elif self.how == "twice":
                x = layer(layer(x))
            else:
                x = layer(x)
        return self.head(x)


HOWS = {  # and how many chains its layers make
    "plain": 1, "tuples": 1, "names": 1, "a scale of each layer's own": 1, "in place": 3, "something between": 3,
    "a scale that depends on inputs": 3, "twice": 3,
}  # fmt: skip


def stack(how="plain", **settings):
    torch.manual_seed(0)
    return Stack(how, **settings)


def ids(batches=3, examples=2, length=7, words=20):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(words, (examples, length), generator=generator) for _ in range(batches)]


def pruned_block_by_block(model, technique, batches, blocks, *, among=None):
    """The plain twin: the whole model runs for every block, with all blocks before it pruned."""

    def run(model):
        for batch in batches:
            mask = batch.get("attention_mask") if isinstance(batch, dict) else None
            with counting(() if mask is None else (mask.bool(),)):
                model(**batch) if isinstance(batch, dict) else model(batch)

    training = model.training
    model.eval()
    for name in blocks:
        inside = {id(module) for module in model.get_submodule(name).modules()}

        def select(name, parameter, module, inside=inside):
            return id(module) in inside and parameter.dim() > 1 and (among is None or name in among)

        ow.sparsify(model, technique, select=select, calibrate=run).finalize()
    return model.train(training)
