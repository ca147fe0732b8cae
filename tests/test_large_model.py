"""The benchmark of large models runs, small, on a CPU."""

import csv
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "large_model.py"


def test_each_phase_has_its_seconds_and_its_memory(tmp_path):
    sizes = ("--layers", "1", "--width", "64", "--vocabulary", "100", "--rounds", "2")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), *sizes, "--out", "rows.csv"]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("55,552 weights, ")  # 12 * 64 ** 2 + 100 * 64
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["unit"] == "s"]
    phases = ("sparsify", "one update", "finalize")
    expected = [f'hidden="lost", {name}: {phase}' for name in ("uniform", "global ranking") for phase in phases]
    assert [row["variant"] for row in rows] == expected
    assert all(float(second) > 0 for row in rows for second in row["values"].split())
