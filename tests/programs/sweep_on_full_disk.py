"""Sweeps two runs, then, where nothing of more than 1,000 bytes has room, twelve; prints the error."""

import sys
from pathlib import Path

from openwork.study.files import WriteError
from openwork.study.sweeps.sweep import Here, Options, sweep
from tests.programs.full_disk import fill
from tests.study.tinylab import grid

if __name__ == "__main__":
    directory = Path(sys.argv[1])
    engine = Here(directory, Options(evaluations=2))
    sweep(grid()[:2], directory, engine)
    fill(1_000)
    try:
        sweep(grid(), directory, engine)
    except WriteError as error:
        print(type(error).__name__, error)
