"""Calibrations of two processes: both raise where one of them fails, and averages keep their dtype."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

import openwork as ow
from tests.programs.group import group


@dataclass(frozen=True)
class Counts(ow.Evidence):
    """How many rows there were."""

    def input(self, kept: dict[str, Tensor], rows: Tensor) -> None:
        """Counts them."""
        kept["rows"] = torch.tensor([len(rows)])


@dataclass(frozen=True)
class Counted(ow.MaskTechnique):
    """Magnitudes, and a count."""

    evidence: ClassVar[ow.Evidence] = Counts(inputs=True)

    def scores(self, view: ow.View) -> Tensor:
        """|w|."""
        return view.weight.abs()


def calibrated(rows: int) -> ow.Sparsifier:
    """A layer whose calibration sees so many rows; none is an error."""
    torch.manual_seed(0)

    def run(model: nn.Module) -> None:
        if not rows:
            raise OSError("the file is gone")
        model(torch.ones(rows, 4))

    return ow.sparsify(nn.Linear(4, 2), Counted(ow.OneShot(0.5)), calibrate=run)


if __name__ == "__main__":
    with group() as (rank, _):
        count = calibrated(2 + 2 * rank).state_dict()["evidence"]["weight"]["rows"]
        print(count.tolist(), count.dtype)
        try:
            calibrated(rank)
        except (OSError, RuntimeError) as error:
            print(error)
