"""The 1,797 handwritten 8×8 digits that come with scikit-learn: a real data set without a download.

Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI (its test part).
"""

import functools

import torch

from openwork.study.data.images import Images

SCALE = 16.0  # values are 0–16: the number of dark pixels in a 4×4 block

_SEED = 1797
_TEST_PER_CLASS = 36


def digits(split: str) -> Images:
    """The images of a split, uint8 (N, 1, 8, 8) in [0, 16], and their labels.

    The split is fixed: in the order of one permutation of all images, drawn by a CPU generator with seed 1797, the
    first 36 of each class are the test set; both sets keep scikit-learn's order. All callers in a process share one
    copy, so do not write into it.

    Args:
        split: "train" (1,437 images) or "test" (360, 36 of each class).

    Raises:
        ValueError: For another split.
        ImportError: Without scikit-learn.
    """
    if split not in ("train", "test"):
        raise ValueError(f"the digits have the splits 'train' and 'test', got {split!r}; choose one")
    return _digits()[split]


@functools.cache
def _digits() -> dict[str, Images]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('the digits need scikit-learn: pip install "openwork[study]"') from error
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SEED))
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        test[order[labels[order] == label][:_TEST_PER_CLASS]] = True
    return {
        "train": Images(images[~test], labels[~test]),
        "test": Images(images[test], labels[test]),
    }
