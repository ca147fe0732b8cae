"""Which images are trained on, which ones settings are chosen by, and which ones are reported."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from openwork.study.data.images import Images


class Splits(NamedTuple):
    """Labelled images as a network takes them.

    Args:
        train: Those that are trained on.
        validation: Those that training is watched on: the held-out ones, or the test images where none are held out.
        test: Those of the test set.
    """

    train: Images
    validation: Images
    test: Images


def splits(
    train: Images, test: Images, held_out: int, prepare: Callable[[Images, Images], tuple[Images, Images]]
) -> Splits:
    """The sets, the last ``held_out`` training images apart from those that are trained on.

    Args:
        train: All training images, as read.
        test: The test images, as read.
        held_out: How many training images are held out, at least 0.
        prepare: Takes the images that are trained on and all others, and returns both as the network takes them. What
            it computes from images, such as their mean, it computes from the former.

    Raises:
        ValueError: Unless held_out is below the number of training images; if the held-out images show a class that the
            others do not.
    """
    kept = len(train.labels) - held_out
    if kept < 1:
        raise ValueError(
            f"held_out must be below {len(train.labels)}, the number of training images, got {held_out}; hold out fewer"
        )
    rest, apart = (Images(train.images[part], train.labels[part]) for part in (slice(kept), slice(kept, None)))
    if unseen := set(apart.labels.tolist()) - set(rest.labels.tolist()):
        raise ValueError(
            f"the last {held_out} training images show class {min(unseen)} and the others do not; shuffle the file, or "
            "hold out another number"
        )
    others = Images(torch.cat([apart.images, test.images]), torch.cat([apart.labels, test.labels]))
    prepared, others = prepare(rest, others)
    reported = Images(others.images[held_out:], others.labels[held_out:])
    watched = Images(others.images[:held_out], others.labels[:held_out]) if held_out else reported
    return Splits(prepared, watched, reported)
