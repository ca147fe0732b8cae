r"""What training costs with each technique: time and memory of a step, as ratios to the compiled dense step.

Models: ResNet-50 (256 images of 224 x 224, channels last, SGD), Transformer-base with 24,576 tokens of each side, and
with 2,048 under one CUDA graph of the whole step (Adam); bfloat16 autocast over float32 weights on a GPU. "operations":
the update of all masks of ResNet-50, and the penalties' value and gradient. Variants: dense, openwork's techniques,
peers, and the techniques as naive layers.

A step is what a user writes: `sparsify`, `attach`, and loss + `penalty()` compiled together. Every variant has a
process of its own. All of them compile first, side by side; then each is timed alone, ten steps to warm up and forty by
CUDA events. Dense steps are timed before, between and after. Where their medians differ by more than 2 %, the model's
rows are refused: they have no reference, and the exit code is 1. A variant that does not run is named on stderr.

    python benchmarks/training_step.py --device cuda --out rows.csv
    python benchmarks/training_step.py --small --backend aot_eager          the same, small enough for a CPU
"""

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import torch
from raw import add_out, keep
from step.models import MODELS
from step.served import OPERATIONS, Served, VariantError, serve
from step.timed import MEMORY, TIME, Counts, Series
from step.variants import VARIANTS, Variant

DENSE = "dense"
MOST_APART = 0.02
Case = tuple[str, str]
"""(model, variant)."""


class Run:
    """All processes of a run, and what they measure.

    Args:
        options: Of the command line.
        serve: (model, variant) -> its process.
    """

    def __init__(self, options: argparse.Namespace, serve: Callable[[str, str], Served]) -> None:
        self.options, self.serve, self.began = options, serve, time.monotonic()
        self.processes: dict[Case, Served] = {}
        self.ready: dict[Case, Served] = {}
        self.refused: list[str] = []
        self._lock = threading.Lock()
        self._closed = False

    def compile(self, cases: Sequence[Case]) -> None:
        """Starts every process, and waits until all have compiled; those that take too long are ended."""
        pool = ThreadPoolExecutor(self.options.jobs)
        futures = {pool.submit(self._start, case): case for case in cases}
        _, late = wait(futures, timeout=self.options.compile_seconds)
        with self._lock:
            self._closed = True
        for future in late:
            if not future.cancel() and futures[future] in self.processes:
                self.processes[futures[future]].end()
        pool.shutdown()
        for future, case in futures.items():
            try:
                if future in late:
                    raise VariantError(f"left out, it had not compiled after {self.options.compile_seconds:g} seconds")
                future.result()
                self.ready[case] = self.processes[case]
            except VariantError as error:
                self._say_failed(case, error)

    def _start(self, case: Case) -> None:
        with self._lock:
            if self._closed:
                raise VariantError("not begun")
            self.processes[case] = self.serve(*case)
        took = self.processes[case].compiled()
        print(f"{': '.join(case)}: compiled in {took:.0f} s", file=sys.stderr, flush=True)

    def operations(self) -> None:
        """Times what is no step."""
        case = (OPERATIONS, "all")
        for (name, unit, reference), values in (self._measured(case) or {}).items():
            self._keep(name, unit, reference, values)
            print(f"{name:75}{statistics.median(values):9.3f} {unit}", flush=True)

    def model(self, model: str, variants: Sequence[str]) -> None:
        """Times the variants of a model by turns with the dense one, and says what they cost."""
        title, half = MODELS[model].title + ", small" * self.options.small, len(variants) // 2
        reference = f"{title}: {DENSE}"
        dense: list[list[float]] = []
        times: dict[str, list[float]] = {}
        memory: dict[str, float] = {}
        turns = [DENSE, *variants[:half], *([DENSE] if half else []), *variants[half:], DENSE]
        for number, name in enumerate(turns):
            is_last = number == len(turns) - 1
            if not is_last and time.monotonic() - self.began > self.options.seconds:
                print(f"{title}: {name}: left out, {self.options.seconds:g} seconds are over", file=sys.stderr)
                continue
            label = f"{title}: {name} {len(dense) + 1}" if name == DENSE else f"{title}: {name}"
            found = self._measured((model, name), again=name == DENSE and not is_last)
            for (_, unit, _), values in (found or {}).items():
                if unit == MEMORY:
                    if name not in memory:  # dense steps are timed again and again, and keep their memory
                        self._keep(f"{title}: {name}", unit, reference, values)
                        memory[name] = values[0]
                    continue
                self._keep(label, unit, reference, values)
                print(f"{label:75}{statistics.median(values):9.3f} {unit}", flush=True)
                if name == DENSE:
                    dense.append(values)
                else:
                    times[name] = values
            if not dense:  # nothing to compare with
                break
        apart, steps = spread(dense), [each for values in dense for each in values]
        is_refused = apart is None or apart > MOST_APART
        if is_refused:
            self.refused.append(title)
        if steps:
            self._keep(f"{reference}, refused" if is_refused else reference, TIME, "", steps)
        print_table(title, dense, apart, times, memory)

    def _measured(self, case: Case, *, again: bool = False) -> Series | None:
        if case not in self.ready:
            return None
        process = self.ready[case]
        clock = threading.Timer(self.options.turn_seconds, process.end)
        clock.start()
        try:
            return process.measure()
        except VariantError as error:
            self._say_failed(case, error)
            del self.ready[case]
            again = False
            return None
        finally:
            clock.cancel()
            if not again:
                process.end()

    def _say_failed(self, case: Case, error: VariantError) -> None:
        print(f"{': '.join(case)}: {error}", file=sys.stderr, flush=True)
        if self.options.log and case in self.processes:
            with self.options.log.open("a", encoding="utf-8") as file:
                file.write(f"==== {': '.join(case)}: {error}\n{self.processes[case].log()}\n")

    def _keep(self, name: str, unit: str, reference: str, values: list[float]) -> None:
        where = torch.device(self.options.device)
        keep(self.options.out, {name: values}, unit=unit, device=where, reference=reference)

    def end(self) -> None:
        """Ends all processes, and begins no other."""
        with self._lock:
            self._closed = True
        for process in self.processes.values():
            process.end()


