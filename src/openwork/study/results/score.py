"""What the models of a task are judged by, and how that is written: BLEU where its runs have it, otherwise accuracy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A metric of ``row["after"]`` as a score from 0 to 1, the higher the better, and its words."""

    key: str
    """Its name in a row."""
    full: float
    """Its value of a perfect model, which is a score of 1."""
    name: str
    title: str
    """Its name on an axis or above a chart."""
    percent: bool
    """Whether a score is written in percent; otherwise on a scale to 100 without a sign."""
    good: tuple[str, str, str]
    """What a model with a high score is: positive, comparative, superlative."""
    missing: str
    """What keeps a model from a score of 1."""

    def score(self, row: Mapping[str, Any]) -> float:
        """Of a finished row, 0-1."""
        # A perfect BLEU of sacrebleu's is 100.00000000000004.
        return min(float(row["after"][self.key]) / self.full, 1.0)

    def text(self, score: float, *, digits: int = 1, space: str = " ") -> str:
        """A score as text: ``91.2 %`` of accuracy, ``17.4`` of BLEU."""
        return f"{100 * score:.{digits}f}{self.unit(space)}"

    def range(self, low: float, high: float, *, digits: int = 1) -> str:
        """Two scores as text: ``95.5–96.3 %``, or ``17.1–17.8`` of BLEU."""
        return f"{100 * low:.{digits}f}–{self.text(high, digits=digits)}"

    def unit(self, space: str = " ") -> str:
        """What follows a number."""
        return f"{space}%" if self.percent else ""

    def axis(self, words: str) -> str:
        """The title of an axis of these words, with the unit."""
        return f"{words}, %" if self.percent else words


ACCURACY = Metric(
    key="accuracy",
    full=1.0,
    name="accuracy",
    title="test accuracy",
    percent=True,
    good=("accurate", "more accurate", "the most accurate"),
    missing="errors",
)
BLEU = Metric(
    key="bleu",
    full=100.0,
    name="BLEU",
    title="BLEU",
    percent=False,
    good=("good", "better", "the best by BLEU"),
    missing="what BLEU lacks of 100",
)


def metric_of(rows: Iterable[Mapping[str, Any]]) -> Metric:
    """What the rows of one task are judged by: BLEU where all finished ones have it, otherwise the accuracy."""
    finished = [row["after"] for row in rows if row["after"]]
    return BLEU if finished and all(BLEU.key in after for after in finished) else ACCURACY
