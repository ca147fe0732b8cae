"""The price of a sweep: its runs, the steps that are left of them, and the time that those would take."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from openwork.study.fleet.groups import alike
from openwork.study.fleet.memory import width as fitting
from openwork.study.fleet.training import Training
from openwork.study.results.apart import Named, names_apart
from openwork.study.results.store import read_results
from openwork.study.runs.config import to_plain
from openwork.study.runs.described import refuse_changed, refuse_old
from openwork.study.runs.live import prepare
from openwork.study.runs.run import Run, with_prerequisites
from openwork.study.sweeps.outcome import known_outcome
from openwork.study.sweeps.sweep import completed_steps
from openwork.study.training.loop import train
from openwork.words import count

WARM_UP, MEASURED = 3, 20  # steps


@dataclass(frozen=True)
class Price:
    """The runs of one technique on one task.

    Args:
        task: The task's title; with its class where another one of the sweep has that title, too, as in reports.
        name: The runs' name; likewise.
        states: How many runs are "finished", "diverged", "failed", "interrupted" or "new".
        steps: The steps that are left.
        step_ms: Milliseconds of one step; None where nothing tells them.
        source: Where ``step_ms`` comes from.
    """

    task: str
    name: str
    states: Counter[str]
    steps: int
    step_ms: float | None
    source: str

    @property
    def hours(self) -> float | None:
        """Hours of training on one device, without evaluation; None without ``step_ms``."""
        return None if self.step_ms is None else self.steps * self.step_ms / 3.6e6


def prices(
    runs: Iterable[Run],
    directory: Path,
    *,
    retry_failed: bool = False,
    fleet: bool = False,
    measure: Callable[[Sequence[Run]], tuple[float, str]] | None = None,
) -> list[Price]:
    """The price of the runs, and of those that they start from, for each task and technique.

    The time of a step is the median of the finished runs of that task and technique; without any, ``measure`` tells it.
    Nothing is written. A run whose result cannot be read has failed.

    Args:
        runs: The runs of the sweep.
        directory: The folder of run directories, which need not exist.
        retry_failed: Count the steps of failed runs, too.
        fleet: Whether the runs will be trained as fleets; the times of others tell nothing about it.
        measure: The milliseconds of a step of a run, and how they were measured; called with the runs that are still to
            be trained.

    Raises:
        ValueError: For a directory with which `sweep` refuses to go on, as nothing can be bought there.
    """
    refuse_old(directory.glob("*"))
    every = with_prerequisites(runs)
    for run in every:
        refuse_changed(run, directory / run.id)
    names = [Named(run.name, run.task.title, to_plain(run)) for run in every]
    groups: dict[tuple[str, ...], tuple[Named, list[Run]]] = {}  # by class: two of one name may cost different times
    for run, named, shown in zip(every, names, *names_apart(names), strict=True):
        groups.setdefault(named.kind, (shown, []))[1].append(run)
    times: dict[tuple[str, ...], list[float]] = {}
    kept = read_results(directory, layers=False, problems=[], apart=False) if directory.is_dir() else []
    for result in kept:
        as_fleet = (result.environment.fleet is not None) == fleet
        if as_fleet and result.finished and result.trained and result.cost.step_ms is not None:
            times.setdefault(Named(result.name, result.task, result.run).kind, []).append(result.cost.step_ms)
    found = []
    for kind, (shown, members) in groups.items():
        states: Counter[str] = Counter()
        steps, waiting = 0, []
        for run in members:
            state, left = _state(run, directory)
            states[state] += 1
            if left and (state != "failed" or retry_failed):
                steps += left
                waiting.append(run)
        step_ms, source = None, ""
        if known := times.get(kind):
            step_ms, source = median(known), count(len(known), "finished run")
        elif measure and waiting:
            step_ms, source = measure(waiting)
        found.append(Price(shown.task, shown.name, states, steps, step_ms, source))
    return found


def run_step_ms(runs: Sequence[Run], device: torch.device) -> tuple[float, str]:
    """The median time of the first run's first steps after a warm-up, in milliseconds, on this machine."""
    run = runs[0]
    live = prepare(run, device)
    optimizer = run.task.optimizer(live.model, live.sparsifier)
    if live.sparsifier:
        live.sparsifier.attach(optimizer)
    count = min(WARM_UP + MEASURED + 1, run.steps)

    def training(end: Callable[[int], None]) -> None:
        steps = train(
            run.task,
            live.model,
            optimizer,
            live.objective,
            steps=run.steps,
            seed=run.seed,
            start=0,
            every=count,
            device=device,
            progress=end,
        )
        next(steps)

    return _median_ms(training, device), f"{MEASURED} steps now"


def fleet_step_ms(runs: Sequence[Run], device: torch.device, width: int | None = None) -> tuple[float, str]:
    """The share of a run in the median time of its fleet's first steps, in milliseconds, on this machine.

    Args:
        runs: Runs, of which those that can be trained with the first one are its fleet.
        device: Where they train.
        width: How many there are at most; None for as many as the memory holds.
    """
    kind = alike(runs[0])
    group = [run for run in runs if alike(run) == kind]
    try:
        return _fleet_step_ms(group, device, width)
    except Exception:  # they cannot be stacked, as the sweep will say
        return run_step_ms(runs, device)


def _fleet_step_ms(group: Sequence[Run], device: torch.device, width: int | None) -> tuple[float, str]:
    lives = [prepare(group[0], device)]
    most = min(len(group), width or len(group), fitting(lives[0], width))
    if most == 1:
        return run_step_ms(group, device)
    lives += [prepare(run, device) for run in group[1:most]]
    trained = Training(lives)

    def training(end: Callable[[int], None]) -> None:
        for done, batch in zip(range(min(WARM_UP + MEASURED + 1, group[0].steps)), trained.batches(), strict=False):
            trained.step(batch)
            end(done)

    return _median_ms(training, device) / most, f"{MEASURED} steps of {most} runs now"


def _median_ms(training: Callable[[Callable[[int], None]], None], device: torch.device) -> float:
    """The median time between the ends of its steps, of which ``training`` tells, after a warm-up."""
    ends: list[float] = []

    def end(_: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ends.append(time.perf_counter())

    end(0)
    training(end)
    durations = [after - before for before, after in pairwise(ends)]
    return 1000 * median(durations[WARM_UP:] or durations)


def _state(run: Run, directory: Path) -> tuple[str, int]:
    """The run's state and the steps that are left of it."""
    folder = directory / run.id
    known = known_outcome(folder)
    if known and known.result:
        return known.state, 0
    done = completed_steps(folder) if (folder / "checkpoint.pt").exists() else 0
    return known.state if known else "interrupted" if done else "new", run.steps - done
