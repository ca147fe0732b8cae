"""What the commands share: consoles, options, output."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    import torch

out_console = Console(width=None if sys.stdout.isatty() else 120)
error_console = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Checkpoint = Annotated[Path, typer.Argument(help="A run's directory or a checkpoint file.")]
Trust = Annotated[list[str] | None, typer.Option(help="A package of yours that the checkpoint's run may import.")]


def checked_device(name: str) -> "torch.device":
    """The device of that name. Raises ValueError where it is unknown or not there."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}; give cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not there: torch {torch.__version__} sees no CUDA GPU; use --device cpu")
    return device


def print_json(value: Any) -> None:
    """Prints ``value`` to standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
