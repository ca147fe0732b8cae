"""What a calibration shows evidence of the inputs of layers, matrix by matrix."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from openwork.core.masks.check import checked_beginning
from openwork.core.masks.evidence import Evidence, Kept
from openwork.core.masks.inputs import caller_of
from openwork.core.masks.inputs import rows as rows_of
from openwork.core.masks.multiplied import Multiplied, Show
from openwork.core.masks.weight import MaskedWeight
from openwork.core.precision import exact
from openwork.core.selection import Site, Weight
from openwork.words import count

_SHOWING: ContextVar[tuple[tuple[Sequence[Weight], Show], ...]] = ContextVar("showing", default=())


@contextmanager
def showing_inputs(weights: Sequence[Weight], show: Show) -> Iterator[None]:
    """Shows the inputs that the weights' matrices are multiplied with, as rows (n, in), while the model runs.

    Args:
        weights: The weights, each `observable`.
        show: Called with a weight, the number of its matrix, and rows.
    """
    several = [weight for weight in weights if are_multiplied(weight)]
    token = _SHOWING.set((*_SHOWING.get(), (weights, show)))
    with ExitStack() as stack:
        stack.callback(_SHOWING.reset, token)
        for weight in weights:
            for site in weight.sites if weight not in several else ():
                hook = caller_of(site).register_forward_pre_hook(_before(weight, site, show), with_kwargs=True)
                stack.callback(hook.remove)
        if several:
            stack.enter_context(Multiplied(several, show))
        yield


def show_alike(weight: Weight) -> None:
    """Shows all that look at a weight's inputs now, for each of its matrices, inputs that are all alike."""
    for number in range(number_of_matrices(weight)):
        for found in _alike(weight):
            for weights, show in _SHOWING.get():
                if weight in weights:
                    show(weight, number, found.to(weight.parameter.dtype))


def _alike(weight: Weight) -> Iterator[Tensor]:
    """One row for each input of a matrix, in which it alone is not 0, some at a time."""
    inputs = math.prod(weight.layout.shape[2:]) if weight.layout else 0
    for some in torch.split(torch.arange(inputs, device=weight.parameter.device), 1024):
        yield nn.functional.one_hot(some, inputs)


def number_of_matrices(weight: Weight) -> int:
    """How many matrices a weight holds that have inputs of their own; 1 where its layout is not known."""
    return weight.layout.shape[0] if weight.layout else 1


def are_multiplied(weight: Weight) -> bool:
    """Whether it holds matrices that operations pick from it, as those of experts."""
    return number_of_matrices(weight) > 1 and weight.layout is not None and len(weight.layout.shape) == 3


def _before(weight: Weight, site: Site, show: Show) -> Callable[..., None]:
    @torch.no_grad()
    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for number, found in enumerate(rows_of(site, args, kwargs)):
            show(weight, number, found)

    return watch


class _Latest(NamedTuple):
    """The rows that evidence has looked at last, what was shown to it until then and with them, and what it keeps."""

    rows: Tensor
    version: int
    before: object
    after: object
    kept: Kept

    def are(self, rows: Tensor) -> bool:
        """Whether these are the same rows, of the same memory, to which nobody has written since."""
        mine = self.rows
        return (
            type(rows) is type(mine) is Tensor
            and not rows.is_inference()  # which has no version
            and (rows.data_ptr(), rows._version) == (mine.data_ptr(), self.version)
            and (rows.shape, rows.stride(), rows.dtype) == (mine.shape, mine.stride(), mine.dtype)
            and rows.device == mine.device
        )


class ShownInputs:
    """What evidence keeps of inputs: for a weight with several matrices, one after the other, and then as one.

    Layers that have got the same inputs so far, as query, key and value, keep the same: it is computed once and copied.

    Args:
        evidence: The technique's.
        weights: The weights, in whose ``evidence`` it is kept in the end.
    """

    def __init__(self, evidence: Evidence, weights: Sequence[MaskedWeight]) -> None:
        self.evidence = evidence
        self.weights = weights
        self.seen: set[str] = set()
        self._kept: dict[str, list[Kept]] = {}
        self._energy: dict[str, dict[int, Tensor]] = {}
        self._past: dict[tuple[str, int], object] = {}  # of each matrix; the same where the same was shown
        self._latest: _Latest | None = None
        for weight in weights:
            self._kept[weight.name] = [weight.evidence]
            self._energy[weight.name] = {}
            layout = weight.source.layout
            if layout is not None and layout.shape[0] > 1:
                matrices = layout.matrices(weight.parameter.detach())
                self._kept[weight.name] = [checked_beginning(evidence, matrix) for matrix in matrices]

    def show(self, weight: Weight, number: int, found: Tensor) -> None:
        """Shows the evidence rows (n, in) of a matrix."""
        if not len(found):
            return
        energy = self._energy[weight.name]
        self.seen.add(weight.name)
        if len(self._kept[weight.name]) > 1:
            energy[number] = energy.get(number, 0) + found.float().square().sum()
        kept, matrix, latest = self._kept[weight.name][number], (weight.name, number), self._latest
        past = self._past.setdefault(matrix, kept if kept else None)  # with what it began with, it is like no other
        if latest is not None and latest.before is past and latest.are(found):
            kept |= {name: value.clone() for name, value in latest.kept.items()}
            self._past[matrix] = latest.after
            return
        self.evidence.input(kept, exact(found))
        self._past[matrix] = object()
        if not found.is_inference():
            self._latest = _Latest(found, found._version, past, self._past[matrix], kept)

    def finish(self) -> None:
        """Joins what is kept of several matrices, and lets magnitudes decide in experts that no row has reached.

        Raises:
            ValueError: If what is kept is NaN or infinite.
        """
        self._latest = None
        for weight in self.weights:
            values = [value for kept in self._kept[weight.name] for value in kept.values() if value.is_floating_point()]
            # Of their extremes, which are NaN if any value is, since isfinite() of all passes over memory four times.
            extremes = [extreme for value in values if value.numel() for extreme in value.aminmax()]
            if extremes and not bool(torch.stack(extremes).isfinite().all()):
                raise ValueError(
                    f"the inputs of {weight.name} hold NaN or infinities, or their squares overflow; check the batches "
                    "of the calibration, and whether the model overflows in its dtype"
                )
        idle: list[str] = []
        for weight in self.weights:
            kept, energy = self._kept[weight.name], self._energy[weight.name]
            if len(kept) == 1 or not energy:
                continue
            inputs = math.prod(weight.source.layout.shape[2:]) if weight.source.layout else 0
            found = dict(zip(energy, torch.stack(list(energy.values())).tolist(), strict=True))
            reached = [value for value in found.values() if value]
            picked = are_multiplied(weight.source)
            unreached = [number for number in range(len(kept)) if picked and not found.get(number)]
            size = math.sqrt(sum(reached) / len(reached) / inputs) if reached else 1.0
            for number in unreached:
                idle.append(f"{weight.name}[{number}]")
                for rows in _alike(weight.source):  # as large as usual
                    self.evidence.input(kept[number], rows.float() * size)
            weight.evidence.clear()
            weight.evidence |= {name: torch.stack([part.pop(name) for part in kept]) for name in list(kept[0])}
        if idle:
            warnings.warn(
                f"no token of the calibration reached {count(len(idle), 'matrix', 'matrices')} of experts, such as "
                f"{idle[0]}: their magnitudes alone decide there; calibrate with more batches",
                stacklevel=2,
            )
