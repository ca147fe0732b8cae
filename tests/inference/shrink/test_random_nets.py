"""`shrink` on random networks with random dead units: outputs stay equal, by the proof alone."""

import pytest
import torch

import openwork.inference.shrink.smaller as implementation
from tests.inference.shrink.dead import shrink
from tests.inference.shrink.random_nets import convolutional, random_net, sequential

pytestmark = pytest.mark.usefixtures("operators_collected_once")


def check(make, seed, shapes, monkeypatch):
    attempts, attempt = [], implementation._attempt
    monkeypatch.setattr(implementation, "_attempt", lambda *given: attempts.append(given) or attempt(*given))
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    shrink(random_net(make, seed), *inputs)
    assert len(attempts) == 1  # no line of code had to be refused, since a proof was wrong


@pytest.mark.parametrize("seed", range(10))
def test_random_convolutional_networks_compute_the_same(seed, monkeypatch):
    check(convolutional, seed, [(2, 3, 10, 10), (3, 3, 11, 9)], monkeypatch)


@pytest.mark.parametrize("seed", range(10))
def test_random_parts_of_transformers_compute_the_same(seed, monkeypatch):
    check(sequential, seed, [(2, 4, 5), (3, 6, 5)], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("hundred", [0, 1, 2])
@pytest.mark.parametrize(
    ("make", "shapes"), [(convolutional, [(2, 3, 10, 10), (3, 3, 11, 9)]), (sequential, [(2, 4, 5), (3, 6, 5)])]
)
def test_hundreds_of_random_networks_compute_the_same(make, shapes, hundred, monkeypatch):
    for seed in range(100 * hundred + 10, 100 * hundred + 110):
        with monkeypatch.context() as patch:
            check(make, seed, shapes, patch)
