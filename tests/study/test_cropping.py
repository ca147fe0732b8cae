from itertools import islice

import pytest
import torch
from torch.nn import functional as F

from openwork.study.data.batches import cropped_batches, shuffled_batches
from openwork.study.data.images import Images

generator = torch.Generator().manual_seed(0)
# No zero, so that the padding shows; the first channel's first pixel is the image's number.
PIXELS = torch.randint(30, 256, (21, 3, 5, 6), generator=generator).to(torch.uint8)
PIXELS[:, 0, 0, 0] = torch.arange(1, 22)
DATA = Images(PIXELS, torch.arange(21))


def crops(image: torch.Tensor, padding: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop of an image, with its place and whether it is mirrored."""
    padded = F.pad(image, [padding] * 4)
    places = [(top, left) for top in range(2 * padding + 1) for left in range(2 * padding + 1)]
    found = {}
    for top, left in places:
        crop = padded[:, top : top + 5, left : left + 6]
        found[crop.numpy().tobytes()] = (top, left, False)
        found[crop.flip(2).numpy().tobytes()] = (top, left, True)
    return found


def test_each_image_is_a_crop_of_its_padded_self_and_every_crop_comes():
    seen = []
    for images, labels in islice(cropped_batches(DATA, 7, seed=0, padding=1), 3 * 40):
        assert images.shape == (7, 3, 5, 6)
        assert images.dtype == torch.uint8
        for image, label in zip(images, labels, strict=True):
            seen.append(crops(PIXELS[label], 1)[image.contiguous().numpy().tobytes()])
    assert len(set(seen)) == 3 * 3 * 2
    mirrored = sum(flipped for _, _, flipped in seen)
    assert abs(mirrored - 420) < 6 * 14.5  # 6 sigma of 840 fair coins


def test_the_order_is_that_without_cropping_and_the_layout_is_channels_last():
    plain, cropped = (islice(batches(DATA, 4, seed=5), 12) for batches in (shuffled_batches, cropped_batches))
    for (_, expected), (images, labels) in zip(plain, cropped, strict=True):
        assert torch.equal(expected, labels)
        assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("start", [0, 1, 3, 5, 12])
def test_a_resumed_run_sees_the_crops_of_an_uninterrupted_one(start):
    whole = list(islice(cropped_batches(DATA, 7, seed=2), start + 4))
    resumed = list(islice(cropped_batches(DATA, 7, seed=2, start=start), 4))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[start:], resumed, strict=True))


def test_seeds_and_epochs_have_their_own_crops_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first, second = ([x for x, _ in islice(cropped_batches(DATA, 21, seed=seed), 2)] for seed in (0, 1))
    different = {image.contiguous().numpy().tobytes() for x in (*first, *second) for image in x}
    assert len(different) >= 80  # of 4 · 21: an image has 162 crops, so 0.8 coincidences are expected
    assert torch.equal(before, torch.get_rng_state())


def test_without_padding_only_mirroring_is_left():
    for images, labels in islice(cropped_batches(DATA, 7, seed=0, padding=0), 3):
        for image, label in zip(images, labels, strict=True):
            assert torch.equal(image, PIXELS[label]) or torch.equal(image.flip(2), PIXELS[label])


def test_impossible_arguments_raise_at_once():
    with pytest.raises(ValueError, match="padding must be >= 0, got -1"):
        cropped_batches(DATA, 7, seed=0, padding=-1)
    with pytest.raises(ValueError, match="batch_size must be in"):
        cropped_batches(DATA, 22, seed=0)


@pytest.mark.gpu
def test_crops_are_the_same_on_a_gpu():
    there = Images(DATA.images.cuda(), DATA.labels.cuda())
    pairs = zip(cropped_batches(DATA, 7, seed=0), islice(cropped_batches(there, 7, seed=0), 9), strict=False)
    assert all(torch.equal(a[0], b[0].cpu()) and torch.equal(a[1], b[1].cpu()) for a, b in pairs)
