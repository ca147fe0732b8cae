"""What the weights of a technique add to the loss: each class of distribution is asked once for all of its weights."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import openwork as ow


class Flat(ow.ReparameterizedWeight):
    """Costs the coefficient times the number of elements, and notes what was asked."""

    asked: list[tuple[str, list[tuple[int, ...]]]]

    def sample(self, weight, generator=None):
        return weight

    def effective(self, weight):
        return weight

    def penalty(self, weight):
        return weight.new_tensor(weight.numel())

    @classmethod
    def costs(cls, distributions, weights, coefficient):
        assert all(type(each) is cls for each in distributions)
        Flat.asked.append((cls.__name__, [tuple(weight.shape) for weight in weights]))
        return coefficient * sum(weight.numel() for weight in weights)


class Other(Flat):
    """Inherits what all weights cost."""


class Dear(Flat):
    """Has a penalty of its own, so what Flat would say of all weights is not for it."""

    def penalty(self, weight):
        return weight.new_tensor(1000.0)


@dataclass(frozen=True)
class Mixed(ow.Reparameterization):
    kinds: tuple[type[Flat], ...] = (Flat,)

    def distributions(self, weights, generators):
        return [kind() for kind in self.kinds]

    def distribution(self, weight, generator):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def asked():
    Flat.asked = []
    return Flat.asked


def three():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 5))  # 6, 12 and 20 weights


def test_a_class_is_asked_once_for_all_of_its_weights(asked):
    sparsifier = ow.sparsify(three(), Mixed(ow.Constant(0.5), kinds=(Flat, Flat, Flat)))
    assert sparsifier.penalty().item() == 0.5 * 38
    assert asked == [("Flat", [(3, 2), (4, 3), (5, 4)])]


def test_each_class_is_asked_for_its_own(asked):
    sparsifier = ow.sparsify(three(), Mixed(ow.Constant(0.5), kinds=(Flat, Other, Flat)))
    assert sparsifier.penalty().item() == 0.5 * 38
    assert asked == [("Flat", [(3, 2), (5, 4)]), ("Other", [(4, 3)])]


def test_a_subclass_with_a_penalty_of_its_own_is_asked_for_it(asked):
    sparsifier = ow.sparsify(three(), Mixed(ow.Constant(0.5), kinds=(Flat, Dear, Dear)))
    assert sparsifier.penalty().item() == 0.5 * 6 + 0.5 * 2000
    assert asked == [("Flat", [(3, 2)])]


def test_half_precision_weights_are_asked_in_float32():
    model = three().to(torch.float16)
    sparsifier = ow.sparsify(model, Mixed(ow.Constant(4096.0), kinds=(Flat,) * 3))
    assert sparsifier.penalty().dtype == torch.float32
    assert sparsifier.penalty().item() == 4096 * 38  # more than float16 holds
