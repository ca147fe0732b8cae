"""Several sweeps of one folder of runs, in an order that is forced: they share the work and its failures."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from openwork.study import files
from openwork.study.results.store import failures
from openwork.study.runs.claim import ClaimedError, claim
from openwork.study.runs.origin import Pretrained
from openwork.study.runs.run import Run
from openwork.study.sweeps import sweep as module
from openwork.study.sweeps.fleet import Fleets
from openwork.study.sweeps.outcome import Outcome
from openwork.study.sweeps.sweep import CRASHES, Engine, Here, Options, sweep
from tests.study.tinylab import PRUNE, Diverging, Failing, Still, Tiny

OPTIONS = Options(evaluations=2)
ENGINES = {"one by one": Here, "fleets": Fleets}


class Crashing(Here):
    """Whatever it is given kills its process."""

    def wait(self) -> list[tuple[Run, Outcome]]:
        ended = [(run, Outcome("crashed", reason="killed")) for run, _ in self._submitted]
        self._submitted.clear()
        return ended


def failing(folder: Path) -> list[Run]:
    return [Run(Failing(unless=str(folder / "repaired")), PRUNE, steps=4, seed=seed) for seed in range(2)]


def without_weights(folder: Path) -> list[Run]:
    """Two runs that cannot begin."""
    starts = [Run(Still(), None, steps=4, seed=seed) for seed in range(2)]
    sweep(starts, folder, Fleets(folder, OPTIONS))
    for start in starts:
        (folder / start.id / "model.safetensors").unlink()
    return [Run(Still(), PRUNE, steps=20, seed=start.seed, origin=Pretrained(start)) for start in starts]


def after_divergence(folder: Path) -> list[Run]:
    return [Run(Tiny(), PRUNE, steps=20, origin=Pretrained(Run(Diverging(), None, steps=4)))]


@pytest.mark.parametrize(
    ("runs", "engine"),
    [
        (failing, Here),
        (failing, Fleets),
        (failing, Crashing),
        (without_weights, Here),
        (without_weights, Fleets),
        (after_divergence, Here),
    ],
)
def test_a_failure_is_written_while_the_directory_is_claimed(runs, engine, tmp_path, monkeypatch):
    written: list[str] = []
    real = files.write_atomically

    def write(path: Path, content) -> None:
        if path.name == "failed.json":
            with pytest.raises(ClaimedError), claim(path.parent):
                pass  # what begins the run would remove the temporary file
            written.append(path.parent.name)
        real(path, content)

    made = runs(tmp_path)
    monkeypatch.setattr(files, "write_atomically", write)
    ended = sweep(made, tmp_path, engine(tmp_path, OPTIONS))
    assert sorted(written) == sorted(run.id for run in made)
    assert {ended.outcomes[run.id].state for run in made} == {"failed"}
    assert not list(tmp_path.glob("*/lock"))


def beside(engine: type, folder: Path, *, retry_failed: bool) -> Engine:
    """An engine that lets another sweep try all runs first, which have been submitted already."""

    class Slower(engine):
        other = None

        def wait(self) -> list[tuple[Run, Outcome]]:
            if Slower.other is None:
                Slower.other = sweep(failing(folder), folder, engine(folder, OPTIONS), retry_failed=retry_failed)
            return super().wait()

    return Slower(folder, OPTIONS)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("runs", [1, 2])
def test_a_run_that_fails_in_one_process_is_not_tried_again_by_the_others(runs, engine, tmp_path):
    slower = beside(ENGINES[engine], tmp_path, retry_failed=False)
    ended = sweep(failing(tmp_path)[:runs], tmp_path, slower)
    assert [failure["attempt"] for failure in failures(tmp_path).values()] == [1, 1]
    assert [outcome.reason for outcome in ended.outcomes.values()] == ["RuntimeError: the loss is wrong"] * runs
    slower = beside(ENGINES[engine], tmp_path, retry_failed=True)
    type(slower).other = None
    ended = sweep(failing(tmp_path), tmp_path, slower, retry_failed=True)
    assert [failure["attempt"] for failure in failures(tmp_path).values()] == [2, 2]
    assert ended.count("failed") == 2
    (tmp_path / "repaired").touch()
    sweep(failing(tmp_path), tmp_path, ENGINES[engine](tmp_path, OPTIONS), retry_failed=True)
    assert not failures(tmp_path)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_damaged_failure_is_no_reason_to_leave_a_run_that_is_tried_again(engine, tmp_path):
    (tmp_path / "repaired").touch()
    for run in failing(tmp_path):
        (tmp_path / run.id).mkdir()
        (tmp_path / run.id / "failed.json").write_text("{")
    assert sweep(failing(tmp_path), tmp_path, ENGINES[engine](tmp_path, OPTIONS)).count("failed") == 2
    ended = sweep(failing(tmp_path), tmp_path, ENGINES[engine](tmp_path, OPTIONS), retry_failed=True)
    assert ended.count("finished") == 2


@pytest.mark.parametrize("runs", [failing, after_divergence])
def test_a_failure_waits_for_another_process_that_holds_the_claim_and_takes_its_result(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CLAIMED_SECONDS", 0.0)
    run = runs(tmp_path)[0]
    other = {"format": 2, "error": "the other's", "attempt": 1}
    looks: list[int] = []
    with ExitStack() as held:
        (tmp_path / run.id).mkdir()
        held.enter_context(claim(tmp_path / run.id))

        def watch(state) -> None:
            looks.append(len(state.elsewhere))
            if len(looks) > CRASHES + 2:
                (tmp_path / run.id / "failed.json").write_text(json.dumps(other))
                held.close()

        ended = sweep([run], tmp_path, Crashing(tmp_path, OPTIONS) if runs is failing else Here(tmp_path, OPTIONS),
                      watch=watch)  # fmt: skip
    assert 1 in looks
    assert ended.outcomes[run.id].reason == "the other's"
