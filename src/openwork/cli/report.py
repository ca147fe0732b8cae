"""Commands that write tables, pages and pictures: results, report, pictures."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE

from openwork.cli.characters import SafeTable
from openwork.cli.common import (
    Json,
    Runs,
    error_console,
    file_option,
    folder_option,
    found_runs,
    out_console,
    print_json,
)
from openwork.words import count


def results(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders of run directories.")],
    csv: Annotated[Path | None, file_option("Write a line for each run to this file.")] = None,
    parquet: Annotated[Path | None, file_option("Write the same to this Parquet file.")] = None,
    as_json: Json = False,
) -> None:
    """Collect the results of finished and diverged runs: the columns are those of docs/results.md.

    The thresholds that `openwork eval --threshold` has kept are rows, too. Runs that cannot be read are named on
    standard error; the exit code is then 4.
    """
    from openwork.study.results.folders import check_have_runs
    from openwork.study.results.store import collect, failures, flat, unfinished, write_csv, write_parquet

    if csv and parquet and csv.resolve() == parquet.resolve():
        raise ValueError(f"--csv and --parquet are both {csv}; give two names")
    check_have_runs(directories)
    with error_console.status("reading"):
        problems: list[str] = []
        found, differences = collect(directories, problems=problems)
        done = {result.id for result in found}
        failed = {id for directory in directories for id in failures(directory, problems=problems)} - done
        pending = {id for directory in directories for id in unfinished(directory)} - done - failed
    if csv:
        write_csv(map(flat, found), csv)
    if parquet:
        write_parquet(map(flat, found), parquet)
    for sentence in differences:
        error_console.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    say_unreadable(problems)
    if failed or pending:
        text = f"without a result: {len(failed)} failed, {len(pending)} unfinished"
        error_console.print(text, highlight=False, soft_wrap=True)
    if as_json:
        print_json("results", rows=[flat(result) for result in found])
        end_unreadable(problems)
        return
    states = ("finished", "diverged", "other thresholds")
    counts = Counter((result.task, result.name, result.status if result.trained else states[2]) for result in found)
    table = SafeTable("task", "technique", *states, box=SIMPLE)
    for task, name in dict.fromkeys((task, name) for task, name, _ in counts):
        table.add_row(task, name, *(str(counts[task, name, state]) for state in states))
    out_console.print(table)
    written = ", ".join(str(path.resolve()) for path in (csv, parquet) if path)
    out_console.print(count(len(found), "row") + (f" in {written}" if written else ""), highlight=False, soft_wrap=True)
    end_unreadable(problems)


def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="A folder of run directories, or two to compare.")
    ],
    out: Annotated[
        Path | None,
        folder_option("Folder for the page and pictures; by default DIR/report, of two openwork-comparison."),
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Differences below so many points do not matter; choose it before the runs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the trade-off page, pictures and tables of a folder of runs, or a page that compares two.

    Of two folders the same settings are compared seed by seed, the second less the first, and what only one has is
    listed. Runs that cannot be read are named on standard error, and are not on the page; the exit code is then 4.
    """
    from openwork.study.results.folders import refuse_run

    problems: list[str] = []
    if margin is not None and not margin > 0:
        raise ValueError(f"--margin must be more than 0 points, got {margin:g}")
    if len(directories) > 2:
        raise ValueError(f"one folder has a report, and two are compared, got {len(directories)}; give one or two")
    for directory in directories:
        refuse_run(directory)
    try:
        if len(directories) == 2:
            page = _compared(directories[0], directories[1], out or Path("openwork-comparison"), margin, problems)
        else:
            folder = out or directories[0] / "report"
            page = written_report(directories[0], folder, command=None, problems=problems, margin=margin)
    finally:
        say_unreadable(problems)
    if as_json:
        print_json("report", report=str(page.resolve()))
    else:
        out_console.print(f"Report: {page.resolve()}", highlight=False, soft_wrap=True)
    end_unreadable(problems)


def _compared(first: Path, second: Path, out: Path, margin: float | None, problems: list[str]) -> Path:
    from openwork.study.report.versus import write_versus

    with error_console.status("comparing"):
        return write_versus((first, second), out, margin=margin, problems=problems)


def pictures(
    runs: Runs,
    out: Annotated[Path, folder_option("Folder for the pictures.")] = Path("openwork-pictures"),
    against: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Draw score and sparsity against this instead: task.width.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw how runs prune: filters and weights on the way, sparsity by layer, expected non-zeros in training."""
    from openwork.study.report.pictures import write_pictures

    problems: list[str] = []
    with error_console.status("drawing"):
        written, missing = write_pictures(found_runs(runs), out, field=against, problems=problems)
    say_unreadable(problems)
    if as_json:
        print_json("pictures", pictures=[str((out / name).resolve()) for name in written], missing=missing)
        end_unreadable(problems)
        return
    for sentence in missing:
        error_console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    out_console.print(f"{', '.join(written) or 'nothing'} in {out.resolve()}", highlight=False, soft_wrap=True)
    end_unreadable(problems)


def say_unreadable(problems: Sequence[str]) -> None:
    """Names the runs that cannot be read on standard error."""
    for sentence in problems:
        error_console.print(f"left out: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)


def end_unreadable(problems: Sequence[str]) -> None:
    """Ends the command with exit code 4 where runs cannot be read."""
    if problems:
        raise typer.Exit(4)


def written_report(
    directory: Path,
    out: Path,
    *,
    command: str | None,
    problems: list[str] | None = None,
    margin: float | None = None,
) -> Path:
    """Writes the report of a folder of runs; returns its page.

    Args:
        directory: The folder of run directories.
        out: The folder to write the page and pictures to.
        command: What produced the runs, for a sentence on the page; None for no sentence.
        problems: As for `openwork.study.results.store.read_results`.
        margin: As for `write_report`.
    """
    from openwork.study.report.page import write_report

    with error_console.status("writing the report"):
        return write_report(directory, out, command=command, problems=problems, margin=margin)
