"""A run among those that are trained as one model."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openwork.study.results.result import Result
from openwork.study.runs.live import Live


@dataclass
class Member:
    """A run of a fleet.

    Args:
        live: The run, with the weights and masks of its checkpoint.
        folder: Its directory, which this process has claimed.
        optimizer: The state of its optimizer; None where there is no checkpoint, and at the end of training.
        rows: Its evaluations.
        seconds: Its share of the training time.
        result: How it ended; None while it is trained.
    """

    live: Live
    folder: Path
    optimizer: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    result: Result | None = None

    @property
    def step(self) -> int:
        """The last step that it was evaluated at."""
        return self.rows[-1]["step"] if self.rows else 0
