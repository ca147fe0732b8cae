"""Executes the runs of a plan, piece by piece, and keeps a line for each in small CSV files.

The rows are in one folder; what they have is not run again, also on another machine. The run directories are in another
one, and are removed once their lines are written, but for those that other runs start from. No piece begins that would
not end within the seconds; start it again for the rest.
"""

import argparse
import fcntl
import math
import os
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from kept import COST, MEASURED, Found, Key, at_threshold, ended, line, paid_before, read_lines
from levels import SLACK

from openwork.cli.common import checked_device
from openwork.study.experiments.contest import Contest
from openwork.study.files import no_space
from openwork.study.locks import LockedError, locked
from openwork.study.results.store import write_table
from openwork.study.results.tuning import Tuned, choose
from openwork.study.runs.precision import Precision
from openwork.study.runs.run import Run, with_prerequisites
from openwork.study.sweeps.fleet import Fleets
from openwork.study.sweeps.outcome import known_outcome
from openwork.study.sweeps.sweep import Options, sweep
from openwork.words import count

SOON = 60.0  # seconds of expected pieces after which the last one says how slow the next ones are
TRIAL, FINAL = ("technique", "level", "setting"), ("technique", "level", "seed")
CHOICE = (*TRIAL, "rate", "option", "sparsity", "accuracy", "reached", "tried")


@dataclass(frozen=True)
class Piece:
    """Runs that are executed together, and where their lines go.

    Args:
        file: The CSV file, without its ending.
        columns: What the keys are.
        runs: Gives the runs by key, when the piece's turn has come.
        rate: The expected run-steps a second.
        thresholds: Other thresholds at which the runs are evaluated, too; the last column is then the threshold.
        evaluations: How often the runs are evaluated and can be resumed from.
        compiles: Whether a GPU trains them compiled, which pays where they are long.
        overhead: The expected seconds of the beginning and the end of a run.
        measured: The other columns.
    """

    file: str
    columns: tuple[str, ...]
    runs: Callable[[], dict[Key, Run]]
    rate: float
    thresholds: tuple[float, ...] = field(default=(), kw_only=True)
    evaluations: int = field(default=1, kw_only=True)
    compiles: bool = field(default=False, kw_only=True)
    overhead: float = field(default=0.035, kw_only=True)
    measured: tuple[str, ...] = field(default=(*MEASURED, *COST), kw_only=True)

    def seconds(self, runs: Iterable[Run]) -> float:
        """How long some of its runs are expected to take, with what they start from."""
        every = with_prerequisites(runs)
        return sum(run.steps for run in every) / self.rate + self.overhead * len(every)


