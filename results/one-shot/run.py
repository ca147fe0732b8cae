"""Executes the runs of PLAN.md in its order, and keeps a line for each in small CSV files.

    export OPENWORK_DATA=path/to/the/folder/that/holds/wmt-newstest OPENWORK_WHEELS=path/to/the/folder/of/the/wheel
    python results/one-shot/run.py ROWS --language FOLDER --device cuda --seconds 540

ROWS is the folder of the CSV files, ``results/one-shot/study`` in the repository: what they have is not run again, also
on another machine. FOLDER gets, or holds, the language model. No run begins that would end after the seconds; start it
again for the rest.
"""

import argparse
import copy
import csv
import ctypes
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import torch
from driver import at_least_one, device_here, duration, known_letters
from entrants import BLIND, ENTRANTS, FIRST, LEVELS, SEEDLESS, SEEDS, UNSTRUCTURED
from kept import read_lines
from language_model import TINY, Recipe, train
from networks import LanguageModel, MiniLM, loss, sentences

import openwork as ow
from openwork.study.runs.environment import environment

KEY = ("technique", "reconstruct", "level", "seed")
COST = (
    "seconds",
    "processor_seconds",
    "evaluation_seconds",
    "memory_mb",
    "model",
    "device",
    "processor",
    "threads",
    "torch",
    "commit",
)
TRAINED = ("weights", "tokens", "steps", "chosen_step", "validation_loss")
PARTS = {
    "A": (MiniLM, FIRST, SEEDS[:1]),
    "B": (MiniLM, FIRST, SEEDS[1:]),
    "C": (MiniLM, tuple(level for level in LEVELS if level not in FIRST), SEEDS),
    "D": None,
    "E": (LanguageModel, FIRST, SEEDS[:1]),
    "F": (LanguageModel, FIRST, SEEDS[1:]),
    "G": (LanguageModel, tuple(level for level in LEVELS if level not in FIRST), SEEDS),
}


@dataclass(frozen=True)
class Case:
    """One run: a technique at a level, perhaps with least squares afterwards, and the seed of its sentences."""

    technique: str
    reconstruct: bool
    level: str
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """As the file has it."""
        return self.technique, "yes" if self.reconstruct else "no", self.level, str(self.seed)

    @property
    def name(self) -> str:
        """As tables and ``--only`` have it."""
        return f"{self.technique} + reconstruct" if self.reconstruct else self.technique


DENSE = Case("dense", False, "0 %", 0)


def cases(part: str) -> Iterator[Case]:
    """The runs of a part, in order."""
    _, levels, seeds = PARTS[part]
    if part in "AE":
        yield DENSE
    for level in levels:
        for seed in seeds:
            for technique in ENTRANTS:
                for reconstruct in (False, True):
                    if technique in UNSTRUCTURED and ":" in level:
                        continue
                    if technique in SEEDLESS and not reconstruct and seed != SEEDS[0]:
                        continue
                    yield Case(technique, reconstruct, level, seed)


