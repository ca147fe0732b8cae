"""What the commands share: consoles, options, output."""

import json
import os
import reprlib
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from openwork.cli.characters import SafeConsole
from openwork.cli.complete import complete_experiments, complete_runs
from openwork.cli.output import output_alone
from openwork.formats.files import refuse_stream

if TYPE_CHECKING:
    import torch

    from openwork.study.runs.run import Run

for _name in ("stdout", "stderr"):
    if getattr(sys, _name) is None:  # it was closed, as a shell's >&- does
        setattr(sys, _name, open(os.devnull, "w"))  # noqa: SIM115  for as long as the process lives

# Without markup: what users write, and errors such as [Errno 2], have brackets of their own.
out_console = SafeConsole(width=None if sys.stdout.isatty() else 120, markup=False)
error_console = SafeConsole(stderr=True, markup=False)

RUNS = Path("openwork-runs")
"""Where runs are, if nobody says otherwise."""
FORMAT = 1
"""Of what `--json` prints; it grows with changes that readers would trip over, not with new keys."""


def folder_option(help: str, metavar: str = "PATH") -> Any:
    """An option for a folder to write to: a file of that name is refused before anything is done."""
    return _output_option(help, metavar, Path.is_file, "file", "folder")


def file_option(help: str) -> Any:
    """An option for a file to write: a folder of that name is refused before anything is done."""
    return _output_option(help, "PATH", Path.is_dir, "folder", "file")