class Rows:
    """The lines of one CSV file by key, written after every change; several processes may add to one file."""

    def __init__(self, path: Path, columns: Sequence[str], measured: Sequence[str]) -> None:
        self.path, self.columns, self.measured = path, tuple(columns), tuple(measured)
        self.lines = self.read()

    def add(self, found: Found) -> None:
        """Adds lines to those that the file has by now."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self.lines = self.read()
            self._write(found)
        finally:
            os.close(folder)

    def replace(self, found: Found) -> None:
        """Writes the file anew with these lines alone."""
        self.lines = {}
        self._write(found)

    def read(self) -> dict[tuple[str, ...], dict[str, str]]:
        """The lines that the file has now, by key."""
        return {tuple(each[c] for c in self.columns): each for each in read_lines(self.path, self.columns)}

    def _write(self, found: Found) -> None:
        self.lines |= {texts(key): dict(zip(self.columns, texts(key), strict=True)) | row for key, row in found.items()}
        header = (*self.columns, *self.measured)
        write_table(header, ([line.get(name, "") for name in header] for line in self.lines.values()), self.path)


def texts(key: Key) -> tuple[str, ...]:
    """A key as the file has it."""
    return tuple(f"{part:g}" if isinstance(part, float) else str(part) for part in key)


class AloneError(Exception):
    """Runs cannot be trained as one model, and one by one they would take too long."""


def refuse(reason: str) -> None:
    """Raises AloneError."""
    raise AloneError(reason)


def execute(piece: Piece, wanted: dict[Key, Run], runs: Path, options: Options) -> dict[Key, dict[str, Any]]:
    """The lines of the runs that ended, by key, after executing them and what they start from."""
    by_id, device = {run.id: run for run in wanted.values()}, options.device
    compiles = (piece.compiles or options.compile) and device != "cpu"
    options = replace(options, evaluations=piece.evaluations, compile=compiles)
    try:
        sweep(list(by_id.values()), runs, Fleets(runs, options, say=refuse), retry_failed=True)
    except AloneError as error:
        say(str(error))
    found: dict[Key, dict[str, Any]] = {}
    for key, run, result in ended(wanted, runs):
        found[key] = line(result)
        for threshold in piece.thresholds if result.finished else ():
            other = at_threshold(run, runs, threshold, torch.device(device))
            found[*key[:-1], threshold] = paid_before(found[key]) | other
    return found


def remove(wanted: dict[Key, Run], found: Found, runs: Path) -> None:
    """Removes the directories of runs whose lines are written, but for those that others start from.

    Args:
        wanted: The runs of a piece by key.
        found: Their lines; a run without one goes on from its directory, or says there why it failed.
        runs: The folder of the run directories.
    """
    needed = {each.id for run in wanted.values() for each in with_prerequisites([run]) if each.id != run.id}
    for id in {wanted[key].id for key in wanted.keys() & found.keys()} - needed:
        shutil.rmtree(runs / id, ignore_errors=True)


def number(text: str) -> float | None:
    """The number of a cell; None where it is empty."""
    return float(text) if text else None


def write_choices(contest: Contest, rows: Path) -> None:
    """Writes chosen.csv: for each technique and level what its tuning runs choose, where they reach it."""
    held = Rows(rows / "tuning.csv", TRIAL, (*MEASURED, *COST)).lines
    found: Found = {}
    for name, entrant in contest.entrants.items():
        own = [
            Tuned(
                name,
                f"{row['level']}/{int(row['setting']):02d}",
                contest.tuning_seed,
                number(row["sparsity"]),
                number(row["accuracy"]),
                float(row["level"]) if entrant.told else None,
            )
            for (technique, _, _), row in held.items()
            if technique == name
        ]
        if len(own) != len(entrant.settings) * (len(contest.anchors) if entrant.told else 1):
            continue  # its tuning is not done
        for level in (0.0,) if name == "dense" else contest.levels:
            tuned_at = contest.anchor(level) if entrant.told else level
            (choice,) = choose(own, [tuned_at], tolerance=(SLACK - 1) * (1 - tuned_at))
            if choice.settings is not None:
                setting = int(choice.settings.partition("/")[2])
                rate, option = entrant.settings[setting]
                found[name, level, setting] = {
                    "rate": f"{rate:.6g}",
                    "option": " ".join(f"{value:g}" for value in option),
                    "sparsity": f"{choice.sparsity:.6f}",
                    "accuracy": f"{choice.score:.4f}",
                    "reached": choice.reached,
                    "tried": choice.tried,
                }
    Rows(rows / "chosen.csv", TRIAL, CHOICE[3:]).replace(found)


def say(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def parser(text: str, parts: str) -> argparse.ArgumentParser:
    """The arguments of a study's script.

    Args:
        text: What ``--help`` prints.
        parts: The letters of the plan's parts.
    """
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("rows", type=Path, help="folder of the CSV files")
    found.add_argument("--runs", type=Path, required=True, help="folder of the run directories")
    found.add_argument("--device", type=device_here, default="cpu", help="cpu or cuda")
    found.add_argument("--precision", default="float32", choices=get_args(Precision), help="as openwork sweep has it")
    found.add_argument("--compile", action="store_true", help="compile all steps on a GPU")
    found.add_argument("--seconds", type=duration, default=math.inf, help="begin no piece that would end later")
    letters = partial(known_letters, f"0{parts}")
    found.add_argument("--parts", type=letters, default=parts, help=f"letters of parts, such as {parts[:3]}")
    return found


def known_letters(known: str, text: str) -> str:
    """The text, if its letters are parts of the plan, or 0."""
    if not text or set(text) - set(known):
        raise argparse.ArgumentTypeError(f"{text!r} names no parts; give letters of {known[1:]}")
    return text


def at_least_one(text: str) -> int:
    """``"4"`` as 4."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it must be a whole number and at least 1, got {text}")
    return int(text)


def above_zero(text: str) -> float:
    """``"800"`` as 800.0."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"it must be a number above 0, got {text}")
    return found


def duration(text: str) -> float:
    """``"540"`` as 540.0."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if math.isnan(found):  # which no time is ever later than
        raise argparse.ArgumentTypeError(f"it must be a number of seconds, got {text}")
    return found


