"""Runs one script as the two processes of a gloo group."""

import subprocess
import sys
from pathlib import Path

# A file instead of a port: no other process can take it, and no launcher has to agree with anybody first. The last
# line leaves without Python's shutdown, in which a thread of gloo that asks for the interpreter aborts the process.
BEGIN = """
import os, sys, torch, torch.distributed as dist
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
"""
END = """
dist.barrier()
sys.stdout.flush()
os._exit(0)
"""


def run_two(script: str, folder: Path, timeout: float = 240) -> tuple[str, str]:
    """What rank 0 and rank 1 printed. The script finds `rank`, `torch` and `dist` ready, and must not exit itself."""
    path, store = folder / "process.py", folder / "store"
    path.write_text(BEGIN + script + END)
    processes = [
        subprocess.Popen(
            [sys.executable, str(path), str(rank), str(store)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        answers = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, answers, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return answers[0][0], answers[1][0]
