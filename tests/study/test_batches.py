"""Images in memory: their dtypes and shapes, how they are centred, and the order in which batches take them."""

from itertools import islice

import pytest
import torch

from openwork.study.data.batches import ordered_batches, shuffled_batches
from openwork.study.data.digits import digits
from openwork.study.data.images import Images, centered
from tests.helpers import raises


def numbered(size: int) -> Images:
    """Image i is the single value i, its label is 10 i."""
    numbers = torch.arange(size)
    return Images(numbers.to(torch.uint8).view(-1, 1, 1, 1), 10 * numbers)


@pytest.mark.parametrize(
    ("images", "labels", "parts"),
    [
        (torch.zeros(2, 3, 3), torch.zeros(2).long(), ["(N, C, H, W)", "got (2, 3, 3) in torch.float32; add"]),
        (torch.zeros(2, 1, 3, 3).long(), torch.zeros(2).long(), ["uint8 or float32", "in torch.int64"]),
        (torch.zeros(2, 1, 3, 3), torch.zeros(2), ["labels must be (N,) in int64, got (2,) in torch.float32"]),
        (torch.zeros(2, 1, 3, 3), torch.zeros(3).long(), ["got 2 images on cpu and 3 labels on cpu"]),
    ],
)
def test_images_must_be_images_with_labels(images, labels, parts):
    with raises(ValueError, *parts):
        Images(images, labels)


def test_centered_subtracts_the_training_mean_from_both_sets():
    train = Images(torch.tensor([[[[0, 8]]], [[[4, 16]]]], dtype=torch.uint8), torch.tensor([0, 1]))
    test = Images(torch.tensor([[[[16, 0]]]], dtype=torch.uint8), torch.tensor([2]))
    train, test = centered(train, test, 16)
    # mean image 2/16, 12/16
    assert train.images.tolist() == [[[[-0.125, -0.25]]], [[[0.125, 0.25]]]]
    assert test.images.tolist() == [[[[0.875, -0.75]]]]
    assert (train.images.dtype, train.labels.tolist(), test.labels.tolist()) == (torch.float32, [0, 1], [2])


def test_centered_refuses_what_it_cannot_center():
    data = numbered(2)
    with raises(ValueError, "uint8 images as read, got torch.float32", "were they centered before?"):
        centered(*centered(data, data, 16), 16)
    with raises(ValueError, "scale must be > 0, got 0"):
        centered(data, data, 0)
    with raises(ValueError, "needs training images, got none"):
        centered(numbered(0), data, 16)
    with raises(ValueError, "one size, got (1, 1, 1) and (1, 8, 8)"):
        centered(data, digits("test"), 16)


# --- batches --------------------------------------------------------------------------------------------------------


def drawn(count: int, *, seed: int = 0, start: int = 0) -> list[list[int]]:
    """The image numbers of some batches of 3 out of 7."""
    batches = islice(shuffled_batches(numbered(7), 3, seed=seed, start=start), count)
    return [images.flatten().tolist() for images, _ in batches]


def test_an_epoch_of_7_images_is_two_batches_of_3_different_ones():
    for first, second in zip(*[iter(drawn(20))] * 2, strict=True):
        assert len(first) == len(second) == 3
        assert len({*first, *second}) == 6


def test_all_images_come_when_the_batch_size_divides_their_number():
    batches = shuffled_batches(numbered(6), 2, seed=0)
    assert sorted(torch.cat([next(batches)[0] for _ in range(3)]).flatten().tolist()) == [0, 1, 2, 3, 4, 5]


def test_labels_go_with_their_images():
    for images, labels in islice(shuffled_batches(numbered(7), 3, seed=0), 10):
        assert torch.equal(labels, 10 * images.flatten().long())


@pytest.mark.parametrize("start", range(9))  # begins, middles and ends of epochs
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(start):
    assert drawn(6, start=start) == drawn(15)[start : start + 6]


def test_a_start_far_away_is_found_at_once():
    assert drawn(1, start=10**12 + 1) == [drawn(2, start=10**12)[1]]


def test_seeds_and_epochs_have_their_own_permutations():
    # 1 and 1 + 2³² are one seed for torch's CPU generator, and a naive hash confuses (1 + 2³², 0) with (1, 1)
    orders = [
        tuple(next(shuffled_batches(numbered(50), 50, seed=seed, start=epoch))[0].flatten().tolist())
        for seed in (0, 1, 1 + 2**32)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9


def test_the_order_is_pinned_so_that_old_runs_can_be_resumed():
    assert drawn(4, seed=5) == [[4, 2, 5], [3, 1, 6], [0, 5, 6], [4, 3, 1]]


def test_shuffling_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    drawn(4)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch_size", [0, 8])
def test_an_impossible_batch_size_raises_at_once(batch_size):
    with raises(ValueError, f"batch_size must be in [1, 7], the number of images, got {batch_size}; an epoch"):
        shuffled_batches(numbered(7), batch_size, seed=0)


def test_negative_seeds_and_starts_raise_at_once():
    with raises(ValueError, "seed and start must be >= 0, got -1 and 0"):
        shuffled_batches(numbered(7), 3, seed=-1)
    with raises(ValueError, "seed and start must be >= 0, got 0 and -2"):
        shuffled_batches(numbered(7), 3, seed=0, start=-2)


def test_ordered_batches_give_every_image_once():
    batches = [(images.flatten().tolist(), labels.tolist()) for images, labels in ordered_batches(numbered(5), 2)]
    assert batches == [([0, 1], [0, 10]), ([2, 3], [20, 30]), ([4], [40])]
    assert len(list(ordered_batches(numbered(5), 100))) == 1
    assert list(ordered_batches(numbered(0), 100)) == []


def test_ordered_batches_need_a_batch_size():
    with raises(ValueError, "batch_size must be at least 1, got 0"):
        ordered_batches(numbered(5), 0)


@pytest.mark.gpu
def test_the_order_is_the_same_on_a_gpu():
    here = numbered(7)
    there = Images(here.images.cuda(), here.labels.cuda())
    for (x, y), (u, v) in islice(
        zip(shuffled_batches(here, 3, seed=1), shuffled_batches(there, 3, seed=1), strict=True), 5
    ):
        assert u.is_cuda
        assert torch.equal(x, u.cpu())
        assert torch.equal(y, v.cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [3, 16.0, 255])
def test_centered_is_the_same_on_a_gpu_to_the_last_bit(scale):
    pixels = torch.randint(256, (1001, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    here = Images(pixels, torch.zeros(1001, dtype=torch.int64))
    there = Images(here.images.cuda(), here.labels.cuda())
    for cpu, gpu in zip(centered(here, here, scale), centered(there, there, scale), strict=True):
        assert gpu.images.is_cuda
        assert torch.equal(cpu.images, gpu.images.cpu())