def device_here(text: str) -> str:
    """The name of a device that this machine has: with another one each run would fail when its turn has come."""
    try:
        checked_device(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def say_failures(left: Iterable[Run], runs: Path) -> int:
    """Prints why runs failed, each reason once; returns how many did.

    Args:
        left: Runs without a line.
        runs: The folder of the run directories, which keep what each failed with.
    """
    outcomes = {run.id: known_outcome(runs / run.id) for run in left}
    failed = {id: found.reason for id, found in outcomes.items() if found and found.state == "failed"}
    for reason, times in Counter(failed.values()).items():
        example = next(id for id, other in failed.items() if other == reason)
        say(f"{count(times, 'run')} failed: {reason.splitlines()[0]} ({runs / example / 'failed.json'})")
    return len(failed)


@contextmanager
def only_here(runs: Path, piece: Iterable[Run]) -> Iterator[bool]:
    """Whether this process alone executes a piece, which others leave to it meanwhile; False if another one does.

    Args:
        runs: The folder of the run directories, which the processes share.
        piece: The runs of the piece, those included that are done.
    """
    runs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(locked(runs / f"piece-{next(iter(piece)).id}.lock"))
        except LockedError:
            yield False
        else:
            yield True


def follow(
    pieces: Iterable[tuple[str, Piece]],
    given: argparse.Namespace,
    *,
    before: Callable[[Piece], None] = lambda _: None,
    execute: Callable[[Piece, dict[Key, Run], Path, Options], Found] = execute,
    remove: Callable[[dict[Key, Run], Found, Path], None] = remove,
) -> None:
    """Executes pieces until all are done or the time is; several processes with one folder of runs divide them.

    What another process executes is left to it, and so is what would begin from its rows: a later call finds that.
    Where runs failed, the script goes on with the next piece, and ends with exit code 1.

    Args:
        pieces: In the order of the plan, with the letters of their parts.
        given: What `parser` read.
        before: Called before the runs of a piece are asked for.
        execute: Executes the runs of a piece that are not there.
        remove: Removes their directories, once their lines are written.
    """
    for folder in (given.rows, given.runs):  # before anything is trained whose lines could not be written
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            sys.exit(f"cannot use {folder}: {(error.strerror or str(error)).lower()}; give another folder")
    warnings.filterwarnings("ignore", message=".*keeps no weight")
    options = Options(device=given.device, precision=given.precision, compile=given.compile)
    began, promised, slower = time.monotonic(), 0.0, 1.0  # than expected
    others = failed = 0
    for part, piece in pieces:
        if part not in given.parts:
            continue
        before(piece)
        rows, runs = Rows(given.rows / f"{piece.file}.csv", piece.columns, piece.measured), piece.runs()
        if all(texts(key) in rows.lines for key in runs):
            continue
        name = next(iter(runs))[0]
        with only_here(given.runs, runs.values()) as only:
            if not only:
                others += 1
                continue
            rows.lines = rows.read()  # by now: the process that had them may just have ended
            wanted = {key: run for key, run in runs.items() if texts(key) not in rows.lines}
            if not wanted:
                continue
            spent, usual = time.monotonic() - began, piece.seconds(wanted.values())
            expected = slower * usual
            if spent + expected > given.seconds:
                of = count(len(wanted), "run")
                say(f"{part} {name}: {of} would take {expected:.0f} s more, after {spent:.0f} s; call again")
                break
            try:
                found = execute(piece, wanted, given.runs, options)
                rows.add(found)
            except OSError as error:
                if not no_space(error):
                    raise
                what = f"cannot write {error.filename}: {error.strerror}" if error.filename else str(error)
                sys.exit(f"{what}; what is done is kept, and the same call goes on from there")
            remove(wanted, found, given.runs)  # only now: a full disk would take what was trained
            missing = [run for key, run in wanted.items() if texts(key) not in rows.lines]
            failed += say_failures(missing, given.runs)
        took = time.monotonic() - began - spent
        left = len(missing)
        ran = f"{count(len(wanted) - left, 'run')} in {took:.0f} s, expected {expected:.0f}"
        say(f"{part} {piece.file}, {name}: {ran}; {left} left")
        promised += usual
        if promised > SOON and not left:  # of the last one: the first compiles, and others on the device come and go
            slower = max(1.0, took / usual)
    if others:
        say(f"other processes execute {count(others, 'piece')}; call again for what begins from their rows")
    if failed:
        sys.exit(
            f"{count(failed, 'run')} failed and {'has' if failed == 1 else 'have'} no line; call again to try anew"
        )
