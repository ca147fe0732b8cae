"""How commands that train say how it is going: a line that changes on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from openwork.cli.common import error_console
from openwork.words import count

if TYPE_CHECKING:
    from openwork.study.runs.run import Run
    from openwork.study.sweeps.sweep import Sweep

LINE_SECONDS = 30  # between two lines where the output is not a terminal


def say(sentence: str) -> None:
    """Prints a sentence beside the results."""
    error_console.print(sentence, markup=False, highlight=False, soft_wrap=True)


class Watch:
    """Says how a sweep is going: a line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._status = error_console.status("reading the run directories")
        self._began = self._said = time.monotonic()
        self._sweep: Sweep | None = None
        self._before = 0
        self._now = 0  # the steps of the runs that this process is training, where it says so

    def __enter__(self) -> None:
        if error_console.is_terminal:
            self._status.start()

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def __call__(self, sweep: "Sweep") -> None:
        """Between two runs."""
        self._now = 0
        self._show(sweep)

    def tick(self, steps: int) -> None:
        """After each step in this process; of a fleet, with the steps of all its runs together."""
        self._now = steps
        if self._sweep:
            self._show(self._sweep)

    def _show(self, sweep: "Sweep") -> None:
        now = time.monotonic()
        if self._sweep is None:
            self._sweep, self._began = sweep, now
            self._before, _ = sweep.steps()
            left = [id for id in sweep.runs if id not in sweep.outcomes]
            if begun := sum((sweep.directory / id / "checkpoint.pt").exists() for id in left):
                go = "goes on from its checkpoint" if begun == 1 else "go on from their checkpoints"
                say(f"of {count(len(left), 'run')} left, {begun} {go}")
        elif now - self._said < (1 if error_console.is_terminal else LINE_SECONDS):
            return
        self._said = now
        text = self._line(sweep, now - self._began)
        if error_console.is_terminal:
            self._status.update(Text(text))
        else:
            error_console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self, sweep: "Sweep", seconds: float) -> str:
        from openwork.study.evaluation.metric import ACCURACY
        from openwork.study.report.style import duration

        done, left = sweep.steps(self._now)
        parts = [f"{len(sweep.outcomes)} of {count(len(sweep.runs), 'run')} done", f"{len(sweep.running())} running"]
        parts += [f"{len(sweep.elsewhere)} trained by others"] if sweep.elsewhere else []
        parts += [f"{n} {state}" for state in ("failed", "diverged") if (n := sweep.count(state))]
        if best := sweep.best():
            score = best.metric.text(best.score, digits=2, space="")
            name = "" if best.metric == ACCURACY else f"{best.metric.name} "
            parts.append(f"best {name}{score} at {best.sparsity:.2%} sparsity ({best.name})")
        if done > self._before:
            parts.append(f"{duration(seconds * left / (done - self._before))} left")
        return ", ".join(parts)


@contextmanager
def steps_done(total: int) -> Iterator[Callable[["Run", str, int, int], None]]:
    """A function to call with a run, which one it is, its completed steps and those of all runs before it.

    Args:
        total: The steps of all runs.
    """
    if not error_console.is_terminal:
        yield _Lines(total)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console, transient=True) as bar:
        job = bar.add_task("", total=total)

        def update(run: "Run", which: str, step: int, before: int) -> None:
            if step % 20 == 0 or step == run.steps:  # drawing is cheap, but not as cheap as a small network's step
                text = f"{run.name}, seed {run.seed} ({which})  steps"
                bar.update(job, description=text, completed=before + step)

        yield update


class _Lines:
    """Says a line after a command's first step, and then now and then."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._said: float | None = None
        self._began: tuple[float, int] | None = None  # when this command's own first step was, and after how many

    def __call__(self, run: "Run", which: str, step: int, before: int) -> None:
        now = time.monotonic()
        if step and self._began is None:
            self._began = now, before + step
        if not step or (self._said is not None and now - self._said < LINE_SECONDS):
            return
        self._said = now
        text = f"{run.name}, seed {run.seed} ({which}): step {step:,} of {run.steps:,}"
        if self._began and before + step > self._began[1]:
            from openwork.study.report.style import duration

            left = (now - self._began[0]) * (self._total - before - step) / (before + step - self._began[1])
            text += f", {duration(left)} left"
        say(text)
