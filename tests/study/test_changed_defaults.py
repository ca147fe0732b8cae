"""A default that changes keeps a run's id, so what was trained before must not pass for the run of today."""

import dataclasses
import json
import sys

import pytest

from openwork.study.results.store import read_results
from openwork.study.runs.config import from_plain, packages, to_plain
from openwork.study.runs.execute import execute
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.sweeps.price import prices
from openwork.study.sweeps.sweep import Here, Options, sweep
from tests.helpers import raises
from tests.study.tinylab import Tiny

LAB = """
from dataclasses import dataclass, field
from tests.study.tinylab import Tiny

@dataclass(frozen=True)
class Mine(Tiny):
    title: str = "mine"
    rate: float = {rate}
    sizes: dict = field(default_factory=lambda: {sizes})
    {more}
"""
PARTS = ("was trained when the default of task.rate was 0.1, and now it is 0.2; restore that default, rename the",)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """What gives a run of the user's task, whose module it writes again each time."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def made(rate=0.1, sizes="{'a': 1}", more="", steps=4):
        sys.modules.pop("changinglab", None)
        (tmp_path / "changinglab.py").write_text(LAB.format(rate=rate, sizes=sizes, more=more))
        return Run(__import__("changinglab").Mine(), None, steps=steps)

    yield made
    sys.modules.pop("changinglab", None)


def test_a_finished_run_with_another_default_is_refused(tmp_path, lab):
    before = execute(lab(), tmp_path / "runs")
    changed = lab(rate=0.2)
    assert changed.id == before.id

    def swept(run, folder):
        sweep([run], folder, Here(folder, Options()))

    def priced(run, folder):
        prices([run], folder)

    for train in (execute, swept, priced):
        with raises(ValueError, before.id, *PARTS):
            train(changed, tmp_path / "runs")
        with raises(ValueError, before.id, *PARTS):
            train(Run(Tiny(), None, steps=3, origin=Pretrained(changed)), tmp_path / "runs")
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == [before.id]
    with raises(ValueError, 'default of task.sizes was {"a": 1}, and now it is {"b": 1}'):
        execute(lab(sizes="{'b': 1}"), tmp_path / "runs")
    assert execute(lab(), tmp_path / "runs") == before


def test_an_interrupted_run_with_another_default_is_refused(tmp_path, lab):
    folder = tmp_path / "runs" / execute(lab(), tmp_path / "runs").id
    (folder / "result.json").unlink()
    with raises(ValueError, *PARTS):
        execute(lab(rate=0.2), tmp_path / "runs")
    (folder / "checkpoint.pt").unlink()  # now there is nothing to go on from
    assert execute(lab(rate=0.2), tmp_path / "runs").finished


def test_a_new_setting_and_an_equal_number_are_no_change(tmp_path, lab):
    before = execute(lab(rate=2), tmp_path / "runs")
    assert execute(lab(rate=2.0, more="new: int = 3"), tmp_path / "runs") == before


def test_a_damaged_description_is_named_with_its_cure(tmp_path):
    run = Run(Tiny(), None, steps=4)
    execute(run, tmp_path)
    path = tmp_path / run.id / "run.json"
    path.write_text("{")
    with raises(ValueError, f"{path} cannot be read", "delete that folder, and the run is trained again"):
        execute(run, tmp_path)
    path.unlink()  # a study that was copied without them
    assert execute(run, tmp_path) == read_results(tmp_path)[0]


def test_a_worker_with_another_default_makes_another_id(lab):
    run = lab()
    id = run.id
    plain = json.loads(json.dumps(to_plain(run, defaults=True)))
    there = from_plain(plain, packages(plain))
    assert there.id == id
    lab(rate=0.2)
    assert from_plain(plain, packages(plain)).id != id
    assert dataclasses.asdict(there.task)["rate"] == 0.1
