"""The batches of several runs at once."""

from dataclasses import dataclass
from itertools import islice

import pytest
import torch

from openwork.study.tasks.lenet import DigitsLeNet300100
from openwork.study.tasks.stacked import stacked_batches, taking
from tests.study.tinylab import Tiny

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Mirrored(DigitsLeNet300100):
    """With batches of its own."""

    def batches(self, seed, start, device):
        return ((images.flip(3), labels) for images, labels in super().batches(seed, start, device))


@pytest.mark.parametrize("task", [DigitsLeNet300100(), Mirrored(), Tiny()], ids=lambda task: type(task).__name__)
def test_stacked_batches_are_those_of_the_runs(task):
    take = taking(task, CPU)
    for number, batch in enumerate(islice(stacked_batches(task, [task, task], [3, 5], 10, CPU), 2)):
        x, labels = take(batch)
        for place, seed in enumerate((3, 5)):
            own = next(iter(task.batches(seed, 10 + number, CPU)))
            assert torch.equal(x[place], own[0])
            assert torch.equal(labels[place], own[1])


def test_images_may_be_taken_as_products_round_them():
    task = DigitsLeNet300100()
    index = next(iter(stacked_batches(task, [task, task], [3, 5], 10, CPU)))
    images, _ = task.taking(CPU)(index)
    rounded, _ = task.taking(CPU, torch.bfloat16)(index)
    assert torch.equal(rounded, images.bfloat16())
