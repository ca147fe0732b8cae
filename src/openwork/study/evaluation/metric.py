"""The metric by which a task judges its models, and how it is written."""

from dataclasses import dataclass, replace
from typing import Literal

# Names under which an evaluation's row, a result or a line of a page has something else.
TAKEN = {
    *("step", "seconds", "layers", "expected_density", "expected_flops", "train_loss", "penalty", "sparsity"),
    *("task", "technique", "settings", "seed", "status", "all", "memory", "execution"),
}
"""What else an evaluation's row, a result or a line of a page has under these names."""


DataName = Literal["test", "validation"]
"""On which data something is measured: the test set, or what is held out of the training data."""


@dataclass(frozen=True)
class Metric:
    """A metric that a task's `evaluate` returns, as a score, the higher the better, and its words.

    Args:
        key: Its name in what the task returns.
        full: Its value for a perfect model, if no value is higher and none below 0: the score is the fraction of it.
            None if it has no such bounds, for example a squared error: the score is then the value, negative where
            lower values are better.
        name: Its name in a sentence; by default the key.
        title: Its name on an axis or above a chart; by default the name.
        percent: Whether a fraction of ``full`` is written in percent; otherwise on a scale to 100 without a sign.
        good: What a model with a high score is called: positive, comparative, superlative.
        missing: What keeps a model from a score of 1.
        higher_is_better: Whether a higher value is a better one.
        worst: The value that a run which diverged counts as. None is 0 where ``full`` is given, otherwise the worst of
            the task's finished runs.

    Raises:
        ValueError: For a key that is no identifier or stands for something else in a result, and for bounds or a
            direction that contradict each other.
    """

    key: str
    full: float | None = None
    name: str = ""
    title: str = ""
    percent: bool = False
    good: tuple[str, str, str] = ("good", "better", "the best")
    missing: str = ""
    higher_is_better: bool = True
    worst: float | None = None

    def __post_init__(self) -> None:
        if not self.key.isidentifier() or self.key in TAKEN:
            raise ValueError(
                f"a metric's key must be an identifier that a result does not use otherwise, got {self.key!r}; "
                "return the metric under another name"
            )
        if self.full is not None and not (self.full > 0 and self.higher_is_better):
            raise ValueError(
                f"full must be a positive value that is better than lower ones, got {self.full} for {self.key}; "
                "leave it out where there is none"
            )
        if self.percent and self.full is None:
            raise ValueError(f"percent needs full, the value that is 100 %, and {self.key} has none; give it")
        object.__setattr__(self, "name", self.name or self.key)
        object.__setattr__(self, "title", self.title or self.name)

    def on(self, data: DataName) -> "Metric":
        """The metric with words that say where it is not of the test set."""
        return self if data == "test" else replace(self, name=f"{data} {self.name}", title=f"{data} {self.name}")

    @property
    def worst_score(self) -> float | None:
        """The score of a run that diverged; None where only the task's finished runs can tell."""
        if self.worst is not None:
            return self.score(self.worst)
        return None if self.full is None else 0.0

    def score(self, value: float) -> float:
        """The score of a value: 0-1 where the metric has bounds, otherwise any number; the higher, the better."""
        if self.full is not None:
            # A perfect BLEU of sacrebleu's is 100.00000000000004.
            return min(value / self.full, 1.0)
        return self._turned(value)

    def value(self, score: float) -> float:
        """The value of a score: the inverse of `score`."""
        if self.full is not None:
            return self.full * score
        return self._turned(score)

    def _turned(self, number: float) -> float:
        """A value as a score or a score as a value, of a metric without bounds."""
        return (number if self.higher_is_better else -number) + 0.0  # -0.0 + 0.0 is 0.0

    def ends(self, low: float, high: float) -> tuple[float, float]:
        """The values of the two ends of a range of scores, the lower value first."""
        first, last = sorted((self.value(low), self.value(high)))
        return first, last

    def misfit(self, value: object) -> str:
        """Why something cannot be a value of this metric; empty where it can."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "is not a number"
        # BLEU rounds.
        if self.full is not None and not 0 <= value <= self.full * 1.00001:
            return f"must be in [0, {self.full:g}], got {value}"
        return ""

    def points(self, score: float) -> float:
        """A score as `text` writes it, without its unit: 91.2 of accuracy, 0.0123 of a metric without bounds."""
        return self.value(score) if self.full is None else 100 * score

    def drawn(self, score: float) -> float:
        """A score as charts place it: 0-1, or the value of a metric without bounds."""
        return self.value(score) if self.full is None else score

    def text(self, score: float, *, digits: int = 1, space: str = " ") -> str:
        """A score as text: ``91.2 %`` of accuracy, ``17.4`` of BLEU, ``0.0123`` of a metric without bounds.

        Args:
            score: What `score` returns.
            digits: Digits after the decimal point; a metric without bounds has two more significant digits than this.
            space: What stands before the unit.
        """
        if self.full is None:
            return f"{self.value(score):.{digits + 2}g}"
        return f"{self.points(score):.{digits}f}{self.unit(space)}"

    def range(self, low: float, high: float, *, digits: int = 1) -> str:
        """Two scores as text, the lower value first: ``95.5–96.3 %``, ``17.1–17.8`` of BLEU, or ``-1.5 to -1.2``."""
        if self.full is None:
            first, last = self.ends(low, high)
            to = " to " if first < 0 else "–"  # a minus after a dash cannot be told from it
            return f"{first:.{digits + 2}g}{to}{last:.{digits + 2}g}"
        return f"{100 * low:.{digits}f}–{self.text(high, digits=digits)}"

    def difference(self, scores: float) -> str:
        """A difference of scores as text, in points or in the metric's own unit: ``-6.00``, ``+0.0123``."""
        return f"{self.value(scores):+.3g}" if self.full is None else f"{100 * scores:+.2f}"

    def unit(self, space: str = " ") -> str:
        """What follows a number."""
        return f"{space}%" if self.percent else ""

    def axis(self, words: str) -> str:
        """The title of an axis: ``words`` and the unit, or, where lower values are better, a note of that."""
        if not self.higher_is_better:
            return f"{words} (lower is better)"
        return f"{words}, %" if self.percent else words


ACCURACY = Metric(
    key="accuracy",
    full=1.0,
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
    good=("good", "better", "the best by BLEU"),
    missing="what BLEU lacks of 100",
)
