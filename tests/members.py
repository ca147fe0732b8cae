"""Small models that are trained alone, or stacked by a plain loop that does all that a fleet must do."""

import torch
from torch import nn
from torch.nn import functional as F

import openwork as ow
from openwork.core.stacked import stack, stacked
from tests.helpers import conv_net, image_batches


def forward(model):
    """One batch through conv_net, for techniques that look at inputs."""
    model(next(image_batches())[0])


class Member:
    """One model, its sparsifier and its optimizer, all from a seed of its own."""

    def __init__(self, technique, seed=0, *, keep_zeros=False, attach=True, model=conv_net):
        torch.manual_seed(seed)
        self.model = model()
        if keep_zeros:
            with torch.no_grad():
                self.model[3].weight[seed::5] = 0
        calibrate = forward if technique.evidence.inputs else None
        self.sparsifier = ow.sparsify(self.model, technique, seed=seed, keep_zeros=keep_zeros, calibrate=calibrate)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        if attach:
            self.sparsifier.attach(self.optimizer)
        self.batches = image_batches(seed)

    def loss(self):
        """That of the next batch."""
        x, y = next(self.batches)
        return F.cross_entropy(self.model(x), y)

    def train(self, steps):
        """Trains alone."""
        for _ in range(steps):
            self.loss().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self

    def state(self):
        """The model's and the sparsifier's."""
        return {"model": self.model.state_dict(), "sparsifier": self.sparsifier.state_dict()}


class Together:
    """Members that are trained as one. Gradients are each member's own, so that all must be equal bit for bit."""

    def __init__(self, members, *, many=False):
        self.members = members
        named = [dict(member.model.named_parameters()) for member in members]
        self.parameters = {name: stacked([each[name] for each in named]) for name in named[0]}
        self.masks = stack([member.sparsifier for member in members], self.parameters)
        self.masks.many = many
        self.optimizer = torch.optim.Adam(list(self.parameters.values()), lr=0.01)
        self.step = members[0].sparsifier.steps
        self.updates = []

    def gradients(self):
        """Stacked, by parameter that is trained."""
        named = [dict(member.model.named_parameters()) for member in self.members]
        trained = [name for name, parameter in named[0].items() if parameter.requires_grad]
        pairs = zip(self.members, named, strict=True)
        found = [torch.autograd.grad(member.loss(), [each[name] for name in trained]) for member, each in pairs]
        return {name: torch.stack(each) for name, each in zip(trained, zip(*found, strict=True), strict=True)}

    def train(self, steps):
        """Trains all members."""
        for _ in range(steps):
            self.step += 1
            gradients = self.gradients()
            self.masks.take(self.step, gradients)
            self.masks.before_step(gradients)
            for name, parameter in self.parameters.items():
                parameter.grad = gradients.get(name)
            self.optimizer.step()
            self.masks.after_step()
            self.updates.append(self.masks.update(self.step))
            for name, masks in self.masks.masks.items():
                for state in self.optimizer.state[self.parameters[name]].values():
                    if state.shape == masks.shape:
                        for member in self.updates[-1].changed:
                            state[member].masked_fill_(masks[member] == 0, 0)
        for member in self.members:
            member.sparsifier.count_to(self.step)
        return self

    def optimizer_state(self, member):
        """The rows of one member, as its own optimizer would save them."""
        state = {
            number: {key: (value[member] if value.dim() else value).clone() for key, value in values.items()}
            for number, values in enumerate(self.optimizer.state.values())
        }
        return self.members[member].optimizer.state_dict() | {"state": state}


def equal(one, other):
    """Asserts that two states are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            equal(one[key], other[key])
    else:
        assert one == other


def random_steps(techniques, *, many, steps=12, device="cpu", dtype=torch.float32):
    """The sparsifiers' states of stacked linear models after some steps on random gradients.

    Args:
        techniques: One for each model.
        many: Whether the masks of many members are chosen at once.
        steps: How many steps.
        device: Where.
        dtype: That of the models.
    """
    found = []
    for seed, technique in enumerate(techniques):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 10)).to(device, dtype)
        found.append(ow.sparsify(model, technique, seed=seed))
    named = [dict(sparsifier.model.named_parameters()) for sparsifier in found]
    parameters = {name: stacked([each[name] for each in named]) for name in named[0]}
    masks = stack(found, parameters)
    assert masks.many == (device != "cpu")
    masks.many = many
    optimizer = torch.optim.Adam(list(parameters.values()), lr=0.01, eps=1e-4)
    generator = torch.Generator(device).manual_seed(0)
    for step in range(1, steps + 1):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator, device=device).to(dtype)
        gradients = {name: parameter.grad for name, parameter in parameters.items()}
        masks.take(step, gradients)
        masks.before_step(gradients)
        optimizer.step()
        masks.after_step()
        masks.update(step)
    return [sparsifier.state_dict() for sparsifier in found]
