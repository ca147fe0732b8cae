"""The machine and the software that a result was measured on."""

import json
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch

import openwork
from openwork.study.processes import world_size
from openwork.study.runs.precision import Precision

COMMIT_FILE = ".openwork-commit"
"""Says the commit of a source tree that was copied without its history."""


def environment(device: torch.device, precision: Precision = "float32") -> dict[str, Any]:
    """Device, processor, threads, precision, processes, versions and the commit of openwork's code (`commit_of`)."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": device.type,
        "processor": gpu or _processor(),
        "threads": torch.get_num_threads(),
        "precision": precision if gpu else None,
        "processes": world_size(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "openwork": openwork.__version__,
        "commit": _commit(),
    }


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@cache
def _commit() -> str | None:
    return commit_of(Path(openwork.__file__).parent)


def commit_of(package: Path) -> str | None:
    """The commit of openwork's code in the folder ``package``.

    The repository's, with ``-dirty`` where the files in ``package`` differ from it; without a repository what the file
    `COMMIT_FILE` says, which whoever copies the tree writes beside ``src``; otherwise the one that pip installed; None
    where nothing says it.
    """
    return _checked_out(package) or _written(package) or _installed(package)


def _checked_out(package: Path) -> str | None:
    try:
        # An installed copy may lie inside somebody else's repository, which does not track it.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "--short=12", "HEAD")
        # Of the package alone: results that are written into the tree change no run.
        return f"{commit}-dirty" if _git(package, "status", "--porcelain", "--", ".") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def _written(package: Path) -> str | None:
    try:
        return (package.parents[1] / COMMIT_FILE).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _installed(package: Path) -> str | None:
    try:
        installed = distribution("openwork")
        # Another copy of openwork than the installed one may be running.
        if not package.samefile(str(installed.locate_file("openwork"))):
            return None
        origin = json.loads(installed.read_text("direct_url.json") or "{}")  # PEP 610
    except (PackageNotFoundError, OSError, ValueError):
        return None
    commit: str | None = origin.get("vcs_info", {}).get("commit_id")
    return commit[:12] if commit else None
