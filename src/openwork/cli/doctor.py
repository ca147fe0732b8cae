"""The command doctor: which way each operation goes on this machine."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE

from openwork.cli.characters import SafeTable
from openwork.cli.common import Json, error_console, out_console, print_json

if TYPE_CHECKING:
    import torch


def doctor(
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; by default cuda where it is there.")] = None,
    as_json: Json = False,
) -> None:
    """Say which way each operation goes on this machine, and why: a kernel, or torch's own operations.

    A missing Triton, an old GPU or another dtype is no error: the plain twin of the kernel runs. On a CPU this compiles
    the C++ kernels, where that has not been done.
    """
    import torch

    from openwork.cli.common import checked_device

    place = checked_device(device or ("cuda" if torch.cuda.is_available() else "cpu"), here=False)
    with error_console.status("looking"):
        machine, found = _machine(place), _ways(place)
    if as_json:
        print_json("doctor", device=str(place), machine=machine, operations=found)
        return
    table = SafeTable("operation", "dtypes", "way", "why", title=f"operations on {place}", box=SIMPLE)
    for one in found:
        table.add_row(one["operation"], ", ".join(one["dtypes"]), one["way"], one["why"])
    for name, text in machine.items():
        out_console.print(f"{name:9} {text}", highlight=False, soft_wrap=True, markup=False)
    out_console.print(table)


def _ways(device: "torch.device") -> list[dict[str, Any]]:
    """One for each operation, or for each group of dtypes that goes another way."""
    import torch

    from openwork.kernels.paths import Path, operations, short

    found: list[dict[str, Any]] = []
    for name, path in operations().items():
        ways: dict[Path, list[str]] = {}
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            ways.setdefault(path(device, dtype), []).append(short(dtype))
        found += [
            {"operation": name, "dtypes": dtypes, "way": way.name, "why": way.why} for way, dtypes in ways.items()
        ]
    return found


def _machine(device: "torch.device") -> dict[str, str]:
    """What the operations depend on, as text."""
    import torch

    from openwork.kernels.paths import capability
    from openwork.study.runs.environment import environment

    known = environment(torch.device("cpu"))
    where = device if device.type == "cuda" else torch.device("cuda")
    found = capability(where)
    gpu = (
        found
        if isinstance(found, str)
        else f"{torch.version.cuda}, {torch.cuda.get_device_name(where)}, compute capability {found[0]}.{found[1]}"
    )
    return {
        "openwork": f"{known['openwork']}, commit {known['commit']}",
        "python": known["python"],
        "torch": known["torch"],
        "triton": _installed("triton"),
        "GPU": gpu,
        "CPU": f"{known['processor']}, {torch.backends.cpu.get_cpu_capability()}, {known['threads']} threads",
        "compiler": _compiler(),
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return f"not installed; `pip install {package}` brings it"


def _compiler() -> str:
    import subprocess

    from openwork.kernels.compiled import compiler

    try:
        command = compiler()
        answer = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    except (RuntimeError, OSError) as error:
        return str(error)
    return (answer.stdout.splitlines() or [" ".join(command)])[0]
