"""Models with random weights, and their training alone or as one."""

import torch
from torch import nn
from torch.func import grad_and_value, vmap
from torch.nn import functional as F

import openwork as ow
from openwork.core.stacked import call_with, stack, stacked
from openwork.noise import key, keyed, keys

STEPS = 30
EPS = 1e-4  # of Adam: 1e-8 would make whole steps of gradients that are nothing but rounding


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(36, 16), nn.Linear(16, 5)

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(F.max_pool2d(torch.relu(self.conv(x)), 2).flatten(1))


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        x = torch.randn(20, 1, 6, 6, generator=generator).to(torch.get_default_dtype())
        yield x, x.flatten(1)[:, :5].argmax(1)


def made(kind, techniques):
    """A model and its sparsifier for each technique."""
    members = []
    for seed, technique in enumerate(techniques):
        torch.manual_seed(seed)
        model = kind()
        members.append((model, ow.sparsify(model, technique, seed=seed)))
    return members


def trained_alone(kind, techniques, rate):
    """The models and sparsifiers after training, one by one, and their last losses."""
    members, losses = made(kind, techniques), []
    for seed, (model, sparsifier) in enumerate(members):
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, eps=EPS)
        sparsifier.attach(optimizer)
        for step, (x, y) in enumerate(batches()):
            with keyed(torch.tensor(key(seed, step))):
                loss = F.cross_entropy(model(x), y) + sparsifier.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    return members, torch.tensor(losses)


class Fleet:
    """Models that are trained as one, by the first one's modules."""

    def __init__(self, kind, techniques):
        self.members = made(kind, techniques)
        (self.model, self.sparsifier), *_ = self.members
        names = dict(self.model.named_parameters())
        self.parameters = {n: stacked([dict(m.named_parameters())[n] for m, _ in self.members]) for n in names}
        buffers = dict(self.model.named_buffers())
        self.buffers = {n: stacked([dict(m.named_buffers())[n] for m, _ in self.members]) for n in buffers}
        self.mechanism = stack([sparsifier for _, sparsifier in self.members], self.parameters | self.buffers)

    def gradients(self, parameters, inputs, keys, batch):
        """The gradients and losses of all."""
        every = vmap(grad_and_value(self.objective), in_dims=(0, 0, 0, 0, None))
        return every(parameters, self.buffers, inputs, keys, batch)

    def objective(self, parameters, buffers, inputs, key, batch):
        x, y = batch
        with keyed(key), self.mechanism.using(inputs):
            return call_with(Objective(self.model, self.sparsifier), _inside(parameters | buffers), x, y)

    def train(self, rate):
        """The last losses."""
        optimizer = torch.optim.Adam(list(self.parameters.values()), lr=rate, eps=EPS)
        seeds = torch.arange(len(self.members))
        for step, batch in enumerate(batches()):
            gradients, losses = self.gradients(self.parameters, self.mechanism.inputs, keys(seeds, step), batch)
            self.mechanism.before_step(gradients)
            for name, parameter in self.parameters.items():
                parameter.grad = gradients[name]
            optimizer.step()
            self.mechanism.after_step()
            self.mechanism.update(step + 1)
        return losses


class Objective(nn.Module):
    """The loss and the penalty, in one call, so that functional_call gives both the same tensors."""

    def __init__(self, model, sparsifier):
        super().__init__()
        self.model, self.sparsifier = model, sparsifier

    def forward(self, x, y):
        return F.cross_entropy(self.model(x), y) + self.sparsifier.penalty()


def _inside(parameters):
    return {f"model.{name}": parameter for name, parameter in parameters.items()}
