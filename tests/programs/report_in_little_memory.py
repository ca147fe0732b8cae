"""Prints what `openwork.report` says of each file, with 500 MB of address space and 100 MB of memory to do it in."""

import resource
import sys
from pathlib import Path

from openwork import report

if __name__ == "__main__":
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 500_000_000, virtual + 500_000_000))
    for path in sys.argv[1:]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            print("report", report(path).zeros)
        except ValueError as error:
            print(error)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, path  # kilobytes
