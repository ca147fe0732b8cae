"""Reading the CSV files of a study, and saying where one is damaged."""

import csv
from collections.abc import Sequence
from pathlib import Path


def read_lines(path: Path, columns: Sequence[str], key: Sequence[str] = ()) -> list[dict[str, str]]:
    """The lines of a CSV file, each once.

    What a cut line lacks would be taken for a run that is done, and be written once more without its figures. Of two
    lines of one run, as a merge of two branches leaves them, nobody knows which one to believe.

    Args:
        path: The file.
        columns: Those that it must have.
        key: Those that no two different lines have alike; all of `columns` where none are given.

    Raises:
        ValueError: If the file is damaged.
        OSError: If it cannot be read.
    """
    key = key or columns
    found: dict[tuple[str, ...], tuple[int, dict[str, str]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or columns
            if missing := [name for name in columns if name not in names]:
                raise _damaged(path, f"has no column {', '.join(missing)}")
            if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
                raise _damaged(path, f"has the column {', '.join(twice)} twice")
            for each in reader:
                if None in each or None in each.values():
                    raise _damaged(path, f"has in line {reader.line_num} another number of cells than columns")
                where, first = found.setdefault(tuple(each[name] for name in key), (reader.line_num, each))
                if each != first:
                    run = ", ".join(f"{name}={each[name]}" for name in key)
                    raise _damaged(path, f"has in lines {where} and {reader.line_num} two different rows of {run}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, f"is no CSV file in UTF-8 ({error})") from error
    return [each for _, each in found.values()]


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} {what}: it is damaged; mend it, or give another folder of rows")
