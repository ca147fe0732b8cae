"""Calling a module with other tensors in the place of its own."""

import pytest
import torch
from torch import nn
from torch.func import vmap

from openwork.core.stacked import call_with


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale  # a module that two of these share
        self.fc = nn.Linear(3, 3, bias=False)

    def forward(self, x):
        return self.fc(x) * self.scale.weight


class Net(nn.Module):
    """Shares a module and ties a weight."""

    def __init__(self):
        super().__init__()
        scale = nn.Linear(1, 1, bias=False)
        self.first, self.second = Scaled(scale), Scaled(scale)
        self.second.fc.weight = self.first.fc.weight
        self.register_buffer("shift", torch.ones(()))
        self.register_buffer("nothing", None)

    def forward(self, x):
        return self.second(self.first(x)) + self.shift


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def tensors(net):
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def test_shared_modules_and_tied_weights_get_the_tensor_of_their_first_name(net):
    other, x = Net(), torch.ones(2, 3)
    assert set(tensors(net)) == {"first.scale.weight", "first.fc.weight", "shift"}
    assert torch.equal(call_with(net, tensors(other), x), other(x))


def test_tensors_that_are_not_given_stay(net):
    x = torch.ones(2, 3)
    torch.testing.assert_close(call_with(net, {"shift": torch.zeros(())}, x), net(x) - 1, rtol=0, atol=1e-6)


def test_the_module_has_its_own_tensors_again_also_after_an_error(net):
    before = {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers(remove_duplicate=False))}
    stacked = {name: torch.stack([tensor.detach()] * 2) for name, tensor in tensors(net).items()}
    found = vmap(lambda each: call_with(net, each, torch.ones(2, 3)))(stacked)
    assert torch.equal(found[1], net(torch.ones(2, 3)))
    with pytest.raises(RuntimeError):
        call_with(net, tensors(Net()), torch.ones(2, 4))
    after = {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers(remove_duplicate=False))}
    assert all(after[name] is tensor for name, tensor in before.items())
