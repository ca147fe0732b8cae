"""Runs the steps of a Dockerfile in an empty folder, with an environment of its own, where there is no Docker.

Paths of the image become paths under the folder. What needs root (apt-get) is only recorded.

Run: python docker_steps.py FOLDER [--build-arg NAME=VALUE]... [--until-command]
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORDED = ("apt-get",)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments, comments left out and continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in _joined(lines):
        name, _, rest = line.strip().partition(" ")
        if name:
            yield name.upper(), rest.strip()


def _joined(lines: list[str]) -> Iterator[str]:
    whole = ""
    for line in lines:
        whole += line.removesuffix("\\")
        if not line.endswith("\\"):
            yield whole
            whole = ""


def context(folder: Path) -> None:
    """Copies what the daemon would be sent: the repository's files but for those that .dockerignore names."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for path in sorted(ROOT.rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and not name.startswith((".git/", ".venv")) and not ignored(name, rules):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)


def ignored(name: str, rules: list[str]) -> bool:
    """Whether the rules of a .dockerignore, of which the last that fits counts, leave the file out."""
    out = False
    for rule in rules:
        pattern = rule.removeprefix("!")
        parts = name.split("/")
        places = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        if pattern.startswith("**/"):
            fits = any(fnmatch(part, pattern[3:]) for part in parts)
        else:
            fits = any(fnmatch(place, pattern) and place.count("/") == pattern.count("/") for place in places)
        out = (not rule.startswith("!")) if fits else out
    return out


class Image:
    """The folder that stands for an image, and what the next step finds.

    Args:
        folder: An empty folder.
        arguments: The build arguments, by name.
    """

    def __init__(self, folder: Path, arguments: dict[str, str]) -> None:
        self.root, self.context, self.tools = folder / "root", folder / "context", folder / "tools"
        for made in (self.root / "tmp", self.context, self.tools):
            made.mkdir(parents=True)
        context(self.context)
        for name in RECORDED:
            (self.tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {folder / "recorded"}\n')
            (self.tools / name).chmod(0o755)
        self.given, self.here = arguments, self.root
        self.variables: dict[str, str] = {}
        self.command: dict[str, list[str]] = {"ENTRYPOINT": [], "CMD": []}

    def at(self, path: str) -> Path:
        """Where a path of the image lies."""
        return self.root / path.lstrip("/") if path.startswith("/") else self.here / path

    def build(self, text: str) -> None:
        """Runs all instructions."""
        for name, rest in instructions(text):
            print(f"{name} {rest}", flush=True)
            getattr(self, f"do_{name.lower()}")(rest)

    def do_arg(self, rest: str) -> None:
        """A build argument: what was given, or its default."""
        name, _, default = rest.partition("=")
        self.variables[name] = self.given.get(name, default.strip('"'))

    def do_from(self, rest: str) -> None:
        """The base image: this Python, in an environment of its own."""
        assert re.fullmatch(r"python:\$\{PYTHON\}-slim", rest), rest
        venv.create(self.root / "venv", with_pip=True)

    def do_env(self, rest: str) -> None:
        """Environment variables; those with paths point into the folder."""
        for pair in rest.split():
            name, _, value = pair.partition("=")
            self.variables[name] = str(self.at(value)) if value.startswith("/") else value

    def do_workdir(self, rest: str) -> None:
        """The folder of the next steps."""
        self.here = self.at(rest)
        self.here.mkdir(parents=True, exist_ok=True)

    def do_copy(self, rest: str) -> None:
        """Copies from the context; every source must be there."""
        *sources, target = rest.split()
        found = [path for source in sources for path in sorted(self.context.glob(source))]
        assert found, rest
        for path in found:
            to = self.at(target) if path.is_dir() or not target.endswith("/") else self.at(target) / path.name
            to.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy)(path, to)

    def do_run(self, rest: str) -> None:
        """A command line in a shell; its absolute paths are those of the image."""
        line = re.sub(r"(?<=\s)(/[\w/]+)", lambda path: str(self.root) + path[1], rest)
        subprocess.run(["sh", "-ec", line], cwd=self.here, env=self.environment(), check=True)

    def do_user(self, rest: str) -> None:
        """The user stays who it is."""

    def do_entrypoint(self, rest: str) -> None:
        """The program of the container."""
        self.command["ENTRYPOINT"] = json.loads(rest)

    def do_cmd(self, rest: str) -> None:
        """The program's arguments where none are given."""
        self.command["CMD"] = json.loads(rest)

    def run(self) -> int:
        """The exit code of what a container of the image runs."""
        words = [*self.command["ENTRYPOINT"], *self.command["CMD"]]
        return subprocess.run(words, cwd=self.here, env=self.environment(), check=False).returncode

    def environment(self) -> dict[str, str]:
        """Little of the environment of this process, and the image's."""
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "OMP_", "MKL_", "SSL_"))}
        path = f"{self.root / 'venv' / 'bin'}:{self.tools}:{os.environ['PATH']}"
        return {**kept, "HOME": str(self.root / "tmp"), **self.variables, "PATH": path}


def main() -> int:
    """Builds, then runs the default command unless told otherwise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--until-command", action="store_true", help="do not run the default command")
    options = parser.parse_args()
    image = Image(options.folder, dict(pair.split("=", 1) for pair in options.build_arg))
    image.build((ROOT / "Dockerfile").read_text())
    return 0 if options.until_command else image.run()


if __name__ == "__main__":
    sys.exit(main())
