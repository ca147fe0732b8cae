"""Sweeps 16 runs as fleets where only so many more files may be open at once; prints the widths of the fleets."""

import resource
import sys
from pathlib import Path

from openwork.study.fleet.execute import _open_files
from openwork.study.runs.run import Run
from openwork.study.sweeps.fleet import Fleets
from openwork.study.sweeps.sweep import Options, sweep
from tests.study.tinylab import PRUNE, Tiny

if __name__ == "__main__":
    directory, more = Path(sys.argv[1]), int(sys.argv[2])
    runs = [Run(Tiny(), PRUNE, steps=20, seed=seed) for seed in range(16)]
    limit = _open_files() + more
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    ended = sweep(runs, directory, Fleets(directory, Options(evaluations=2)))
    for outcome in ended.outcomes.values():
        assert outcome.result, outcome.reason
        print(outcome.result.environment.fleet or 1)
