import pytest
import torch

from openwork.study.data.images import Images
from openwork.study.data.whitening import whitened


def images(count: int, seed: int, shape: tuple[int, ...] = (2, 3, 2)) -> Images:
    """Pixels that depend on each other, but for the last one, which is always 7."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 100, (count, 12), generator=generator)
    pixels = torch.cat([pixels[:, :11] + pixels[:, 1:], torch.full((count, 1), 7)], 1)
    return Images(pixels.to(torch.uint8).view(count, *shape), torch.zeros(count, dtype=torch.int64))


def test_the_covariance_becomes_the_identity_but_where_nothing_varies():
    train, _ = whitened(images(400, 0), images(5, 1), scale=1.0)
    pixels = train.images.flatten(1).double()
    expected = torch.eye(12, dtype=torch.float64)
    expected[11, 11] = 0
    torch.testing.assert_close(pixels.mean(0), torch.zeros(12, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels.T @ pixels / 400, expected, atol=1e-4, rtol=0)


def test_a_single_pixel_by_hand():
    """Pixels 0 and 4 at scale 2 have mean 1 and variance 1, so that regularization 3 halves the deviation of 1."""
    train = Images(torch.tensor([0, 4], dtype=torch.uint8).view(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64))
    test = Images(torch.tensor([8], dtype=torch.uint8).view(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64))
    result = whitened(train, test, scale=2.0, regularization=3.0)
    assert [split.images.flatten().tolist() for split in result] == [[-0.5, 0.5], [1.5]]


def test_whitening_changes_an_image_as_little_as_it_can():
    """ZCA's matrix is symmetric: of all whitening transformations the one nearest to the identity."""
    data = images(400, 0)
    train, _ = whitened(data, data, scale=1.0)
    deviations = data.images.flatten(1).double() - data.images.flatten(1).double().mean(0)
    products = (train.images.flatten(1).double().T @ deviations) / 400  # the square root of the covariance
    torch.testing.assert_close(products, products.T, atol=1e-3, rtol=0)
    assert torch.linalg.eigvalsh(products[:11, :11]).min() > 0


def test_wrong_images_are_refused():
    data = images(4, 0)
    with pytest.raises(ValueError, match="were they whitened before"):
        whitened(Images(data.images.float(), data.labels), data, scale=1.0)
    with pytest.raises(ValueError, match=r"must have one size, got \(2, 3, 2\) and \(3, 2, 2\)"):
        whitened(data, images(4, 0, (3, 2, 2)), scale=1.0)
    with pytest.raises(ValueError, match=r"scale and regularization must be > 0, got 1\.0 and 0\.0"):
        whitened(data, data, scale=1.0, regularization=0.0)
