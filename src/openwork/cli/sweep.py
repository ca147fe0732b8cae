"""The command for many runs: sweep."""

import errno
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.text import Text
from typer.core import TyperCommand

from openwork.cli.characters import SafeTable
from openwork.cli.common import (
    RUNS,
    Compile,
    Device,
    Evaluations,
    Experiment,
    Json,
    Name,
    Precision,
    RunsOut,
    Settings,
    Snapshots,
    check_run_name,
    checked_device,
    error_console,
    going_on,
    keep_name,
    out_console,
    print_json,
    runs_of,
    say_unfinished,
    yield_cores,
)
from openwork.cli.progress import Watch, say
from openwork.words import count

if TYPE_CHECKING:
    from openwork.study.runs.run import Run
    from openwork.study.sweeps.price import Price
    from openwork.study.sweeps.sweep import Engine, Options, Sweep

ALL = 0  # what --fleet without a number stands for: as many as the memory holds


class SweepCommand(TyperCommand):
    """Gives --fleet a number where it stands alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments."""
        given = []
        for argument, following in zip(args, [*args[1:], ""], strict=True):
            given.append(argument)
            if argument == "--fleet" and not re.fullmatch(r"[+-]?[\d.]+", following):
                given.append(str(ALL))
        return super().parse_args(ctx, given)


def sweep(
    experiment: Experiment,
    settings: Settings = None,
    out: RunsOut = RUNS,
    name: Name = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="local|auto|ADDRESS", help="Start Ray here, or join a cluster; docs/cluster.md."),
    ] = None,
    cpus: Annotated[float, typer.Option(min=0.01, help="With --ray, the CPUs of each run.")] = 1,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="With --ray, the GPUs of each run, such as 0.25; 1 with --device cuda.")
    ] = None,
    fleet: Annotated[
        int | None,
        typer.Option(
            min=ALL,
            metavar="[N]",
            help="Train runs that differ in numbers alone as one model: N at most, or as many as the memory holds; "
            "docs/fleet.md.",
        ),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed runs again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and price the runs; train nothing.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --dry-run, time some steps on --device where no finished run has.")
    ] = False,
    device: Device = "cpu",
    compile: Compile = False,
    evaluations: Evaluations = 20,
    snapshots: Snapshots = 0,
    precision: Precision = "float32",
    as_json: Json = False,
) -> None:
    """Train the many runs that MODULE:FUNCTION returns, each once, whatever fails; `run` stops at the first error.

    Finished runs are not repeated, interrupted ones go on, and a failed one is recorded and passed over.
    """
    yield_cores()
    from openwork.study.sweeps.sweep import Options

    runs = runs_of(experiment, settings)
    options = Options(device, compile, evaluations, snapshots, precision)
    options.check(runs, out, retry_failed=retry_failed)
    if measure and not dry_run:
        raise ValueError("--measure belongs to --dry-run")
    checked_device(device, here=ray is None and not dry_run)
    check_run_name(name, runs, out)
    say_unfinished(runs)
    if dry_run:
        _price(runs, out, device if measure else None, fleet, retry_failed=retry_failed, as_json=as_json)
        return
    watch = Watch()
    # Ray handles SIGTERM itself until `going_on` does.
    with _engine(ray, out, options, cpus, gpus, fleet, watch) as engine, watch, going_on(out):
        keep_name(name, runs, out)  # once nothing is wrong with the options
        ended = swept(runs, out, engine, retry_failed, watch)
    if as_json:
        states = {id: outcome.state for id, outcome in ended.outcomes.items()}
        print_json("sweep", runs=states, directory=str(out.resolve()))
    else:
        _print_summary(ended)
    say_failures(ended, cure="--retry-failed tries again")
    if ended.count("failed"):
        raise typer.Exit(1)
    if ended.count("diverged"):
        raise typer.Exit(3)


def swept(runs: list["Run"], out: Path, engine: "Engine", retry_failed: bool, watch: "Watch") -> "Sweep":
    """What `openwork.study.sweeps.sweep.sweep` returns; where the disk is full, the error says how to go on."""
    from openwork.study.files import no_space
    from openwork.study.sweeps.sweep import sweep

    try:
        return sweep(runs, out, engine, retry_failed=retry_failed, watch=watch)
    except OSError as error:
        if not no_space(error) or (error.filename and error.errno not in (errno.ENOSPC, errno.EDQUOT)):
            raise  # not a full disk but a folder that cannot be written to
        raise OSError(
            f"{error}; the sweep has stopped, finished runs are kept, and the same command goes on from there"
        ) from error


