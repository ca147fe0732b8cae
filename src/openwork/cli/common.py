"""What the commands share: consoles, options, output."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from openwork.cli.errors import UsageError

if TYPE_CHECKING:
    import torch

    from openwork.study.runs.run import Run

out_console = Console(width=None if sys.stdout.isatty() else 120)
error_console = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Checkpoint = Annotated[Path, typer.Argument(help="A run's directory or a checkpoint file.")]
Trust = Annotated[list[str] | None, typer.Option(help="A package of yours that the checkpoint's run may import.")]
Experiment = Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="A function that returns a Run or several.")]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Changes, such as seed=1 task.batch_size=64.")
]
Compile = Annotated[bool, typer.Option("--compile", help="Use torch.compile; needs a C++ compiler.")]
Evaluations = Annotated[int, typer.Option(min=1, help="How often to evaluate and save, over the whole run.")]
Snapshots = Annotated[int, typer.Option(min=0, help="How many copies of the weights to keep, for pictures.")]


def yield_cores() -> None:
    """Lets a thread of torch that waits for another give its core away soon; to be called before torch is imported.

    GNU's OpenMP waits for milliseconds otherwise. Where other programs use the cores, as another sweep does, that made
    the steps of a fleet ten times as long.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def runs_of(experiment: str, settings: Sequence[str] | None) -> list["Run"]:
    """The runs that ``module:function`` returns, each with the settings.

    Args:
        experiment: ``module:function`` of a function that returns a Run or several, or the name of such a value.
        settings: ``field=value`` changes to every run.

    Raises:
        ValueError: If there are no runs, or the function needs arguments.
        UsageError: If a setting does not fit.
    """
    from openwork.study.runs.config import find, override
    from openwork.study.runs.run import Run

    found = find(experiment)
    made = _called(found, experiment) if callable(found) else found
    runs = [made] if isinstance(made, Run) else list(made) if isinstance(made, Iterable) else []
    if not runs or not all(isinstance(one, Run) for one in runs):
        raise ValueError(f"{experiment} must return a Run or a list of them, got {made!r}")
    try:
        return [override(one, settings or []) for one in runs]
    except ValueError as error:
        raise UsageError(str(error)) from error


def say_unfinished(runs: Iterable["Run"]) -> None:
    """Says on standard error which schedules end after their runs."""
    from openwork.study.runs.run import with_prerequisites
    from openwork.study.runs.unfinished import unfinished_schedules

    for sentence in unfinished_schedules(with_prerequisites(runs)):
        error_console.print(f"warning: {sentence}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _called(function: Callable[..., Any], path: str) -> Any:
    try:
        signature(function).bind()
    except TypeError as error:
        raise ValueError(f"{path} must be callable without arguments: {error}") from None
    return function()


def checked_device(name: str, *, here: bool = True) -> "torch.device":
    """The device of that name.

    Args:
        name: cpu, cuda or cuda:N.
        here: Whether this machine must have it.

    Raises:
        ValueError: If the name is unknown, or this machine has no such device.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}; give cpu, cuda or cuda:N")
    if device.type == "cpu" or not here:
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise ValueError(f"device {name!r} is not there: torch {torch.__version__} sees no CUDA GPU; use --device cpu")
    if (device.index or 0) >= count:
        raise ValueError(f"device {name!r} is not there: torch sees {count}; give cuda:0 to cuda:{count - 1}")
    return device


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception: what is half written is removed, and claims are released."""


@contextmanager
def going_on(out: Path) -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM end the command with exit code 130 or 143, and a sentence: the same command goes on.

    Args:
        out: The folder of the run directories.
    """
    own = os.getpid()

    def terminate(number: int, frame: object) -> None:
        if os.getpid() == own:
            raise _Terminated
        signal.signal(number, signal.SIG_DFL)  # in a forked process nobody catches the exception
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as stopped:
        from openwork.study.processes import rank

        if not rank():
            text = f"stopped; what is done is kept in {out.resolve()}, and the same command goes on from there"
            error_console.print(text, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(143 if isinstance(stopped, _Terminated) else 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def print_json(value: Any) -> None:
    """Prints ``value`` as JSON to standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
