from itertools import pairwise

import torch
from torch import nn

import openwork as ow


def masks_over_time(seed: int) -> list[torch.Tensor]:
    model = nn.Linear(40, 50)
    sparsifier = ow.sparsify(model, ow.RandomPruning(ow.Linear(0.9, end=9, every=1)), seed=seed)
    masks = []
    for _ in range(9):
        sparsifier.step()
        masks.append(sparsifier.state_dict()["masks"]["weight"])
    return masks


def test_random_pruning_never_reactivates():
    masks = masks_over_time(seed=0)
    for before, after in pairwise(masks):
        assert not (after & ~before).any()
    assert [int(mask.sum()) for mask in masks] == [1800, 1600, 1400, 1200, 1000, 800, 600, 400, 200]


def test_random_pruning_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = masks_over_time(seed=0)
    torch.manual_seed(2)
    assert torch.equal(first[-1], masks_over_time(seed=0)[-1])
    assert not torch.equal(first[-1], masks_over_time(seed=1)[-1])


def test_random_pruning_is_uniform_over_the_tensor():
    kept = sum(masks_over_time(seed)[-1].double() for seed in range(40))
    rows = kept.mean(1) / 40
    # 1600 draws of probability 0.1 a row: 6 sigma is 6 * sqrt(0.09 / 1600) = 0.045
    assert ((rows - 0.1).abs() < 0.045).all()


def test_a_falling_schedule_does_not_bring_weights_back():
    model = nn.Linear(10, 10)
    sparsifier = ow.sparsify(model, ow.RandomPruning(ow.Linear(0.2, initial=0.8, end=4, every=1)))
    counts = []
    for _ in range(4):
        sparsifier.step()
        counts.append(int((model.weight != 0).sum()))
    assert counts == [35, 35, 35, 35]  # s(1) = 0.65