@contextmanager
def _engine(
    ray: str | None,
    out: Path,
    options: "Options",
    cpus: float,
    gpus: float | None,
    fleet: int | None,
    watch: "Watch",
) -> Iterator["Engine"]:
    from openwork.study.sweeps.sweep import Here

    if ray is None:
        if gpus is not None or cpus != 1:
            raise ValueError("--cpus and --gpus belong to --ray")
        if fleet is None:
            yield Here(out, options, watch.tick)
            return
        from openwork.study.sweeps.fleet import Fleets

        yield Fleets(out, options, fleet or None, say=say, progress=watch.tick)
        return
    on_gpu = checked_device(options.device, here=False).type == "cuda"
    gpus = float(on_gpu) if gpus is None else gpus
    if on_gpu != (gpus > 0) or ":" in options.device:
        raise ValueError(f"--device {options.device} with --gpus {gpus:g}: Ray chooses the GPU; give --device cuda")
    from openwork.study.sweeps.cluster import Ray

    # Ray prints of workers that died, and to standard output.
    with redirect_stdout(sys.stderr), ExitStack() as stack:
        with error_console.status(Text("starting Ray" if ray == "local" else f"joining Ray at {ray}")):
            engine = stack.enter_context(Ray(ray, out, options, cpus=cpus, gpus=gpus, fleet=fleet, say=say))
        yield engine


def _print_summary(sweep: "Sweep") -> None:
    counts = ", ".join(f"{sweep.count(state)} {state}" for state in ("finished", "diverged", "failed"))
    out_console.print(f"{count(len(sweep.runs), 'run')}: {counts}", highlight=False)
    out_console.print(f"Run directories in {sweep.directory.resolve()}", highlight=False, soft_wrap=True)


def say_failures(sweep: "Sweep", cure: str) -> None:
    """Prints why runs failed, each reason once, and the ``cure``."""
    reasons = Counter(outcome.reason for outcome in sweep.outcomes.values() if outcome.state == "failed")
    for reason, times in reasons.most_common(10):
        example = next(id for id, outcome in sweep.outcomes.items() if outcome.reason == reason)
        text = f"{times} failed: {reason.splitlines()[0]}"
        if (sweep.directory / example / "failed.json").exists():  # a result that cannot be read says its own cure
            text += f" ({example}/failed.json); {cure}"
        error_console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def _price(
    runs: list["Run"], out: Path, device: str | None, fleet: int | None, *, retry_failed: bool, as_json: bool
) -> None:
    from openwork.study.sweeps.price import fleet_step_ms, prices, run_step_ms

    where = checked_device(device) if device else None

    def measured(left: Sequence["Run"]) -> tuple[float, str]:
        assert where
        return run_step_ms(left, where) if fleet is None else fleet_step_ms(left, where, fleet or None)

    with error_console.status("counting"):
        found = prices(
            runs,
            out,
            retry_failed=retry_failed,
            fleet=fleet is not None,
            measure=measured if where else None,
        )
    if as_json:
        keys = ("task", "name", "states", "steps", "step_ms", "hours", "source")
        print_json("sweep", prices=[{key: getattr(p, key) for key in keys} for p in found])
    else:
        _print_prices(found)


def _print_prices(found: list["Price"]) -> None:
    from openwork.study.report.style import duration

    table = SafeTable("task", "technique", "runs", "steps left", "ms/step", "from", "time", box=SIMPLE)
    for p in found:
        states = ", ".join(f"{number} {state}" for state, number in sorted(p.states.items()))
        price = ["-", "-", "-"] if p.hours is None else [f"{p.step_ms:.3g}", p.source, duration(3600 * p.hours)]
        table.add_row(p.task, p.name, states, f"{p.steps:,}", *price)
    out_console.print(table)
    runs, steps = sum(p.states.total() for p in found), sum(p.steps for p in found)
    unknown = sum(p.steps for p in found if p.hours is None)
    text = f"{count(runs, 'run')}, {count(steps, 'step')} left"
    if unknown < steps:
        text += f", {duration(sum(3600 * (p.hours or 0) for p in found))} of training on one device, without evaluation"
    if unknown:
        text += f"; {count(unknown, 'step has', 'steps have')} no price: --measure times some of them on --device"
    out_console.print(text, highlight=False, soft_wrap=True)