def spread(dense: Sequence[Sequence[float]]) -> float | None:
    """How far the medians of the dense steps are apart; None if there are not two."""
    medians = [statistics.median(values) for values in dense]
    return max(medians) / min(medians) - 1 if len(medians) > 1 else None


def print_table(
    title: str,
    dense: Sequence[Sequence[float]],
    apart: float | None,
    times: dict[str, list[float]],
    memory: dict[str, float],
) -> None:
    """Prints what a model's variants cost."""
    medians = ", ".join(f"{statistics.median(values):.3f}" for values in dense) or "none"
    print(f"\n{title}: dense {medians} ms a step", end="")
    if apart is None or apart > MOST_APART:
        print("; REFUSED: " + (f"they are {apart:.1%} apart" if apart else "dense was not timed twice"))
        return
    base, gib = statistics.median([each for values in dense for each in values]), memory.get(DENSE)
    print(f", {apart:.1%} apart" + (f"; {gib:.2f} GiB" if gib else ""))
    print(f"{'':36}{'min':>9}{'median':>9}{'max':>9}{'/ dense':>9}{'GiB':>9}{'/ dense':>9}")
    for name, values in times.items():
        middle = statistics.median(values)
        row = f"{name:36}{min(values):9.3f}{middle:9.3f}{max(values):9.3f}{middle / base:9.3f}"
        print(row + (f"{memory[name]:9.2f}{memory[name] / gib:9.3f}" if gib and name in memory else ""))
    print(flush=True)


def order(variant: Variant) -> tuple[bool, int]:
    """The key by which variants are compiled and timed: peers last, then the slowest to compile first."""
    return not (variant.compiled and variant.fullgraph), -variant.slow


def at_least_one(text: str) -> int:
    """The number. Raises ArgumentTypeError unless it is whole and positive."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"give a whole number from 1 on, not {text!r}")
    return int(text)


def from_zero(text: str) -> int:
    """The number. Raises ArgumentTypeError unless it is whole and not negative."""
    return 0 if text == "0" else at_least_one(text)


def seconds(text: str) -> float:
    """The number. Raises ArgumentTypeError unless it is positive."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"give a number of seconds, not {text!r}")
    return found


def device(text: str) -> str:
    """The device. Raises ArgumentTypeError unless torch reaches it."""
    try:
        torch.empty(0, device=torch.device(text))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise argparse.ArgumentTypeError(f"torch does not reach {text!r}: {reason}") from None
    return text


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = [*MODELS, OPERATIONS]
    made.add_argument("--device", type=device, default="cpu")
    made.add_argument(
        "--models", nargs="+", choices=models, default=[name for name in models if "parts" not in name], metavar="NAME"
    )
    made.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), metavar="NAME", help="by default those of a model"
    )
    made.add_argument("--small", action="store_true", help="sizes for a CPU")
    made.add_argument("--backend", default="inductor", help="of torch.compile; none for eager steps")
    made.add_argument("--flag", nargs="+", default=[], metavar="MODULE.NAME=VALUE", help="of torch's compiler")
    made.add_argument("--warmup", type=from_zero, default=10)
    made.add_argument("--steps", type=at_least_one, default=40)
    made.add_argument(
        "--jobs", type=at_least_one, default=-(-3 * (os.cpu_count() or 1) // 4), help="processes that compile at once"
    )
    made.add_argument("--threads", type=at_least_one, default=2, help="processes of torch's compiler for each of them")
    made.add_argument("--seconds", type=seconds, default=420, help="after which nothing else is timed")
    made.add_argument("--compile-seconds", type=seconds, default=280, help="after which nothing else is waited for")
    made.add_argument("--turn-seconds", type=seconds, default=60, help="after which a process counts as hung")
    made.add_argument(
        "--log", type=Path, metavar="FILE", help="what is added to it: errors of variants that do not run"
    )
    made.add_argument("--serve", nargs=2, metavar=("MODEL", "VARIANT"), help=argparse.SUPPRESS)
    add_out(made)
    return made


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns the exit code."""
    options = parser().parse_args(arguments)
    where = torch.device(options.device)
    if options.serve:
        counts = Counts(options.warmup, options.steps)
        model, variant = options.serve
        serve(model, variant, where, counts, small=options.small, backend=options.backend, flags=options.flag)
        return 0
    run = Run(options, lambda model, variant: Served(model, variant, arguments, options.threads))
    models = [name for name in options.models if name != OPERATIONS]
    operations = [(OPERATIONS, "all")] if OPERATIONS in options.models else []
    dense = [(model, DENSE) for model in models]
    others = [
        (model, name) for name in VARIANTS for model in models if name in (options.variants or MODELS[model].variants)
    ]
    # Should the time be over, then for peers.
    others = sorted((case for case in others if case[1] != DENSE), key=lambda case: order(VARIANTS[case[1]]))
    machine = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    print(f"torch {torch.__version__}, {machine}, n = {options.steps}", flush=True)
    try:
        run.compile([*dense, *operations, *others])
        if operations:
            run.operations()
        for model in models:
            run.model(model, [name for one, name in others if one == model])
    finally:
        run.end()
    if run.refused:
        print(f"refused: {', '.join(run.refused)}; dense medians must be within {MOST_APART:.0%}", file=sys.stderr)
    return bool(run.refused)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
