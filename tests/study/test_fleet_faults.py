"""What goes wrong with one run, or in the middle of a fleet, costs no other run anything."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import openwork as ow
from openwork.study import locks
from openwork.study.files import WriteError
from openwork.study.fleet import execute as fleet_execute
from openwork.study.fleet import fleet
from openwork.study.fleet.execute import CannotStackError, execute_fleet
from openwork.study.fleet.groups import Waiting
from openwork.study.results.history import read_snapshots, snapshot_path
from openwork.study.runs import record as run_record
from openwork.study.runs.checkpoint import read_checkpoint
from openwork.study.runs.claim import ClaimedError, claim
from openwork.study.runs.execute import execute
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.sweeps import sweep as sweeps
from openwork.study.sweeps.fleet import Fleets
from openwork.study.sweeps.sweep import Here, Sweep, completed_steps, sweep
from tests.study import faultlab, fleetlab
from tests.study.test_fleet_alone import OPTIONS, widths
from tests.study.tinylab import PRUNE, Failing, Still, Tiny

RUNS = [Run(Still(), PRUNE, steps=20, seed=seed) for seed in range(4)]
VARIATIONAL = ow.VariationalDropout(coefficient=ow.Constant(1e-3))
RIGL = ow.RigL(ow.Constant(0.5, every=2, stop=16))


@pytest.fixture(autouse=True)
def _checkpoints_at_every_evaluation(monkeypatch):
    monkeypatch.setattr(fleet, "CHECKPOINT_SECONDS", 0.0)


def weights(runs: list[Run], folder: Path) -> list[bytes]:
    return [(folder / run.id / "model.safetensors").read_bytes() for run in runs]


def until(step: int):
    """Stops what it is called by, as Ctrl-C does, after this step of four runs."""

    def progress(steps: int) -> None:
        if steps == step:
            raise KeyboardInterrupt

    return progress


def swept(runs: list[Run], folder: Path, width: int | None = None, **options):
    said: list[str] = []
    return sweep(runs, folder, Fleets(folder, OPTIONS, width, say=said.append), **options), said


def assert_near(ours: Path, theirs: Path) -> None:
    """Compares two files of weights, up to the rounding of sums."""
    weights, expected = load_file(ours), load_file(theirs)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=2e-5)


# What is bad in one run.


@pytest.mark.parametrize(
    "bad",
    [
        [Run(faultlab.Poisoned(value=value), technique, steps=20, seed=seed) for seed in range(3)]
        for value in ("nan", "inf", "1e38")
        for technique in (None, PRUNE, VARIATIONAL)
    ],
    ids=lambda runs: f"{runs[0].name}, {runs[0].task.value}",
)
def test_a_run_that_diverges_leaves_its_neighbours_as_they_are_to_the_last_bit(bad, tmp_path):
    healthy = [replace(run, task=Still()) for run in bad]
    found = execute_fleet(bad, tmp_path, evaluations=2)
    execute_fleet(healthy, tmp_path, evaluations=2)
    assert [found[run.id].status for run in bad] == ["finished", "diverged", "finished"]
    assert weights(bad[::2], tmp_path) == weights(healthy[::2], tmp_path)
    alone = execute(bad[1], tmp_path / "alone", evaluations=2)
    assert (alone.status, alone.step) == (found[bad[1].id].status, found[bad[1].id].step)


def test_a_learning_rate_of_1e38_disturbs_no_other_rate(tmp_path):
    runs = [Run(fleetlab.Rated(rate=rate), PRUNE, steps=20) for rate in (0.1, 1e38, 0.2)]
    found = execute_fleet(runs, tmp_path / "bad", evaluations=4)
    execute_fleet(
        [runs[0], replace(runs[1], task=fleetlab.Rated(rate=0.15)), runs[2]], tmp_path / "good", evaluations=4
    )
    assert [found[run.id].status for run in runs] == ["finished", "diverged", "finished"]
    assert weights(runs[::2], tmp_path / "bad") == weights(runs[::2], tmp_path / "good")
    assert found[runs[1].id].step == execute(runs[1], tmp_path, evaluations=4).step


def test_scores_that_are_no_numbers_end_one_run_at_the_step_of_their_update(tmp_path):
    runs = [
        Run(Tiny(), faultlab.WithoutNumbers(ow.OneShot(0.5, at=7), bad=seed == 1), steps=20, seed=seed)
        for seed in range(3)
    ]
    found = execute_fleet(runs, tmp_path / "bad", evaluations=2)
    good = [replace(run, technique=replace(run.technique, bad=False)) for run in runs]
    execute_fleet(good, tmp_path / "good", evaluations=2)
    assert [(found[run.id].status, found[run.id].step) for run in runs] == [
        ("finished", 20),
        ("diverged", 7),
        ("finished", 20),
    ]
    assert found[runs[1].id].cost.seconds > 0
    assert weights(runs[::2], tmp_path / "bad") == weights(good[::2], tmp_path / "good")
    assert execute(runs[1], tmp_path, evaluations=2).step == 7


def test_a_fleet_in_which_all_have_diverged_ends(tmp_path):
    ended: list[int] = []
    runs = [Run(fleetlab.Rated(rate=rate), None, steps=40) for rate in (1e38, 2e38)]
    found = execute_fleet(runs, tmp_path, evaluations=8, progress=ended.append)
    assert {found[run.id].status for run in runs} == {"diverged"}
    assert max(ended) == 2 * max(found[run.id].step for run in runs) < 80


# What is claimed, done or failed already.


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path):
    (tmp_path / RUNS[1].id).mkdir()
    with claim(tmp_path / RUNS[1].id):
        found = execute_fleet(RUNS, tmp_path, evaluations=2)
        assert isinstance(found[RUNS[1].id], ClaimedError)
        assert [found[run.id].environment.fleet for run in (RUNS[0], *RUNS[2:])] == [3, 3, 3]
    assert not list(tmp_path.glob("*/lock"))


def test_a_run_that_another_process_has_finished_keeps_its_result(tmp_path):
    execute(RUNS[2], tmp_path, evaluations=2)
    before = (tmp_path / RUNS[2].id / "result.json").stat().st_mtime_ns
    found = execute_fleet(RUNS, tmp_path, evaluations=2)
    assert [found[run.id].environment.fleet for run in RUNS] == [3, 3, None, 3]
    assert (tmp_path / RUNS[2].id / "result.json").stat().st_mtime_ns == before


def test_claims_of_runs_that_are_not_trained_are_free_meanwhile(tmp_path):
    execute(RUNS[2], tmp_path, evaluations=2)
    held: set[str] = set()
    execute_fleet(
        RUNS, tmp_path, evaluations=2, progress=lambda _: held.update(p.parent.name for p in tmp_path.glob("*/lock"))
    )
    assert held == {run.id for run in RUNS} - {RUNS[2].id}


def test_failed_runs_are_tried_again_on_request_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [Run(Failing(), PRUNE, steps=20, seed=seed) for seed in range(2)]
    assert swept(runs, tmp_path / "runs")[0].count("failed") == 2
    Path("repaired").touch()
    assert swept(runs, tmp_path / "runs")[0].count("failed") == 2
    ended, said = swept(runs, tmp_path / "runs", retry_failed=True)
    assert widths(ended) == [2, 2]
    assert not said
    assert not list(tmp_path.glob("runs/*/failed.json"))


# What stops a fleet.


@pytest.mark.parametrize("technique", [None, PRUNE, VARIATIONAL, RIGL])
@pytest.mark.parametrize("again", ["together", "alone"])
def test_a_fleet_that_was_stopped_goes_on_as_if_it_had_not_been(technique, again, tmp_path):
    runs = [replace(run, technique=technique) for run in RUNS]
    execute_fleet(runs, tmp_path / "whole", evaluations=4)
    with pytest.raises(KeyboardInterrupt):
        execute_fleet(runs, tmp_path, evaluations=4, progress=until(4 * 13))
    assert not list(tmp_path.glob("*/lock"))
    assert [completed_steps(tmp_path / run.id) for run in runs] == [10] * 4
    seen: list[int] = []
    if again == "together":
        execute_fleet(runs, tmp_path, evaluations=4, progress=seen.append)
        assert seen[0] == 4 * 11
        assert weights(runs, tmp_path) == weights(runs, tmp_path / "whole")
    else:
        for run in runs:
            execute(run, tmp_path, evaluations=4, progress=seen.append)
            ours, theirs = (folder / run.id / "model.safetensors" for folder in (tmp_path, tmp_path / "whole"))
            assert_near(ours, theirs)
        assert seen == 4 * [*range(11, 21)]


@pytest.mark.parametrize("technique", [None, PRUNE, VARIATIONAL, RIGL])
def test_runs_that_were_begun_alone_go_on_in_a_fleet(technique, tmp_path):
    runs = [replace(run, technique=technique, task=task) for run in RUNS for task in (Still(), fleetlab.Centered())]
    for run in runs:
        execute(run, tmp_path / "whole", evaluations=4)
        with pytest.raises(KeyboardInterrupt):
            execute(run, tmp_path, evaluations=4, progress=until(13))
    ended, said = swept(runs, tmp_path)
    assert widths(ended) == [4] * 8
    assert not said
    for run in runs:
        assert_near(*(folder / run.id / "model.safetensors" for folder in (tmp_path, tmp_path / "whole")))


@pytest.mark.parametrize("engine", [Here, Fleets])
def test_a_run_that_was_begun_without_snapshots_gets_the_first_one_and_those_that_follow(engine, tmp_path):
    options = replace(OPTIONS, evaluations=4, snapshots=4)
    sweep(RUNS, tmp_path / "whole", engine(tmp_path / "whole", options))
    with pytest.raises(KeyboardInterrupt):
        execute_fleet(RUNS, tmp_path, evaluations=4, progress=until(4 * 13))
    sweep(RUNS, tmp_path, engine(tmp_path, options))
    for run in RUNS:
        assert [snapshot.step for snapshot in read_snapshots(tmp_path / run.id)] == [0, 15, 20]
        first, whole = (snapshot_path(folder / run.id, 0).read_bytes() for folder in (tmp_path, tmp_path / "whole"))
        assert first == whole


def test_a_run_that_diverges_keeps_the_last_checkpoint_that_was_written(tmp_path):
    runs = [
        replace(RUNS[0], technique=faultlab.WithoutNumbers(ow.OneShot(0.5, at=7), bad=bad)) for bad in (False, True)
    ]
    found = execute_fleet(runs, tmp_path, evaluations=20)
    alone = execute(runs[1], tmp_path / "alone", evaluations=20)
    assert (found[runs[1].id].status, alone.status, alone.step) == ("diverged", "diverged", 7)
    for folder in (tmp_path, tmp_path / "alone"):
        assert read_checkpoint(folder / runs[1].id / "checkpoint.pt")["metrics"][-1]["step"] == 6


def test_runs_whose_process_died_between_two_files_are_trained_from_their_own_steps(tmp_path, monkeypatch):
    execute_fleet(RUNS, tmp_path / "whole", evaluations=4)
    with monkeypatch.context() as patch:
        rows = []

        def write_rows(*arguments: object) -> None:
            rows.append(arguments)
            if len(rows) == 6:  # of the second run's second checkpoint, which is there already
                raise KeyboardInterrupt
            real(*arguments)

        real = run_record.write_rows
        patch.setattr(run_record, "write_rows", write_rows)
        with pytest.raises(KeyboardInterrupt):
            execute_fleet(RUNS, tmp_path, evaluations=4)
    assert [completed_steps(tmp_path / run.id) for run in RUNS] == [10, 5, 5, 5]
    ended, said = swept(RUNS, tmp_path)
    assert not said
    assert sorted(map(str, widths(ended))) == ["1", "2", "2", "None"]
    for run in RUNS:
        assert_near(*(folder / run.id / "model.safetensors" for folder in (tmp_path, tmp_path / "whole")))


def test_a_full_disk_stops_the_sweep_and_keeps_no_claim(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise WriteError(28, "No space left on device", "checkpoint.pt")

    monkeypatch.setattr(fleet, "save", full)
    with pytest.raises(WriteError, match="No space left"):
        swept(RUNS, tmp_path)
    assert not list(tmp_path.glob("*/lock"))
    assert not list(tmp_path.glob("*/failed.json"))


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), WriteError(28, "No space left"), torch.OutOfMemoryError("CUDA")]
)
def test_what_stops_a_fleet_while_models_are_made_leaves_no_claim_and_few_directories(error, tmp_path, monkeypatch):
    many = [replace(RUNS[0], seed=seed) for seed in range(100)]
    made: list[str] = []
    real = fleet_execute.begin

    def begin(run: Run, *arguments: object):
        made.append(run.id)
        if len(made) == 3:
            raise error
        return real(run, *arguments)

    class Stopped(fleet.Fleet):
        def __init__(self, members, **settings):
            raise KeyboardInterrupt

    monkeypatch.setattr(fleet_execute, "begin", begin)
    monkeypatch.setattr(fleet_execute, "Fleet", Stopped)
    with pytest.raises((KeyboardInterrupt, WriteError)):
        execute_fleet(many, tmp_path)
    assert not list(tmp_path.glob("*/lock"))
    assert not locks._held
    assert len(list(tmp_path.iterdir())) <= 3 + fleet_execute._AHEAD
    described = made[:2] if isinstance(error, torch.OutOfMemoryError) else []  # once it is clear which are trained
    assert {path.parent.name for path in tmp_path.glob("*/run.json")} == set(described)


def test_no_more_directories_are_opened_than_runs_are_trained(tmp_path):
    assert len(execute_fleet(RUNS, tmp_path, most=3)) == 3
    assert {folder.name for folder in tmp_path.iterdir()} == {run.id for run in RUNS[:3]}


@pytest.mark.parametrize("width", [1, 3, 1000])
def test_each_of_thousands_of_runs_is_looked_at_once(width):
    looks: list[Run] = []
    waiting = Waiting(lambda run: looks.append(run) or 0)
    runs = [Run(Tiny(), (None, PRUNE)[seed % 2], steps=30, seed=seed) for seed in range(2000)]
    for run in runs:
        waiting.add(run)
    while waiting:
        waiting.take([run.id for run in waiting.group(width)])
    assert len(looks) == len(runs)


def test_a_fleet_tells_its_steps_without_a_look_at_each_directory(tmp_path, monkeypatch):
    looks: list[Path] = []
    real = completed_steps
    monkeypatch.setattr(sweeps, "completed_steps", lambda folder: looks.append(folder) or real(folder))
    state = Sweep(tmp_path, {run.id: run for run in RUNS}, submitted={run.id for run in RUNS})
    with pytest.raises(KeyboardInterrupt):
        execute_fleet(RUNS, tmp_path, evaluations=4, progress=until(4 * 13))
    assert state.steps() == (40, 40)
    assert [state.steps(now) for now in (20, 40, 60)] == [(40, 40), (40, 40), (60, 20)]
    assert len(looks) == 4


def test_evaluations_below_one_are_refused(tmp_path):
    with pytest.raises(CannotStackError, match="evaluations must be at least 1, got 0"):
        execute_fleet(RUNS, tmp_path, evaluations=0)


# What is damaged.


@pytest.mark.parametrize("damage", ["checkpoint.pt", "metrics.jsonl", "result.json", "failed.json"])
def test_a_damaged_file_of_one_run_is_of_that_run_alone(damage, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        execute_fleet(RUNS, tmp_path, evaluations=4, progress=until(4 * 13))
    (tmp_path / RUNS[1].id / damage).write_text("{")
    ended, _ = swept(RUNS, tmp_path)
    states = [ended.outcomes[run.id].state for run in RUNS]
    assert states[0] == states[2] == states[3] == "finished"
    assert states[1] == ("finished" if damage == "metrics.jsonl" else "failed")
    assert not list(tmp_path.glob("*/lock"))


def test_a_run_whose_origin_has_lost_its_weights_fails_alone(tmp_path):
    starts = [Run(Still(), None, steps=4, seed=seed) for seed in range(3)]
    execute_fleet(starts, tmp_path, evaluations=2)
    (tmp_path / starts[1].id / "model.safetensors").unlink()
    runs = [replace(run, origin=Pretrained(start)) for run, start in zip(RUNS, starts, strict=False)]
    ended, _ = swept(runs, tmp_path)
    assert [ended.outcomes[run.id].state for run in runs] == ["finished", "failed", "finished"]
    assert "FileNotFoundError" in ended.outcomes[runs[1].id].reason
