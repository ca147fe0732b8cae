"""One committed run of each folder, to be run again: part A of `large/PLAN.md`."""

import json
from pathlib import Path

from seeds import rows

from openwork.study.experiments import tournament
from openwork.study.experiments.large_resnet50 import Runs
from openwork.study.runs.config import from_plain
from openwork.study.runs.run import Run

RESULTS = Path(__file__).parent
NETWORKS = {"cifar10-resnet50": "ResNet-50", "translation": "Transformer", "cifar10": "VGG-like", "mnist": "VGG-like"}
"""The folders, and how fast a run of each is taken to be."""
IDS = {"cifar10-resnet50": "7f267d37ef6c11fd", "translation": "112fbc18d6eb8d2b", "cifar10": "870fbe0ee288e0d1"}
"""Magnitude pruning of ResNet-50 at 90 % and of the Transformer at 80 %, and the VGG-like network x 0.25, dense."""
OF_THE_TOURNAMENT = ("magnitude, global ranking", 0.9, 0)


def runs(folder: str) -> Runs:
    """The run by key; its setting is the id of the committed row.

    Args:
        folder: Of `NETWORKS`.
    """
    if folder == "mnist":
        run = tournament.finals(RESULTS / "mnist" / "study" / "chosen.csv")[OF_THE_TOURNAMENT]
    else:
        run = _of_rows(folder)
    return {("again", folder, run.id, run.seed): run}


def _of_rows(folder: str) -> Run:
    (row,) = [row for row in rows(folder) if row["id"] == IDS[folder]]
    run: Run = from_plain(json.loads(row["run"]))
    return run
