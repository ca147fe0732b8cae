"""The machine and the software that a result was measured on."""

import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

import openwork
from openwork.study.processes import world_size


def environment(device: torch.device) -> dict[str, Any]:
    """Device, processor, threads, processes, versions and the commit of the source tree (None outside one)."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": device.type,
        "processor": gpu or _processor(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "openwork": openwork.__version__,
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@cache
def _commit() -> str | None:
    try:
        # An installed copy may lie inside somebody else's repository, which does not track it.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("rev-parse", "--short=12", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return answer.stdout.strip()