def _output_option(help: str, metavar: str, is_other: Callable[[Path], bool], other: str, wanted: str) -> Any:
    def check(path: Path | None) -> Path | None:
        if path is not None:
            refuse_stream(path)
            if is_other(path):
                raise ValueError(f"cannot use {path}, which is a {other}, for a {wanted}; give another name")
        return path

    return typer.Option(help=help, metavar=metavar, callback=check)


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead: docs/cli.md.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", autocompletion=lambda: ["cpu", "cuda"])]
Sparsity = Annotated[
    str | None, typer.Option(metavar="FRACTION", help="The fraction of zeros, such as 0.5; with 2:4 it follows.")
]
Pattern = Annotated[
    str | None, typer.Option(help="Where zeros lie: 2:4 or another n:m, 1x4 blocks, rows, columns, per-output.")
]
Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run: its directory, name or the beginning of its id; or a checkpoint file.",
        autocompletion=complete_runs,
    ),
]  # fmt: skip
Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN", help="Runs: their directories, names or the beginnings of their ids.",
        autocompletion=complete_runs,
    ),
]  # fmt: skip
RunsOut = Annotated[Path, folder_option("Folder of the run directories.")]
Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="A name for these runs, for `openwork show NAME` and others.")
]
Trust = Annotated[list[str] | None, typer.Option(help="A package of yours that the checkpoint's run may import.")]
Experiment = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:FUNCTION", help="A function that returns a Run or several.", autocompletion=complete_experiments
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="FIELD=VALUE", help="Changes, such as task.batch_size=64; seed=0,1,2 makes a run of each."),
]
Compile = Annotated[bool, typer.Option("--compile", help="Use torch.compile; needs a C++ compiler.")]
Evaluations = Annotated[int, typer.Option(min=1, help="How often to evaluate and save, over the whole run.")]
Precision = Annotated[
    Literal["float32", "tf32", "bf16"], typer.Option(help="How a GPU computes products; docs/fleet.md.")
]
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
        experiment: ``module:function`` of a function that returns a Run or several, also by key, or of a value.
        settings: ``field=value`` changes to every run.

    Raises:
        ValueError: If there are no runs, the function needs arguments, or a setting does not fit.
    """
    from openwork.study.runs.config import find
    from openwork.study.runs.grid import grid
    from openwork.study.runs.run import Run

    found = find(experiment)
    made = _called(found, experiment) if callable(found) else found
    if isinstance(made, Mapping):  # by key, as those of a study are
        made = list(made.values())
    runs = [made] if isinstance(made, Run) else list(made) if isinstance(made, Iterable) else []
    if not runs or not all(isinstance(one, Run) for one in runs):
        raise ValueError(f"{experiment} must return a Run or a list of them, got {reprlib.repr(made)}")
    try:
        every = [changed for one in runs for changed in grid(one, settings or [])]
    except ValueError as error:  # also of a task of the user's: the setting is at fault, and not that code
        raise ValueError(str(error)) from error
    return list({one.id: one for one in every}.values())


def check_run_name(name: str | None, runs: Iterable["Run"], out: Path) -> None:
    """Checks a name for the runs, where there is one.

    Raises:
        ValueError: If it cannot be one, or stands for others.
    """
    if name is not None:
        from openwork.study.results.folders import check_name

        check_name(name, [one.id for one in runs], out)


def keep_name(name: str | None, runs: Collection["Run"], out: Path) -> None:
    """Writes down that a name, where there is one, stands for the runs, too; raises as `check_run_name`."""
    check_run_name(name, runs, out)
    if name is not None:
        from openwork.study.results.folders import write_name

        if others := write_name(name, [one.id for one in runs], out):
            text = f"{name!r} names these {len(runs)} runs and {others} more; `openwork show {out / name}` has all"
            error_console.print(text, highlight=False, soft_wrap=True)


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
    from openwork.study.exits import exits_are_errors

    with exits_are_errors():
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


@contextmanager
def going_on(out: Path) -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM end the command with exit code 130 or 143, and a sentence: the same command goes on.

    SIGTERM raises, too, so that what is half written is removed, and claims are released.

    Args:
        out: The folder of the run directories.
    """
    own = os.getpid()
    terminated = False

    def terminate(number: int, frame: object) -> None:
        nonlocal terminated
        if os.getpid() == own:
            terminated = True  # what waits in C, as Ray does, raises a KeyboardInterrupt of its own instead
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # in a forked process nobody catches the exception
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt:
        from openwork.study.processes import rank

        if not rank():
            text = f"stopped; what is done is kept in {out.resolve()}, and the same command goes on from there"
            error_console.print(text, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(143 if terminated else 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def json_alone(command: Callable[..., None]) -> Callable[..., None]:
    """The command; with ``--json`` whatever prints meanwhile, as a user's task may, prints to standard error."""

    @wraps(command)
    def run(**arguments: Any) -> None:
        if not arguments.get("as_json"):
            command(**arguments)
            return
        with output_alone() as output:
            _outputs.append(output)
            try:
                command(**arguments)
            finally:
                _outputs.pop()

    return run


_outputs: list[TextIO] = []
"""Standard output, while what is not JSON goes to standard error."""


def json_output() -> TextIO:
    """Where JSON goes: standard output, whatever else is kept from it."""
    return _outputs[-1] if _outputs else sys.stdout


def print_json(command: str, **content: Any) -> None:
    """Prints what `json_text` says to standard output."""
    json_output().write(json_text(command, **content) + "\n")


def json_text(command: str, *, indent: int | None = 2, **content: Any) -> str:
    """The JSON of an object with the format, the command and its content."""
    return json.dumps({"format": FORMAT, "command": command, **content}, indent=indent)


def found_runs(texts: Iterable[Path]) -> list[Path]:
    """The directories of the runs that paths, names or beginnings of ids mean; each once.

    Raises:
        FileNotFoundError: If one means none; another file of that name is none.
        ValueError: If one is the beginning of several ids.
    """
    return [*{path.resolve(): path for text in texts for path in _meant(text)}.values()]


def _meant(text: Path) -> list[Path]:
    from openwork.study.results.folders import find_runs

    if found := find_runs(text, RUNS):
        return found
    if text.exists():
        listed = f"; `openwork list {text}` shows the runs in it" if text.is_dir() else ""
        raise FileNotFoundError(f"{text} is no run's directory{listed}")
    folder = text.parent if len(text.parts) > 1 else RUNS
    raise FileNotFoundError(
        f"there is no run {text.name} in {folder}; `openwork list {folder}` shows those that are there"
    )


def found_run(text: Path) -> Path:
    """The directory of the one run that is meant; what exists stays as it is, and so does what means none.

    Raises:
        ValueError: If it means several.
    """
    from openwork.study.results.folders import find_runs

    found = [] if text.exists() else find_runs(text, RUNS)
    if len(found) > 1:
        raise ValueError(f"{text.name!r} is the name of {len(found)} runs, and one is needed; give the id of one")
    return found[0] if found else text
