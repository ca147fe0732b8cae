"""Claims a folder and holds it; with `fork`, so does a child that says its id."""

import os
import sys
import time
from pathlib import Path

from openwork.study.runs.claim import claim

if __name__ == "__main__":
    with claim(Path(sys.argv[1])):
        if "fork" not in sys.argv:
            print("held", flush=True)
        elif os.fork() == 0:
            print(os.getpid(), flush=True)
        time.sleep(60)
