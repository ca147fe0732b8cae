"""Runs the tests of the library with other versions of Python and torch; `make test-versions`.

For each combination uv makes an environment below .venv-versions/, with the wheel that openwork's sdist builds, the
dependencies that pyproject.toml names, and what the tests need; openwork is imported from there. The tests are `TESTS`,
in one process. Prints a row of docs/versions.md for each, and exits 1 if one failed.

Run: python -m tests.programs.versions PYTHON:TORCH...
"""

import argparse
import datetime as dt
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-versions"
TESTS = (
    "tests/test_package.py",
    "tests/test_exported_members.py",
    "tests/test_public_base_classes.py",
    "tests/test_contract.py",
    "tests/techniques",
    "tests/kernels",
    "tests/core/test_masking.py",
    "tests/core/test_noisy.py",
    "tests/core/test_one_shot.py",
    "tests/core/test_random_attributes.py",
    "tests/core/test_reparameterize.py",
)
NEEDED = ("pytest", "hypothesis", "scipy", "scikit-learn", "zstandard", "hatchling")
TABLE = "tests/test_package.py::test_every_supported_python_and_torch_is_in_the_table_of_tested_ones"
OPTIONS = ("-p", "no:cacheprovider", "-W", "default", "--maxfail", "50", "--deselect", TABLE)
"""Warnings are errors in `make test` alone: another torch deprecates other things. The table is written last."""


def uv(*arguments: object) -> bool:
    """Whether uv could do that."""
    command = [str(Path(sys.executable).with_name("uv")), *map(str, arguments), "--quiet"]
    return subprocess.run(command, cwd=ROOT).returncode == 0


def environment(python: str, torch: str, wheel: Path) -> Path:
    """The Python of an environment with these versions, with openwork as a user installs it."""
    folder = FOLDER / f"{python}-{torch}"
    packages = [f"torch=={torch}", *NEEDED]
    if not (folder / "ready").exists():
        if not uv("venv", "--clear", "--python", python, folder):
            raise SystemExit(f"uv finds no Python {python}; install it, or leave it out of VERSIONS")
        install = ("pip", "install", "--python", folder, "--compile-bytecode", *packages)
        # PyTorch's own index has builds for CPUs; behind a mirror without it, the default ones do as well.
        if not (uv(*install, "--torch-backend", "cpu") or uv(*install)):
            raise SystemExit(f"torch {torch} cannot be installed for Python {python}; leave it out of VERSIONS")
        (folder / "ready").touch()
    if not uv("pip", "install", "--python", folder, "--reinstall-package", "openwork", wheel, f"torch=={torch}"):
        raise SystemExit(f"the wheel cannot be installed with Python {python} and torch {torch}")
    return folder / "bin" / "python"


def row(python: str, torch: str, wheel: Path) -> tuple[bool, str]:
    """Whether the tests pass, and the row of the table."""
    found = environment(python, torch, wheel)
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    variables.pop("PYTHONPATH", None)  # the wheel is tested, not the sources
    names = "import platform, torch, numpy; print(platform.python_version(), torch.__version__, numpy.__version__)"
    versions = subprocess.run([found, "-c", names], env=variables, capture_output=True, text=True, check=True)
    command = [str(found), "-m", "pytest", *OPTIONS, *TESTS]
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            sys.stderr.write(line)
            lines.append(line)
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped|xfailed)", lines[-1] if lines else "")
    cells = [*versions.stdout.split(), ", ".join(counts), f"{dt.date.today()}"]
    return process.returncode == 0, f"| {' | '.join(cells)} |"


def built() -> Path:
    """The wheel, built from the sdist, without the kernels that only serve the torch of the builder."""
    folder = FOLDER / "dist"
    for file in folder.glob("openwork-*"):
        file.unlink()
    os.environ["HATCH_BUILD_NO_HOOKS"] = "true"
    if not uv("build", "--out-dir", folder):
        raise SystemExit("the package cannot be built")
    return next(folder.glob("*.whl"))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="+", metavar="PYTHON:TORCH", help="such as 3.11:2.9.1")
    pairs = [pair.partition(":") for pair in parser.parse_args().versions]
    wheel = built()
    rows = [row(python, torch, wheel) for python, _, torch in pairs]
    print("| Python | torch | numpy | tests | date |", "| --- | --- | --- | --- | --- |", sep="\n")
    print("\n".join(text for _, text in rows))
    raise SystemExit(not all(passed for passed, _ in rows))


if __name__ == "__main__":
    main()
