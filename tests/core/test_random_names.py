"""Parameters of any name, and containers that own one, with random weights."""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import openwork as ow

L0 = ow.L0(ow.Constant(1.0), dropout=0.5)
GAUSSIAN = ow.VariationalDropout(ow.Constant(1.0), log_sigma2=-3.0)
techniques = pytest.mark.parametrize("technique", [L0, GAUSSIAN], ids=lambda technique: type(technique).__name__)


class Odd(nn.Module):
    """Parameters by the names that dicts, containers and openwork itself use, and attributes of openwork's."""

    def __init__(self) -> None:
        super().__init__()
        for name in ODD:
            self.register_parameter(name, nn.Parameter(torch.randn(3, 3)))
        self._distributions = self.noise = self.drawn = "mine"

    def forward(self, x):
        for name in ODD:
            x = torch.tanh(x @ getattr(self, name))
        return x


ODD = ["keys", "values", "items", "pop", "update", "reparam", "reparam_", "_drawn", "noise_seed", "name", "data"]
ODD += ["forward_", "technique", "distribution", "weight", "mean", "clear"]


@techniques
@pytest.mark.parametrize("some", [ODD, ODD[::2], ODD[1::2], ["reparam"], ["_drawn"]], ids=len)
def test_parameters_may_have_any_name(some, technique):
    torch.manual_seed(0)
    model = Odd()
    sparsifier = ow.sparsify(model, technique, select=lambda name, parameter, module: name in some)
    assert [weight.name for weight in sparsifier.weights] == [name for name in ODD if name in some]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sparsifier.attach(optimizer)
    x = torch.randn(2, 3)
    for _ in range(2):
        (model(x).sum() + sparsifier.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sparsifier._mechanism.parameters().keys() <= dict(model.named_parameters()).keys()
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    twin.load_state_dict(model.state_dict())
    expected = model.eval()(x)
    assert torch.equal(twin.eval()(x), expected)
    plain = sparsifier.finalize()
    assert torch.equal(plain(x), expected)
    assert plain.state_dict().keys() == Odd().state_dict().keys()
    assert vars(plain).keys() == vars(Odd()).keys()


class Chain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 3), nn.Tanh())
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        return super().forward(x) @ self.weight + len(self)


class Listing(nn.ModuleList):
    def __init__(self) -> None:
        super().__init__([nn.Linear(3, 3), nn.Tanh()])
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        for layer in self:
            x = layer(x)
        return self[-1](x @ self.weight) + len(self)


class Keyed(nn.ModuleDict):
    def __init__(self) -> None:
        super().__init__({"first": nn.Linear(3, 3), "second": nn.Tanh()})
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        for name, layer in self.items():
            assert name in self
            x = layer(x)
        assert list(self) == list(self.keys()) == ["first", "second"]
        assert "reparam" not in self
        return list(self.values())[-1](x @ self.weight) + len(self)


class Parameters(nn.ParameterList):
    __call__ = nn.Module.__call__

    def __init__(self) -> None:
        super().__init__([torch.randn(3, 3), torch.randn(3, 3)])
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        for matrix in self:
            x = x @ matrix
        return x @ self.weight + len(self)


class Keyring(nn.ParameterDict):
    __call__ = nn.Module.__call__

    def forward(self, x):
        for matrix in self.values():
            x = x @ matrix
        return x + len(self)


CONTAINERS = [Chain, Listing, Keyed, Parameters, lambda: Keyring({"a": torch.randn(3, 3), "b": torch.randn(3, 3)})]


@dataclass(frozen=True)
class Unchanged(ow.Reparameterization):
    """The weights themselves, computed."""

    def distribution(self, weight, generator):
        return Same()


class Same(ow.ReparameterizedWeight):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def sample(self, weight, generator=None):
        return weight * self.one

    effective = sample


@pytest.mark.parametrize("make", CONTAINERS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_container_that_owns_a_weight_lists_its_own_modules_only(make, compiled):
    torch.manual_seed(0)
    model, x = make(), torch.randn(2, 3)
    expected = model(x)
    sparsifier = ow.sparsify(model, Unchanged(ow.Constant(1.0)), select=ow.all_parameters)
    torch._dynamo.reset()
    compute = torch.compile(model, backend="aot_eager") if compiled else model
    torch.testing.assert_close(compute(x), expected)
    torch.testing.assert_close(copy.deepcopy(model)(x), expected)
    assert any("reparam." in name for name in model.state_dict())
    torch.testing.assert_close(sparsifier.finalize()(x), expected)
    assert model.state_dict().keys() == make().state_dict().keys()
