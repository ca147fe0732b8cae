"""Scores by name, which need not all exist at the same time."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from openwork.core.sharded import local


class Scores(Mapping[str, Tensor]):
    """The scores of each weight by name, as allocation and pattern rank them.

    Those of a large model are computed anew each time they are asked for, so that only a few exist at a time.

    Args:
        like: A tensor with the shape, the device and the sharding of each weight's scores.
        compute: Computes the scores of the weights with these names.
    """

    def __init__(self, like: Mapping[str, Tensor], compute: Callable[[Sequence[str]], Sequence[Tensor]]) -> None:
        self.like = like
        self._compute = compute
        first = next(iter(like.values()))
        self._keeps = sum(tensor.numel() for tensor in like.values()) <= at_once(first.device)
        self._known: dict[str, Tensor] = {}

    def of(self, names: Sequence[str]) -> list[Tensor]:
        """The scores of these weights."""
        missing = [name for name in names if name not in self._known]
        known = dict(zip(missing, self._compute(missing), strict=True)) if missing else {}
        if self._keeps:
            self._known |= known
        return [known[name] if name in known else self._known[name] for name in names]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.like:
            raise KeyError(name)
        return self.of([name])[0]

    def __contains__(self, name: object) -> bool:
        return name in self.like

    def __iter__(self) -> Iterator[str]:
        return iter(self.like)

    def __len__(self) -> int:
        return len(self.like)


def at_once(device: torch.device) -> int:
    """How many weights are looked at together: on a GPU, which waits for launches, as many as fill it."""
    return 1 << 20 if device.type == "cpu" else 1 << 26


def like(scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors of the same shapes and sharding, without computing scores."""
    return scores.like if isinstance(scores, Scores) else scores


def weights_in(scores: Mapping[str, Tensor]) -> int:
    """How many weights have scores."""
    return sum(tensor.numel() for tensor in like(scores).values())


def in_batches(scores: Mapping[str, Tensor]) -> Iterator[list[Tensor]]:
    """What is here of the scores of each weight, a few weights at a time."""
    for names in batches(like(scores)):
        some = scores.of(names) if isinstance(scores, Scores) else [scores[name] for name in names]
        yield [local(score) for score in some]


def batches(like: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """The names, a few at a time: what is computed for them is free again when the next ones come.

    Args:
        like: A tensor of each one's shape, device and sharding.
    """
    names: list[str] = []
    size = 0
    for name, tensor in like.items():
        names.append(name)
        size += local(tensor).numel()
        if size >= at_once(tensor.device):
            yield names
            names, size = [], 0
    if names:
        yield names
