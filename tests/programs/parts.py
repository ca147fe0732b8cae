"""Trains runs whose batches two processes share; `test_parts.py` trains the same ones in its own process."""

import sys
from typing import Any
from unittest import mock

from openwork.core.schedules import Constant, Cubic
from openwork.study.data.number_words import number_words
from openwork.study.runs.execute import execute
from openwork.study.runs.run import Run
from openwork.study.tasks.imagenet import ImageNetResNet
from openwork.study.tasks.number_words import NumberWords
from openwork.techniques.l0 import L0
from openwork.techniques.magnitude import GradualMagnitude
from openwork.techniques.variational_dropout import VariationalDropout
from tests.programs.group import group

TINY: dict[str, Any] = {
    "depth": 18, "width": 0.125, "classes": 3, "size": 64, "batch_size": 8, "part_size": 2, "rate": 0.3
}  # fmt: skip


def pictures() -> list[Run]:
    """Three techniques."""
    task = ImageNetResNet("pictures", **TINY)
    techniques = (
        GradualMagnitude(Cubic(0.8, begin=1, end=4, every=1), hidden="trained"),
        VariationalDropout(Constant(1e-4), log_sigma2=-4.0),
        L0(Constant(1e-4), dropout=0.3),
    )
    return [Run(task, technique, steps=6) for technique in techniques]


def translations() -> list[Run]:
    """Translation with practically no noise."""
    task = NumberWords(
        width=16, hidden=16, heads=2, layers=1, rows=4, residual_dropout=0.0, attention_dropout=0.0, hidden_dropout=0.0
    )
    quiet = VariationalDropout(Constant(1e-4), log_sigma2=-20.0)
    return [Run(task, technique, steps=6) for technique in (None, quiet, L0(Constant(1e-4), dropout=1e-3))]


def two_pairs(task: NumberWords, split: str) -> list[tuple[str, str]]:
    """Instead of `NumberWords.pairs`: decoding takes seconds."""
    return number_words(split)[:2]


if __name__ == "__main__":
    mock.patch("openwork.study.files.rank", return_value=0).start()  # so that the second process writes, too
    mock.patch.object(NumberWords, "pairs", two_pairs).start()
    runs = {"pictures": pictures, "translations": translations}[sys.argv[3]]
    with group() as (rank, folder):
        for run in runs():
            result = execute(run, folder / f"process{rank}", evaluations=2)
            print(result.status, result.measured("accuracy"), result.environment.processes)
