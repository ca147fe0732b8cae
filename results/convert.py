"""Gives the rows of results/ the ids of format 2, from the files of the last commit with those of format 1.

    python results/convert.py

An old row says what a run was in words. The experiments of the old commit make all its runs again; where one has the
row's id, task, name, settings and seed, its description is known. Written by today's names it is compared with
today's experiments, which also say what variant it is. It then writes every file with ids again.
"""

import csv
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

OLD = "82f20ae"
STUDIES = ("mnist", "cifar10", "cifar10-resnet50", "translation")
SIDES = ("layers", "thresholds", "curves", "recalibrated", "other-tests")
PAGES = ("results/mnist/README.md", "results/cifar10/README.md", "docs/pictures.md")
ROOT = Path(__file__).parents[1]
RENAMED = {"matmul_weights": "weight_matrices", "ErdosRenyiKernel": "ERK", "_WeightsOf": "WeightsOf"}


def experiments() -> Iterator[Any]:
    """The runs behind the rows, as the code that is imported makes them, seeds 0 to 4."""
    from openwork.study.experiments import cifar10, cifar10_resnet, mnist, quickstart, transformer

    for module in (cifar10, cifar10_resnet):
        vars(module)["only_jpeg"] = lambda: True
    runs = [
        *mnist.table(),
        *(mnist.best_variational_dropout(factor) for factor in (0.7, 0.8, 0.9)),
        mnist.best_variational_dropout_lenet5(),
        mnist.best_variational_dropout_lenet5(0.7, rate=2e-3),
        *cifar10.vgg(),
        *cifar10.wide_resnet(),
        *cifar10_resnet.comparison(),
        *transformer.small(),
        *quickstart.runs(),
    ]
    for run in runs:
        for seed in range(5):
            yield replace(run, seed=seed)


def describe() -> None:
    """Prints a JSON line for each of the experiments; runs with the old commit's code."""
    from openwork.study.experiments.config import to_plain  # where it was then

    for run in experiments():
        words = (run.task.title, run.name, run.settings, run.seed)
        sys.stdout.write(json.dumps({"id": run.id, "words": words, "run": to_plain(run)}) + "\n")


def old_experiments() -> dict[str, dict[str, Any]]:
    """What `describe` says under the old commit, by id."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", OLD, "src"], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as source:
            source.extractall(folder, filter="data")
        command = [sys.executable, __file__, "--describe"]
        environment = {**os.environ, "PYTHONPATH": f"{folder}/src"}
        lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return {described["id"]: described for described in map(json.loads, lines.splitlines())}


def renamed(plain: Any) -> Any:
    """An old description by today's names."""
    if isinstance(plain, list):
        return [renamed(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    kept = plain.keys() - {"type", "import", "expected", "start"}
    fields = {name: renamed(item) for name, item in plain.items() if name in kept}
    if start := plain.get("start"):
        fields["origin"] = {"type": "Pretrained", "run": renamed(start)}
    for kind in ("type", "import"):
        if name := plain.get(kind, "").rpartition(":")[2]:
            selections = {True: "Matching", False: "Excluding"}
            fields[kind] = selections[plain["expected"]] if name == "_Matching" else RENAMED.get(name, name)
    return fields


def table(path: str) -> list[dict[str, str]]:
    """The rows of a CSV file of the old commit."""
    text = subprocess.run(["git", "show", f"{OLD}:{path}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return list(csv.DictReader(io.StringIO(text)))


def main() -> None:
    """Writes every file with ids again. Raises KeyError or AssertionError where a row is of no known run."""
    from openwork.study.results.store import COLUMNS, FORMAT, write_csv, write_table
    from openwork.study.runs.config import canonical, from_plain, override

    old = old_experiments()
    today = {replace(run, variant=""): run for run in experiments()}
    runs = {id: today[from_plain(renamed(described["run"]))] for id, described in old.items()}

    def new_id(id: str) -> str:
        trained, at, threshold = id.partition("@")
        return f"{runs[trained].id}{at}{threshold}"

    for study in STUDIES:
        rows = table(f"results/{study}/rows.csv")
        for row in rows:
            trained, _, threshold = row["id"].partition("@")
            task, name, settings, seed = old[trained]["words"]
            assert (row["task"], row["name"], row["seed"]) == (task, name, str(seed)), row["id"]
            assert threshold or row["settings"] == settings, row["id"]
            run = override(runs[trained], [f"technique.threshold={threshold}"] if threshold else [])
            row |= {"name": run.name, "settings": run.settings, "id": new_id(row["id"])}
            row |= {"run": canonical(run), "format": str(FORMAT)}
            metric = run.task.metric
            row |= {"metric": metric.key, "better": "higher" if metric.higher_is_better else "lower"}
            row |= {"judged_on": "test", "watched_on": "test"}  # nothing was held out, and BLEU counted on the test set
            row |= {f"{part}_value": row.get(f"{part}_{metric.key}", "") for part in ("before", "after")}
        write_csv(({column: row.get(column) for column in COLUMNS} for row in rows), ROOT / f"results/{study}/rows.csv")
        for side in SIDES:
            path = ROOT / f"results/{study}/{side}.csv"
            if path.exists():
                rows = [{**row, "id": new_id(row["id"])} for row in table(str(path.relative_to(ROOT)))]
                write_table([*rows[0]], [[*row.values()] for row in rows], path)
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        text = re.sub(r"\b[0-9a-f]{16}\b", lambda found: new_id(found[0]) if found[0] in runs else found[0], text)
        (ROOT / page).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    describe() if "--describe" in sys.argv else main()
