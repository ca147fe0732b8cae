"""ZCA whitening: Krizhevsky 2009, "Learning Multiple Layers of Features", appendix A."""

import torch
from torch import Tensor

from openwork.study.data.images import Images

_CHUNK = 5_000  # images in float64 at a time


def whitened(train: Images, test: Images, *, scale: float, regularization: float = 1e-5) -> tuple[Images, Images]:
    """Both sets as float32 ``(x − mean) / scale`` times (C + regularization)^(-1/2), with ``train``'s mean and C.

    C is the covariance of the pixels / scale. The training set's covariance becomes S / (S + regularization) along
    each eigenvector of C with the eigenvalue S: 1 except where the images hardly vary. C is computed without rounding
    and its eigenvectors on the CPU, the products in float64 on the device of the images.

    Args:
        train: The training set, uint8.
        test: The test set, uint8, of the same size of images.
        scale: What pixels are divided by; above 0.
        regularization: Added to the eigenvalues of C; above 0.

    Raises:
        ValueError: If either set is not uint8, if their sizes differ, or unless scale > 0 and regularization > 0.
    """
    if train.images.dtype != torch.uint8 or test.images.dtype != torch.uint8:
        raise ValueError(
            f"whitened takes the uint8 images as read, got {train.images.dtype} and {test.images.dtype}; were they "
            "whitened before?"
        )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError(
            f"train and test images must have one size, got {tuple(train.images.shape[1:])} and "
            f"{tuple(test.images.shape[1:])}; are they of the same data set?"
        )
    if not (scale > 0 and regularization > 0):
        raise ValueError(f"scale and regularization must be > 0, got {scale} and {regularization}")
    mean, matrix = _zca(train.images, scale, regularization)
    return _apply(train, mean, matrix), _apply(test, mean, matrix)


def _zca(images: Tensor, scale: float, regularization: float) -> tuple[Tensor, Tensor]:
    """The mean (D,) of uint8 images of D pixels, and the matrix (D, D) to multiply their deviations from it by."""
    count, pixels = len(images), images.flatten(1)
    # Sums of products of integers, below 2^53 for up to 37 million images: exact in any order on any device.
    products = torch.zeros(pixels.shape[1], pixels.shape[1], dtype=torch.float64, device=images.device)
    for first in range(0, count, _CHUNK):
        values = pixels[first : first + _CHUNK].double()
        products.addmm_(values.T, values)
    sums = pixels.sum(0, dtype=torch.int64).cpu().double()
    covariance = (products.cpu() * count - torch.outer(sums, sums)) / (count * scale) ** 2
    variances, directions = torch.linalg.eigh(covariance)
    matrix = (directions * (variances.clamp(min=0) + regularization).rsqrt()) @ directions.T
    return (sums / count).to(images.device), (matrix / scale).to(images.device)


def _apply(data: Images, mean: Tensor, matrix: Tensor) -> Images:
    pixels = data.images.flatten(1)
    chunks = [((pixels[n : n + _CHUNK] - mean) @ matrix).float() for n in range(0, len(pixels), _CHUNK)]
    return Images(torch.cat(chunks).view(data.images.shape), data.labels)
