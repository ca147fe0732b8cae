"""What shells complete: runs and experiments; without torch, as nobody waits for a tab."""

import ast
from collections.abc import Iterator
from pathlib import Path


def complete_runs(incomplete: str) -> list[str]:
    """The names and ids of runs that begin so, in the folder that is named or in openwork-runs; never raises."""
    from openwork.cli.common import RUNS
    from openwork.study.results.directory import is_run
    from openwork.study.results.folders import read_names

    folder, slash, beginning = incomplete.rpartition("/")
    place = Path(folder or "/") if slash else RUNS
    try:
        names = [*read_names(place), *(path.name for path in place.iterdir() if is_run(path))]
    except (OSError, ValueError):
        return []
    return sorted(folder + slash + name for name in names if name.startswith(beginning))


def complete_experiments(incomplete: str) -> list[str]:
    """Openwork's experiments, and the functions of modules here, that begin so."""
    ours = Path(__file__).parents[1] / "study" / "experiments"
    found = [*_functions(ours, "openwork.study.experiments."), *_functions(Path(), "")]
    return sorted(name for name in found if name.startswith(incomplete))


def _functions(folder: Path, package: str) -> Iterator[str]:
    """``module:function`` of each that can be called without arguments and is said to return runs."""
    for path in folder.glob("*.py"):
        try:
            body = ast.parse(path.read_text(encoding="utf-8")).body
        except (OSError, ValueError, SyntaxError):
            continue
        for node in body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.returns is None:
                continue
            needed = len(node.args.args) - len(node.args.defaults)
            if not needed and None not in node.args.kw_defaults and ast.unparse(node.returns).strip("\"'") in (
                "Run", "list[Run]"
            ):  # fmt: skip
                yield f"{package}{path.stem}:{node.name}"
