"""What `openwork list` calls a run that has no result yet: as its result will."""

import json
from dataclasses import replace
from functools import partial

import pytest

import openwork as ow
from openwork.study.experiments.imp import iterative_pruning
from openwork.study.runs.described import write_description
from openwork.study.runs.origin import LotteryTicket, Pretrained, Retrained, Rewound, Scratch
from openwork.study.runs.run import Run
from openwork.study.tasks.lenet import DigitsLeNet300100
from tests.cli.folders import openwork


class Outer:
    """Holds a technique."""

    class Inner(ow.GradualMagnitude):
        """One whose class is in another."""


TASK = DigitsLeNet300100()
PRUNED = Run(TASK, ow.GradualMagnitude(ow.OneShot(0.5)), steps=4, variant="extended")
TICKET = Run(TASK, None, steps=4, origin=LotteryTicket(PRUNED), variant="of GradualMagnitude, shuffled")


@pytest.mark.parametrize(
    "run",
    [
        PRUNED,
        Run(TASK, None, steps=4),
        Run(TASK, None, steps=4, variant="40 epochs"),
        replace(PRUNED, origin=Pretrained(Run(TASK, None, steps=4))),
        TICKET,
        *(Run(TASK, None, steps=4, origin=kind(PRUNED)) for kind in (Scratch, Retrained, partial(Rewound, step=2))),
        *iterative_pruning(Run(TASK, None, steps=4), 3),
        *iterative_pruning(Run(TASK, None, steps=4), 3, step=2),
        Run(TASK, Outer.Inner(ow.OneShot(0.5)), steps=4),
    ],
    ids=lambda run: run.name,
)
def test_a_run_without_a_result_has_the_name_that_it_will_have_with_one(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs" / run.id).mkdir(parents=True)
    write_description(run, tmp_path / "runs" / run.id)
    assert openwork(monkeypatch, "list", tmp_path / "runs", "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)["runs"]
    assert listed["technique"] == run.name
    assert openwork(monkeypatch, "list", tmp_path / "runs") == 0
    assert run.name.split()[-1] in capsys.readouterr().out
