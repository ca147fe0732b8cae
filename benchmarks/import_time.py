"""How long `import openwork` takes beside `import torch`, in seconds of the processor.

Each is a new process, in turns. `import openwork` alone imports nothing: a public name imports torch, and what it
needs, when it is first used.

    python benchmarks/import_time.py [--rounds 20]
"""

import argparse
import os
import resource
import subprocess
import sys
from statistics import median

import torch
from raw import add_out, keep

PROGRAMS = {
    "import torch": "import torch",
    "import openwork, sparsify, a technique": "import openwork as ow; ow.sparsify, ow.GradualMagnitude, ow.Cubic",
    "import openwork, prune, a technique": "import openwork as ow; ow.prune, ow.Wanda, ow.OneShot",
    "import openwork, all public names": "import openwork as ow\nfor name in ow.__all__: getattr(ow, name)",
    "import openwork alone": "import openwork",
    "python alone": "",
}


def seconds(program: str) -> float:
    """User and system time of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    add_out(parser)
    arguments = parser.parse_args()
    for program in PROGRAMS.values():
        seconds(program)  # writes the byte code, and has the files in memory
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(arguments.rounds):
        for name, program in PROGRAMS.items():
            times[name].append(seconds(program))
    reference = next(iter(PROGRAMS))
    keep(arguments.out, times, unit="s of CPU", device=torch.device("cpu"), reference=reference)
    print("| | n | min, s of CPU | median | min / torch's | median / torch's |\n|---|---|---|---|---|---|")
    for name, found in times.items():
        ratios = (min(found) / min(times[reference]), median(found) / median(times[reference]))
        print(f"| {name} | {len(found)} | {min(found):.3f} | {median(found):.3f} | {ratios[0]:.3f} | {ratios[1]:.3f} |")


if __name__ == "__main__":
    main()
