"""What the commands share: consoles, options, output."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

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


def runs_of(experiment: str, settings: Sequence[str] | None) -> list["Run"]:
    """The runs that ``module:function`` returns, each with the settings.

    Args:
        experiment: ``module:function`` of a function that returns a Run or several, or the name of such a value.
        settings: ``field=value`` changes to every run.

    Raises:
        ValueError: If there are no runs, the function needs arguments, or a setting does not fit.
    """
    from openwork.study.runs.config import find, override
    from openwork.study.runs.run import Run

    found = find(experiment)
    made = _called(found, experiment) if callable(found) else found
    runs = [made] if isinstance(made, Run) else list(made) if isinstance(made, Iterable) else []
    if not runs or not all(isinstance(one, Run) for one in runs):
        raise ValueError(f"{experiment} must return a Run or a list of them, got {made!r}")
    return [override(one, settings or []) for one in runs]


def _called(function: Callable[..., Any], path: str) -> Any:
    try:
        signature(function).bind()
    except TypeError as error:
        raise ValueError(f"{path} must be callable without arguments: {error}") from None
    return function()


def checked_device(name: str) -> "torch.device":
    """The device of that name.

    Raises:
        ValueError: If the name is unknown, or this machine has no such device.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; give cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not there: torch {torch.__version__} sees no CUDA GPU; use --device cpu")
    return device


def print_json(value: Any) -> None:
    """Prints ``value`` as JSON to standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
