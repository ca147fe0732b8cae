"""Runs each library's checks in separate processes: no crash, hang or patched torch reaches another cell."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from . import changes, distributed, habits, layers, optimizers, steps
from .libraries import LIBRARIES, Library
from .outcome import Outcome, first_line, outcome
from .peers import PEERS
from .training import Row

COLUMNS: dict[str, type[Library]] = LIBRARIES | PEERS
ROWS: list[Row] = [*layers.ROWS, *steps.ROWS, *habits.ROWS, *changes.ROWS, *distributed.ROWS, *optimizers.ROWS]
CELLS = [(row.title, key) for row in ROWS for key in COLUMNS if row.only in ("", key)]
LIMIT = 90.0  # seconds without a cell after which a process counts as hung
Table = dict[tuple[str, str], Outcome]  # (row's title, library's key)


def run(libraries: Sequence[str], rows: Sequence[Row], jobs: int, report: Callable[[str, Row, Outcome], None]) -> Table:
    """The cells of these libraries and rows, ``jobs`` processes at a time; each goes to ``report`` as it comes."""
    table: Table = {}

    def column(key: str) -> None:
        for row, cell in _column(key, [row for row in rows if (row.title, key) in CELLS]):
            table[row.title, key] = cell
            report(key, row, cell)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(column, libraries))
    return table


def _column(key: str, rows: Sequence[Row]) -> Iterator[tuple[Row, Outcome]]:
    """Cells one after another from one process; if it dies or hangs, that row has failed and a new one takes over."""
    left = list(rows)
    while left:
        process = _start(["--worker", key, "--row", *[row.title for row in left]])
        lines: queue.Queue[str] = queue.Queue()
        assert process.stdout is not None
        reader = threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            while left:
                line = lines.get(timeout=LIMIT)
                if not line:
                    yield left.pop(0), Outcome("fail", f"the process died with status {process.wait()}")
                    break
                yield left.pop(0), Outcome(**json.loads(line))
        except queue.Empty:
            yield left.pop(0), Outcome("fail", f"no answer within {LIMIT:.0f} seconds")
        finally:
            process.kill()
            process.wait()
            reader.join()
            process.stdout.close()


def _start(arguments: list[str], hash_seed: int = 0) -> subprocess.Popen[str]:
    # Hashes of strings, and with them the order of sets, differ from process to process; here reproducibly.
    script = Path(__file__).parents[1] / "compatibility.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _forward(stream: TextIO, lines: "queue.Queue[str]") -> None:
    for line in stream:
        lines.put(line)
    lines.put("")  # the end


def work(key: str, titles: Sequence[str]) -> None:
    """The worker's side: prints each row's outcome as a line of JSON."""
    # Libraries log and print as they like; only the answers go to the pipe.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    library = COLUMNS[key]
    absent = None
    try:
        library.load()
    except ImportError as error:
        absent = Outcome("n/a", first_line(f"cannot be imported: {error}"))
    for row in (by_title(title) for title in titles):
        cell = absent or (outcome(library, row.check) if row.processes == 1 else _together(key, row))
        print(json.dumps(vars(cell)), file=answers, flush=True)
    os._exit(0)  # some libraries' threads never end


def _together(key: str, row: Row) -> Outcome:
    """One row in several processes: the first outcome that is not a pass, in order of time."""
    with tempfile.TemporaryDirectory() as folder:
        common = ["--worker", key, "--row", row.title, "--store", str(Path(folder) / "store")]
        processes = [_start([*common, "--rank", str(rank)], hash_seed=rank) for rank in range(row.processes)]
        end = time.monotonic() + 0.8 * LIMIT
        try:
            waiting = list(processes)
            while waiting and time.monotonic() < end:
                for process in [p for p in waiting if p.poll() is not None]:
                    waiting.remove(process)
                    assert process.stdout is not None
                    line = process.stdout.read()
                    if not line:
                        return Outcome("fail", f"a process died with status {process.returncode}")
                    cell = Outcome(**json.loads(line))
                    if cell.status != "pass":
                        return cell
                time.sleep(0.05)
            if waiting:
                return Outcome("fail", f"{len(waiting)} of {row.processes} processes hang")
            return Outcome("pass")
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def work_together(key: str, title: str, rank: int, store: str) -> None:
    """The side of one of several processes: as `work`, inside a process group."""
    from torch import distributed as dist

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    row = by_title(title)
    COLUMNS[key].load()
    # A file instead of a port: no other process can take it.
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=row.processes)
    cell = outcome(COLUMNS[key], row.check)
    print(json.dumps(vars(cell)), file=answers, flush=True)
    if cell.status == "pass":
        dist.barrier()
    os._exit(0)  # a thread of gloo may abort the process in Python's shutdown


def by_title(title: str) -> Row:
    """The row of that title. Raises ValueError, listing what there is."""
    for row in ROWS:
        if row.title.lower() == title.lower():
            return row
    raise ValueError(f"no row {title!r}; there are {'; '.join(row.title for row in ROWS)}")
