"""How a run is executed and resumed.

A run's directory is named by the hash of its canonical JSON and holds run.json (its description), metrics.jsonl (a row
each evaluation), snapshots/ (finalized weights on the way, if wanted), checkpoint.pt (to resume, or to set another
threshold), model.safetensors (the finalized model) and result.json: where it exists, the run is done.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from openwork.core.masks.check import DivergedError
from openwork.inspect.report import report
from openwork.study.exits import exits_are_errors
from openwork.study.files import remove_leftovers, writing
from openwork.study.results.history import milestones, write_snapshot
from openwork.study.results.result import Result
from openwork.study.results.store import read_result
from openwork.study.runs.checkpoint import (
    load_model,
    load_training,
    read_checkpoint,
)
from openwork.study.runs.claim import claim
from openwork.study.runs.config import canonical
from openwork.study.runs.described import is_begun, refuse_changed, refuse_old, write_description
from openwork.study.runs.live import Live, compiled, prepare
from openwork.study.runs.precision import Precision, products
from openwork.study.runs.record import (
    Final,
    dense_flops,
    evaluated,
    finite,
    machine,
    record,
    repair_rows,
    save,
)
from openwork.study.runs.run import Run, with_prerequisites
from openwork.study.tasks.check import check_task, try_evaluation
from openwork.study.tasks.measure import final_metrics, metrics
from openwork.study.training.loop import train


@exits_are_errors()
def execute(
    run: Run,
    directory: Path,
    *,
    device: str = "cpu",
    compile: bool = False,
    evaluations: int = 20,
    snapshots: int = 0,
    precision: Precision = "float32",
    progress: Callable[[int], None] | None = None,
    claimed: bool = False,
) -> Result:
    """The run's result, from ``directory/<run.id>`` where it is done, otherwise after training it there.

    An interrupted run goes on from its checkpoint with the same batches, weights and random numbers as without the
    interruption, to the last bit, except with compiled kernels on a GPU. A run that this one starts from is executed
    first, where it is not done. Several processes (see `openwork.study.processes`) all call this, with a directory that
    all of them see; the first one writes.

    Args:
        run: The run.
        directory: The folder of run directories.
        device: cpu, cuda or cuda:N.
        compile: Use torch.compile.
        evaluations: How often to evaluate and write a checkpoint, over the whole run.
        snapshots: How many finalized copies of the selected weights to keep besides the initial one, at the evaluations
            nearest to evenly spread. Not part of the run's identity, so a run that is done gets none.
        precision: Of products on a GPU.
        progress: Called with the number of completed steps after each step of this run, not of the one it starts from.
        claimed: The caller holds the claim of the run's directory.

    Raises:
        ValueError: If there are no evaluations, or more snapshots; the task's metric is not declared or returned, or
            its learning rate is no finite number of at least 0; the run that this one starts from has diverged; or the
            directory is from before format 2, or from when a field had another default.
        ClaimedError: If another process is training the run.
        RuntimeError: If the run's own code ends the program.
        WriteError: If the disk is full.
    """
    folder = directory / run.id
    refuse_old([folder])
    refuse_changed(run, folder)
    if (folder / "result.json").exists():
        return read_result(folder / "result.json")
    every, kept = milestones(run.steps, evaluations, snapshots)
    for each in with_prerequisites([run]):
        refuse_changed(each, directory / each.id)
        check_task(each.task)
        if not is_begun(directory / each.id):  # what is there has been evaluated
            try_evaluation(each.task, torch.device(device))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with nullcontext() if claimed else claim(folder):
        if (folder / "result.json").exists():  # another process was faster
            return read_result(folder / "result.json")

        def finished(other: Run) -> Result:
            return execute(
                other, directory, device=device, compile=compile, evaluations=evaluations, precision=precision
            )

        write_description(run, folder)
        live = begin(run, directory, torch.device(device), finished)
        with products(precision):
            return _train(live, folder, compile=compile, every=every, kept=kept, precision=precision, progress=progress)


def begin(run: Run, directory: Path, device: torch.device, finished: Callable[[Run], Result]) -> Live:
    """The run at its beginning; the caller has claimed its directory.

    Args:
        run: The run.
        directory: The folder of run directories.
        device: Where it trains.
        finished: Gives the result of a run that this one starts from, whose directory then has its weights.

    Raises:
        ValueError: If a run that this one starts from has diverged, or its weights do not fit.
    """
    remove_leftovers(directory / run.id)
    weights, zeros = (
        _finalized_weights(run, other, directory, finished) for other in (run.first_weights, run.kept_zeros)
    )
    return prepare(run, device, weights, zeros)


def _train(
    live: Live,
    folder: Path,
    *,
    compile: bool,
    every: int,
    kept: Collection[int],
    precision: Precision,
    progress: Callable[[int], None] | None,
) -> Result:
    """The result of the run after training it from where its checkpoint is, or from the beginning."""
    run = live.run
    dense = dense_flops(live)
    if 0 in kept:
        write_snapshot(folder, 0, live.finalized_weights())
    optimizer = run.task.optimizer(live.model, live.sparsifier)
    if live.sparsifier:
        live.sparsifier.attach(optimizer)
    state = resume(live, folder)
    rows = load_training(state, optimizer, live.device) if state else []
    step, seconds = (rows[-1]["step"], rows[-1]["seconds"]) if rows else (0, 0.0)

    if live.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(live.device)
    stretch = train(
        run.task,
        live.model,
        optimizer,
        compiled(live) if compile else live.objective,
        steps=run.steps,
        seed=run.seed,
        start=step,
        every=every,
        device=live.device,
        progress=progress,
    )
    began = time.perf_counter()
    for step, losses in _until_divergence(stretch, live):
        seconds, began = seconds + time.perf_counter() - began, time.perf_counter()
        if not finite(losses):
            return record(live, folder, machine(live.device, precision), step=step, seconds=seconds, rows=rows)
        measured = losses | metrics(run.task, live.model, live.device)
        row = evaluated(live.density(), dense, measured, step=step, seconds=seconds)
        if not finite(row):  # the losses are from before the last update
            return record(live, folder, machine(live.device, precision), step=step, seconds=seconds, rows=rows)
        rows.append(row)
        if step in kept:  # before the checkpoint: resuming after it would not come here again
            write_snapshot(folder, step, live.finalized_weights())
        save(live, optimizer.state_dict(), folder, rows)
        began = time.perf_counter()  # evaluation is not training time
    final, here = _final(live), machine(live.device, precision)
    return record(live, folder, here, step=run.steps, seconds=seconds, rows=rows, final=final)


def _until_divergence(
    stretch: Iterator[tuple[int, dict[str, float]]], live: Live
) -> Iterator[tuple[int, dict[str, float]]]:
    """The stretch; where a mask update meets NaN, a last item whose loss says so."""
    try:
        yield from stretch
    except DivergedError:
        assert live.sparsifier
        yield live.sparsifier.steps, {"train_loss": math.nan}


def _finalized_weights(
    run: Run, other: Run | None, directory: Path, finished: Callable[[Run], Result]
) -> dict[str, Tensor] | None:
    """The finalized weights of the other run, which this one needs."""
    if not other:
        return None
    result = finished(other)
    if not result.finished:
        raise ValueError(f"run {run.id} needs {other.id}, which diverged at step {result.step}; give it another one")
    return load_file(directory / other.id / "model.safetensors")


def resume(live: Live, folder: Path) -> dict[str, Any] | None:
    """The content of the checkpoint in the run's directory, after loading weights and masks; None if it has none.

    One that was written at the end of training has weights and evaluations alone: nothing is left to train. Rows that
    metrics.jsonl lacks, where a process died before it wrote them, are written there.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    try:
        state = read_checkpoint(path)
    except ValueError as error:
        found, _, _ = str(error).partition(";")  # and not the cure of a file that nobody can make again
        raise ValueError(f"{found}; delete that file, and the run is trained again from the beginning") from error
    if state["run"] != canonical(live.run):
        raise ValueError(f"{path} belongs to another run; remove the folder to start this one from the beginning")
    if "metrics" not in state:  # of a finished run of an earlier checkout, whose result was removed
        return None
    load_model(state, live.model, live.sparsifier, path)
    repair_rows(folder, state["metrics"])
    return state


def _final(live: Live) -> Final:
    plain, task, device = live.finalized_copy(), live.run.task, live.device
    # Where training is watched on other data, only the model that is reported reads the test set.
    measured = final_metrics if task.watched_on == task.judged_on else metrics
    before, after = measured(task, live.model, device), final_metrics(task, plain, device)
    return Final(plain, report(plain, select=live.run.select), live.sparsity(), before, after)
