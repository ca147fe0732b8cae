"""Layers, optimizers and habits of training that openwork and its peers work with, computed and written to a page.

    python benchmarks/compatibility.py                                   the whole matrix, into docs/compatibility.md
    python benchmarks/compatibility.py --library openwork --row lstm     one cell, printed
    python benchmarks/compatibility.py --library openwork openwork-vd openwork-l0 --check    exit 1 if one is red

The peers need a separate environment (NNCF patches torch when it is imported): see benchmarks/README.md.
"""

import argparse
import sys
from pathlib import Path

from matrix import page
from matrix.outcome import Outcome
from matrix.runner import CELLS, COLUMNS, ROWS, by_title, run, work, work_together
from matrix.training import Row

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"


def main() -> None:
    """Prints the cells as they come; writes the page when all were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", nargs="+", choices=list(COLUMNS), default=list(COLUMNS), metavar="NAME")
    parser.add_argument("--row", nargs="+", default=[row.title for row in ROWS], metavar="TITLE")
    parser.add_argument("--jobs", type=int, default=2, help="libraries at a time")
    parser.add_argument("--check", action="store_true", help="exit 1 if a cell of openwork failed")
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--worker", choices=list(COLUMNS), help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker and arguments.store:
        work_together(arguments.worker, arguments.row[0], arguments.rank, arguments.store)
    if arguments.worker:
        work(arguments.worker, arguments.row)
    try:
        rows = [by_title(title) for title in arguments.row]
    except ValueError as error:
        parser.error(str(error))
    table = run(arguments.library, rows, arguments.jobs, _print)
    if len(table) == len(CELLS):
        arguments.out.write_text(page.render(table, page.environment()))
        print(f"wrote {arguments.out}")
    red = [key for key, cell in table.items() if key[1].startswith("openwork") and cell.status == "fail"]
    if arguments.check and red:
        sys.exit(f"{len(red)} cells of openwork are red")


def _print(key: str, row: Row, cell: Outcome) -> None:
    print(f"{key:12}{row.title:36}{cell.status:9}{cell.text}", flush=True)


if __name__ == "__main__":
    main()