class Rows:
    """The lines of a CSV file, to which each run adds one as it ends."""

    def __init__(self, path: Path, columns: Sequence[str], key: Sequence[str]) -> None:
        self.path, self.columns, self.key = path, tuple(columns), tuple(key)
        self.keys = {tuple(row[name] for name in key) for row in read_lines(path, self.columns, key)}

    def add(self, row: dict[str, Any]) -> None:
        """Appends a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.keys.add(tuple(str(row[name]) for name in self.key))


class Peak:
    """How much more memory than before a piece of work has needed at once, in MB, and how long it took.

    Seconds are those of the clock, and those of the processors: where others share a machine, these say more.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> "Peak":
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            self._reset()
            self.before = self._resident()
        self.began, self.worked = time.monotonic(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds, self.processor_seconds = time.monotonic() - self.began, time.process_time() - self.worked
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else self._resident()
        self.mb = (peak - self.before) / 1e6

    @staticmethod
    def _reset() -> None:
        """Linux counts the peak of resident memory from here on; elsewhere it is that of the whole process."""
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free, but not given back, would hide what is needed
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return

    @staticmethod
    def _resident() -> int:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def execute(network: Any, case: Case) -> dict[str, Any]:
    """The line of a run.

    Raises:
        ValueError: If the model has not the sparsity of its level.
    """
    model = copy.deepcopy(network.model)
    blind = case == DENSE or case.technique in BLIND
    batches = [] if blind and not case.reconstruct else network.calibration(case.seed)
    with Peak(network.device) as pruning:
        sparsity = prune(model, network, case, batches)
    level = LEVELS.get(case.level, 0.0)
    wanted = 0.5 if isinstance(level, ow.NM) else level
    if abs(sparsity - wanted) > 0.001:
        raise ValueError(f"{case.name} reached a sparsity of {sparsity:.4f} at the level {case.level}; mend it first")
    with Peak(network.device) as evaluation:
        scores = network.score(model)
    return {
        **dict(zip(KEY, case.key, strict=True)),
        "sparsity": f"{sparsity:.6f}",
        **{name: f"{value:.6f}" for name, value in scores.items()},
        "seconds": f"{pruning.seconds:.2f}",
        "processor_seconds": f"{pruning.processor_seconds:.2f}",
        "evaluation_seconds": f"{evaluation.seconds:.2f}",
        "memory_mb": f"{pruning.mb:.0f}",
    }


def prune(model: Any, network: Any, case: Case, batches: list[dict[str, torch.Tensor]]) -> float:
    """Prunes the model and returns its sparsity."""
    if case == DENSE:
        return 0.0
    technique = ENTRANTS[case.technique](LEVELS[case.level])
    if case.technique not in BLIND:
        return ow.prune(model, technique, batches=batches, reconstruct=case.reconstruct, select=network.select).sparsity
    sparsity = ow.prune(model, technique, select=network.select, seed=case.seed).sparsity
    if case.reconstruct:
        ow.reconstruct(model, network.model, batches, select=network.select)
    return sparsity


def where(device: torch.device) -> dict[str, Any]:
    """The columns that say on what a run was made."""
    return {name: value for name, value in environment(device).items() if name in COST}


def say(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Executes runs until all are done or the time is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="folder of the CSV files")
    parser.add_argument("--language", type=Path, help="folder of the language model; for the parts D to G")
    parser.add_argument("--device", default="cpu", type=device_here, help="cpu or cuda")
    parser.add_argument("--threads", type=at_least_one, help="of a CPU")
    parser.add_argument("--seconds", type=duration, default=float("inf"), help="begin no run that would end later")
    letters = partial(known_letters, f"0{''.join(PARTS)}")
    parser.add_argument("--parts", default="".join(PARTS), type=letters, help="letters of parts, such as ABC")
    parser.add_argument("--only", nargs="*", help="names of techniques, such as Wanda or 'Wanda + reconstruct'")
    parser.add_argument("--tiny", action="store_true", help="part D trains a model of a few steps, to try the commands")
    given = parser.parse_args(arguments)
    names = {case.name for part, spec in PARTS.items() if spec for case in cases(part)}
    if unknown := [name for name in given.only or () if name not in names]:  # or its runs would be left out unsaid
        parser.error(f"no run has the technique {' or '.join(unknown)}; they have {'; '.join(sorted(names))}")
    given.device = torch.device(given.device)
    began = time.monotonic()
    if given.threads:
        torch.set_num_threads(given.threads)
    if any(part in given.parts for part in "DEFG") and given.language is None:
        parser.error("the parts D to G need --language FOLDER; without it say --parts ABC")
    networks: dict[type, Any] = {}
    for part, spec in PARTS.items():
        if part not in given.parts:
            continue
        left = given.seconds - (time.monotonic() - began)
        if spec is None:
            if not train_language_model(given, left):
                return
            continue
        kind, longest = spec[0], 0.0
        held = Rows(given.rows / f"{kind.file}.csv", (*KEY, "sparsity", *kind.measured, *COST), KEY)
        chosen = [case for case in cases(part) if given.only is None or case.name in ("dense", *given.only)]
        wanted = [case for case in chosen if case.key not in held.keys]
        if wanted and kind not in networks:
            networks[kind] = kind(given.device) if kind is MiniLM else kind(given.device, given.language)
        for number, case in enumerate(wanted):
            start = time.monotonic()
            if start - began + longest > given.seconds:
                say(f"{part}: {len(wanted) - number} runs left after {start - began:.0f} s; call again")
                return
            row = execute(networks[kind], case) | {"model": networks[kind].hash} | where(given.device)
            held.add(row)
            longest = max(longest, time.monotonic() - start)
            scores = " ".join(row[name] for name in ("sparsity", *kind.measured))
            cost = f"{row['seconds']} s, {row['memory_mb']} MB"
            say(f"{part} {case.name}, {case.level}, seed {case.seed}: {scores}, {cost}")


def train_language_model(given: argparse.Namespace, seconds: float) -> bool:
    """Trains it unless it is there; whether it is."""
    if (given.language / "config.json").exists():
        return True
    recipe = TINY if given.tiny else Recipe()
    found = train(given.language, sentences, loss, given.device, recipe=recipe, seconds=seconds)
    if found is None:
        say("D: the training goes on with the next call")
        return False
    held = Rows(given.rows / "training.csv", (*TRAINED, *(name for name in COST if name in TRAINING_COST)), ("model",))
    held.add(found | {"model": LanguageModel(given.device, given.language).hash} | where(given.device))
    say(f"D: {found}")
    return True


TRAINING_COST = ("seconds", "model", "device", "processor", "threads", "torch", "commit")

if __name__ == "__main__":
    main()
