"""Random weights of models that are trained as one: each is trained as it would be alone."""

import pytest
import torch
from torch import nn
from torch.func import grad_and_value, vmap
from torch.nn import functional as F

import openwork as ow
from openwork.core.stacked import call_with, stacked
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
        mechanisms = [sparsifier._mechanism for _, sparsifier in self.members]
        self.mechanism = type(mechanisms[0]).stack(mechanisms, self.parameters)
        self.gradients = vmap(grad_and_value(self.objective), in_dims=(0, 0, 0, None))

    def objective(self, parameters, inputs, key, batch):
        x, y = batch
        with keyed(key), self.mechanism.using(inputs):
            return call_with(Objective(self.model, self.sparsifier), _inside(parameters), x, y)

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


RAMP = {"begin": 5, "end": 20}
TECHNIQUES = {
    "variational dropout": [
        ow.VariationalDropout(ow.Linear(c, **RAMP), log_sigma2=s, threshold=t)
        for c, s, t in ((1e-3, -6.0, 3.0), (1e-2, -4.0, 3.0), (1e-2, -2.0, 1.0), (3e-2, -3.0, 0.0))
    ],
    "variational dropout, clipped": [
        ow.VariationalDropout(ow.Constant(c), log_sigma2=-2.0, threshold=t, train_clip=True)
        for c, t in ((1e-4, 2.0), (1e-3, 2.0), (1e-3, 3.0), (3e-3, 4.0))
    ],
    "L0": [
        ow.L0(ow.Cubic(c, **RAMP), dropout=p, weight_decay=1e-3)
        for c, p in ((1e-4, 0.5), (1e-5, 0.9), (1e-4, 0.91), (1e-3, 0.92))
    ],
    "group L0": [
        ow.GroupL0(ow.Constant(c), dropout=p) for c, p in ((1e-4, 0.5), (1e-5, 0.9), (1e-4, 0.91), (1e-3, 0.92))
    ],
    "soft weight sharing": [ow.SoftWeightSharing(ow.Constant(c), components=4) for c in (1e-5, 1e-4, 1e-3, 1e-2)],
}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def tolerance(request, monkeypatch):
    """Of what training ends with."""
    torch.set_default_dtype(request.param)
    yield dict.fromkeys(("rtol", "atol"), 1e-3 if request.param == torch.float32 else 1e-10)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", [Perceptron, Convolutional])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_models_that_are_trained_as_one_end_where_each_does_alone(kind, name, tolerance):
    # A mean near zero amplifies rounding, the more so where it is clipped: at a high rate the last bits would decide.
    rate = 0.02 if name != "variational dropout, clipped" else 0.005
    alone, losses = trained_alone(kind, TECHNIQUES[name], rate)
    fleet = Fleet(kind, TECHNIQUES[name])
    torch.testing.assert_close(fleet.train(rate), losses, **tolerance)
    zeros, expected = fleet.mechanism.zeros(), fleet.mechanism.expected_nonzero()
    for member, ((model, sparsifier), (ours, _)) in enumerate(zip(alone, fleet.members, strict=True)):
        theirs = dict(ours.named_parameters())
        for parameter, value in model.named_parameters():
            torch.testing.assert_close(theirs[parameter], value, **tolerance)
        mechanism = sparsifier._mechanism
        assert {weight: int(count[member]) for weight, count in zeros.items()} == mechanism.zeros()
        found = {weight: float(count[member]) for weight, count in expected.items()}
        assert found == pytest.approx(mechanism.expected_nonzero(), rel=1e-3)
    assert len({int(count) for count in sum(zeros.values())}) > 1  # the numbers that differ matter
