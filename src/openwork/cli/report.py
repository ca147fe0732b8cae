"""Commands that write pages and pictures: report, pictures."""

from pathlib import Path
from typing import Annotated

import typer

from openwork.cli.common import Json, error_console, out_console, print_json


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of run directories.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the page and pictures; by default DIR/report.")] = None,
    as_json: Json = False,
) -> None:
    """Write the trade-off page, pictures and tables of a folder of runs."""
    page = written_report(directory, out or directory / "report", command=None)
    if as_json:
        print_json({"report": str(page.resolve())})
    else:
        out_console.print(f"Report: {page.resolve()}", highlight=False, soft_wrap=True)


def pictures(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("openwork-pictures"),
    against: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Draw accuracy and sparsity against it instead: task.width.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw how runs prune: filters and weights on the way, sparsity by layer, expected non-zeros in training."""
    from openwork.study.report.pictures import write_pictures

    with error_console.status("drawing"):
        written, missing = write_pictures(runs, out, field=against)
    if as_json:
        print_json({"pictures": [str((out / name).resolve()) for name in written], "missing": missing})
        return
    for sentence in missing:
        error_console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    out_console.print(f"{', '.join(written) or 'nothing'} in {out.resolve()}", highlight=False, soft_wrap=True)


def written_report(directory: Path, out: Path, *, command: str | None) -> Path:
    """The report page of a folder of runs, after writing it to ``out``; ``command`` is what the page says made it."""
    from openwork.study.report.page import write_report

    with error_console.status("writing the report"):
        return write_report(directory, out, command=command)
