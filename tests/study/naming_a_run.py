"""Names a run both ways, and prints the modules that this imports; test_names.py runs it in a separate process."""

import sys

from openwork.study.runs.config import from_plain, to_plain

PLAIN = {
    "type": "Run",
    "task": {"type": "DigitsLeNet300100"},
    "technique": {"type": "GradualMagnitude", "schedule": {"type": "OneShot", "final": 0.5}},
    "steps": 3,
}

if __name__ == "__main__":
    assert to_plain(from_plain(PLAIN)) == PLAIN
    sys.stdout.write("\n".join(sys.modules))
