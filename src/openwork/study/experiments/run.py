"""A run: one task, one technique, one seed; what identifies it, and how it is executed, resumed and recorded.

A run's directory is named by the hash of its canonical JSON and holds run.json (its description), metrics.jsonl (a row
each evaluation), snapshots/ (finalized weights on the way, if wanted), checkpoint.pt (to resume, or to set another
threshold), model.safetensors (the finalized model) and result.json: where it exists, the run is done.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from openwork.core.patterns import DivergedError
from openwork.core.schedules import Constant
from openwork.core.selection import Select, find_weights, matmul_weights
from openwork.core.sparsifier import Sparsifier, sparsify
from openwork.core.technique import Technique
from openwork.inspect.flops import count_flops
from openwork.inspect.report import report
from openwork.study.experiments.checkpoint import (
    load_model,
    load_training,
    mismatch,
    model_state,
    read_checkpoint,
    training_state,
)
from openwork.study.experiments.claim import claim
from openwork.study.experiments.config import TRUSTED, canonical, describe, from_plain, inside, override, to_plain
from openwork.study.experiments.environment import environment
from openwork.study.experiments.expected_flops import expected_flops
from openwork.study.files import remove_leftovers, write_atomically, write_text, writing
from openwork.study.processes import barrier
from openwork.study.results.history import snapshot_steps, write_snapshot
from openwork.study.results.store import FORMAT, read_result
from openwork.study.tasks.task import Task, final_metrics
from openwork.study.training.loop import Objective, train
from openwork.techniques.magnitude import GradualMagnitude


@dataclass(frozen=True)
class Run:
    """One training: everything that its result depends on, up to rounding on other hardware or in compiled kernels.

    technique: None trains densely. steps: optimizer steps.
    start: another run, whose finalized weights this one begins with: a pre-training. It is trained in the same
    directory unless it is there, and once for all runs that start from it. Its seed is this run's, whatever it says
    itself, so that another seed is an independent repetition.
    zeros: another run, whose finalized weights' zeros this one keeps from the first step to the last; the technique is
    then None. It is trained first, too, and keeps its own seed. With ``augmented`` each weight that has such zeros
    begins divided by the root of its fraction of non-zeros, so that its outputs have the scale they would have dense.
    initial_seed: that of the initial weights where it is not ``seed``: with that of ``zeros`` a run is its lottery
    ticket.
    """

    task: Task
    technique: Technique | None
    steps: int
    seed: int = 0
    select: Select = matmul_weights
    start: "Run | None" = field(default=None, metadata={"added later": True})
    zeros: "Run | None" = field(default=None, metadata={"added later": True})
    augmented: bool = field(default=False, metadata={"added later": True})
    initial_seed: int | None = field(default=None, metadata={"added later": True})

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        for name, other in (("start", self.start), ("zeros", self.zeros)):
            if other is not None and not isinstance(other, Run):
                raise ValueError(f"{name} must be a Run or None, got {other!r}")
        if self.start is not None:
            object.__setattr__(self, "start", replace(self.start, seed=self.seed))
        if self.zeros and self.technique:
            raise ValueError(f"a run that keeps zeros has no technique, got {self.technique!r}")
        if self.augmented and not self.zeros:
            raise ValueError("augmented needs zeros: it scales the weights that are left")

    @property
    def id(self) -> str:
        """The name of the run's directory: 16 hexadecimal digits."""
        return hashlib.sha256(canonical(self).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The technique's name; "LotteryTicket" or "Scratch" of a run that keeps another one's zeros; or "dense"."""
        if self.zeros:
            own, its = ((r.seed if r.initial_seed is None else r.initial_seed, r.start) for r in (self, self.zeros))
            return "LotteryTicket" if own == its and not self.augmented else "Scratch"
        return type(self.technique).__name__ if self.technique else "dense"

    @property
    def before(self) -> "list[Run]":
        """The runs that have to be finished before this one can begin."""
        return [run for run in (self.start, self.zeros) if run]

    @property
    def settings(self) -> str:
        """All that distinguishes this run from others of its technique and task but the seed, in one line."""
        parts = [inside(self.technique), f"steps={self.steps}", inside(self.task, prefix="task.")]
        if self.select != matmul_weights:
            parts.append(f"select={describe(self.select)}")
        if self.start:
            parts.append(f"start={self.start.name}({self.start.settings})")
        if self.zeros:
            parts.append(f"zeros={self.zeros.name}({self.zeros.settings}, seed={self.zeros.seed})")
        if self.augmented:
            parts.append("augmented=True")
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Live:
    """A run in the middle of its training: what `execute` drives and a checkpoint restores."""

    run: Run
    model: nn.Module
    sparsifier: Sparsifier | None
    device: torch.device

    def finalized_copy(self) -> nn.Module:
        """A plain model with the zeros that evaluation uses."""
        return self.sparsifier.finalized_copy() if self.sparsifier else self.model

    def penalty(self) -> Tensor:
        """The technique's penalty, zero for dense training."""
        return self.sparsifier.penalty() if self.sparsifier else torch.zeros((), device=self.device)

    def objective(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The loss of a batch and the penalty, both of shape (); their sum is minimised."""
        return self.run.task.loss(self.model, batch), self.penalty()

    def sparsity(self) -> float:
        """The fraction of zeros among the selected weights."""
        return self.sparsifier.sparsity() if self.sparsifier else 0.0

    def layers(self) -> dict[str, Any]:
        """Sparsity by layer, and the expected fraction of non-zeros among the selected weights; nothing if dense."""
        if not self.sparsifier:
            return {}
        weights = sum(weight.parameter.numel() for weight in self.sparsifier.weights)
        nonzero = sum(self.sparsifier.expected_nonzero().values())
        return {"layers": self.sparsifier.layer_sparsity(), "expected_density": nonzero / weights}

    def finalized_weights(self) -> dict[str, Tensor]:
        """The selected weights with the zeros that evaluation uses, by name, in the model's order."""
        weights, _ = find_weights(self.finalized_copy(), self.run.select)
        return {weight.name: weight.parameter.detach() for weight in weights}

    def state(self) -> dict[str, Any]:
        """The run with its weights and masks, as checkpoint.pt holds them."""
        return model_state(canonical(self.run), self.model, self.sparsifier)


def with_starts(runs: Iterable[Run]) -> list[Run]:
    """The runs, each after those that have to be finished before; what several runs need is there once."""
    found: dict[str, Run] = {}
    for run in runs:
        found |= {each.id: each for each in with_starts(run.before)} | {run.id: run}
    return list(found.values())


def prepare(
    run: Run,
    device: torch.device,
    weights: Mapping[str, Tensor] | None = None,
    zeros: Mapping[str, Tensor] | None = None,
) -> Live:
    """The run's model, initialised from its seed, then with ``weights`` where given, and sparsified, on the device.

    zeros: finalized weights of the run whose zeros are kept.
    """
    torch.manual_seed(run.seed if run.initial_seed is None else run.initial_seed)
    model = run.task.model().to(device)
    if run.initial_seed is not None:
        torch.manual_seed(run.seed)
    if weights is not None:
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"the weights to start from do not fit the model: {mismatch(error)}") from error
    if zeros is not None:
        _keep_zeros(model, run, zeros)
    technique = GradualMagnitude(Constant(0.0)) if run.zeros else run.technique
    if technique is None:
        return Live(run, model, None, device)
    sparsifier = sparsify(model, technique, select=run.select, seed=run.seed, from_zeros=zeros is not None)
    return Live(run, model, sparsifier, device)


@torch.no_grad()
def _keep_zeros(model: nn.Module, run: Run, zeros: Mapping[str, Tensor]) -> None:
    for weight in find_weights(model, run.select)[0]:
        parameter = weight.parameter
        if weight.name not in zeros or zeros[weight.name].shape != parameter.shape:
            raise ValueError(f"the zeros to keep do not fit the model: {weight.name} is not there in its shape")
        kept = zeros[weight.name].to(parameter.device) != 0
        # Glorot & Bengio's and He et al.'s variances are inverse to the connections of a unit.
        parameter.mul_(kept / kept.float().mean().sqrt() if run.augmented and kept.any() else kept)


def compiled(live: Live) -> Objective:
    """The run's objective, compiled; on a GPU with CUDA graphs: a small network's kernels are shorter than Python.

    Raises torch's error where the model cannot be compiled as one graph.
    """
    mode = "reduce-overhead" if live.device.type == "cuda" else "default"
    function: Objective = torch.compile(live.objective, fullgraph=True, mode=mode)
    return function


def restore(path: Path, *, settings: Sequence[str] = (), trusted: Collection[str] = TRUSTED) -> Live:
    """The run of a checkpoint.pt (or of the run directory that holds one), with its weights, on the CPU.

    settings: ``field=value`` changes to the run, such as "technique.threshold=2.0".
    Raises FileNotFoundError, and ValueError for a truncated or foreign file or one that uses untrusted code.
    """
    path = path / "checkpoint.pt" if path.is_dir() else path
    state = read_checkpoint(path)
    run = override(from_plain(json.loads(state["run"]), trusted), settings)
    live = prepare(run, torch.device("cpu"))
    load_model(state, live.model, live.sparsifier, path)
    return live


def execute(
    run: Run,
    directory: Path,
    *,
    device: str = "cpu",
    compile: bool = False,
    evaluations: int = 20,
    snapshots: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The run's result, from ``directory/<run.id>`` where it is done, otherwise after training it there.

    An interrupted run goes on from its checkpoint with the same batches, weights and random numbers as without the
    interruption, to the last bit, but for compiled kernels on a GPU. ``evaluations`` says how often to evaluate and
    checkpoint; ``progress`` is called with the number of completed steps after each, but not for the run that this one
    starts from, which is executed first where it is not done. The result's fields are those of
    `openwork.study.results.store`. Of several processes (see `openwork.study.processes`) all call it, with a directory
    that all of them see; the first one writes.
    ``snapshots``: how many finalized copies of the selected weights to keep besides the initial one, at the evaluations
    nearest to evenly spread; not part of the run's identity, so a run that is done gets none.
    Raises ValueError for more snapshots than evaluations, and where the run that this one starts from has diverged;
    ClaimedError where another process is training the run; WriteError where the disk is full.
    """
    folder = directory / run.id
    if (folder / "result.json").exists():
        return read_result(folder / "result.json")
    every = max(run.steps // evaluations, 1)
    kept = snapshot_steps(run.steps, every, snapshots)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with claim(folder):
        if (folder / "result.json").exists():  # another process was faster
            return read_result(folder / "result.json")
        remove_leftovers(folder)
        write_text(folder / "run.json", json.dumps(to_plain(run), indent=2) + "\n")
        weights, zeros = (
            _finalized_weights(run, other, directory, device, compile, evaluations) for other in (run.start, run.zeros)
        )
        live = prepare(run, torch.device(device), weights, zeros)
        result = _train(live, folder, compile=compile, every=every, kept=kept, progress=progress)
        (folder / "failed.json").unlink(missing_ok=True)
        return result


def _train(
    live: Live,
    folder: Path,
    *,
    compile: bool,
    every: int,
    kept: Collection[int],
    progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    """The result of the run after training it from where its checkpoint is, or from the beginning."""
    run = live.run
    # Of the plain model: random weights are computed anew in each forward pass, and no parameter owns their product.
    dense = count_flops(live.finalized_copy(), run.task.example(live.device)) if live.sparsifier else None
    if 0 in kept:
        write_snapshot(folder, 0, live.finalized_weights())
    optimizer = run.task.optimizer(live.model)
    if live.sparsifier:
        live.sparsifier.attach(optimizer)
    step, seconds, rows = _resume(live, optimizer, folder)

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
        if not all(math.isfinite(loss) for loss in losses.values()):
            return _record(live, folder, step=step, seconds=seconds, finished=False)
        metrics = {**losses, **run.task.evaluate(live.model, live.device), "sparsity": live.sparsity()}
        if live.sparsifier and dense and dense.dense:
            metrics["expected_flops"] = expected_flops(dense, live.sparsifier)
        rows.append({"step": step, **metrics, **live.layers(), "seconds": round(seconds, 3)})
        if step in kept:  # before the checkpoint: resuming after it would not come here again
            write_snapshot(folder, step, live.finalized_weights())
        _save(live, optimizer, folder, rows)
        began = time.perf_counter()  # evaluation is not training time
    return _record(live, folder, step=run.steps, seconds=seconds, finished=True)


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
    run: Run, other: Run | None, directory: Path, device: str, compile: bool, evaluations: int
) -> dict[str, Tensor] | None:
    """Those of the other run that this one needs, after executing it."""
    if not other:
        return None
    result = execute(other, directory, device=device, compile=compile, evaluations=evaluations)
    if result["status"] != "finished":
        raise ValueError(f"run {run.id} needs {other.id}, which diverged at step {result['step']}; give it another one")
    return load_file(directory / other.id / "model.safetensors")


def _resume(live: Live, optimizer: torch.optim.Optimizer, folder: Path) -> tuple[int, float, list[dict[str, Any]]]:
    """The completed steps, seconds and rows of the folder's checkpoint, after loading it; zeros without one."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0, 0.0, []
    state = read_checkpoint(path)
    if state["run"] != canonical(live.run):
        raise ValueError(f"{path} belongs to another run; remove the folder to start this one anew")
    load_model(state, live.model, live.sparsifier, path)
    rows = load_training(state, optimizer, live.device)
    return int(rows[-1]["step"]), rows[-1]["seconds"], rows


def _save(live: Live, optimizer: torch.optim.Optimizer, folder: Path, rows: list[dict[str, Any]]) -> None:
    """One file holds all that resuming needs, so that no crash can leave two halves that disagree."""
    state = {**live.state(), **training_state(optimizer, live.device, rows)}
    write_atomically(folder / "checkpoint.pt", lambda path: torch.save(state, path))
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _record(live: Live, folder: Path, *, step: int, seconds: float, finished: bool) -> dict[str, Any]:
    run = live.run
    result: dict[str, Any] = {
        "format": FORMAT,
        "id": run.id,
        "status": "finished" if finished else "diverged",
        "step": step,
        "name": run.name,
        "seed": run.seed,
        "settings": run.settings,
        "task": run.task.title,
        "run": to_plain(run),
        "before": None,
        "after": None,
        "sparsity": None,
        "layers": [],
        "cost": {
            "seconds": round(seconds, 3),
            "step_ms": round(1000 * seconds / step, 4),
            "peak_memory_bytes": torch.cuda.max_memory_allocated(live.device) if live.device.type == "cuda" else None,
        },
        "execution": "simulated",  # zeros are stored and multiplied like any other number
        "environment": environment(live.device),
    }
    if finished:
        plain = live.finalized_copy()
        counts = report(plain, select=run.select)
        before = {**final_metrics(run.task, live.model, live.device), "sparsity": live.sparsity()}
        after = {**final_metrics(run.task, plain, live.device), "sparsity": counts.sparsity}
        result |= {"before": before, "after": after, **counts.to_dict()}
        # Clones: safetensors refuses tied weights, whose keys share one memory.
        tensors = {name: tensor.clone().contiguous() for name, tensor in plain.state_dict().items()}
        write_atomically(folder / "model.safetensors", lambda path: save_file(tensors, path))
    write_text(folder / "result.json", json.dumps(result, indent=2) + "\n")
    if finished:  # only now is what resuming needs of no use any more
        write_atomically(folder / "checkpoint.pt", lambda path: torch.save(live.state(), path))
    barrier()  # no process goes on before the first one has written
    return result
