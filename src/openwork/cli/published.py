"""The command that regenerates figures of the paper: published."""

from pathlib import Path
from typing import Annotated

import typer

from openwork.cli.common import Json, error_console, folder_option, out_console, print_json


def published(
    rows: Annotated[Path | None, typer.Option(help="The release's folder of CSV files; else only its README.")] = None,
    out: Annotated[Path, folder_option("Folder for the figures, the page and the findings.")] = Path(
        "openwork-published"
    ),
    as_json: Json = False,
) -> None:
    """Regenerate figures 1, 3, 5 and 6 of the State of Sparsity, and reconcile its README with its rows."""
    from openwork.study.report.paper import write_published

    with error_console.status("drawing"):
        written = write_published(rows, out)
    if as_json:
        print_json("published", published=[str((out / name).resolve()) for name in written])
        return
    if rows is None:
        text = "Only the README's models; --rows adds all runs, the budget curves and the reconciliation."
        error_console.print(text, markup=False, highlight=False, soft_wrap=True)
    out_console.print(f"Page: {(out / 'index.html').resolve()}", highlight=False, soft_wrap=True)
