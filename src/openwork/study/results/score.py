"""What the rows of a task are judged by: BLEU where its runs have it, otherwise accuracy."""

from collections.abc import Iterable, Mapping
from typing import Any

from openwork.study.evaluation.metric import ACCURACY, BLEU, Metric


def metric_of(rows: Iterable[Mapping[str, Any]]) -> Metric:
    """What the rows of one task are judged by: BLEU where all finished ones have it, otherwise the accuracy."""
    finished = [row["after"] for row in rows if row["after"]]
    return BLEU if finished and all(BLEU.key in after for after in finished) else ACCURACY
