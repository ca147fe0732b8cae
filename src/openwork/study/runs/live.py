"""A run in the middle of its training: its model, initialised or restored, and its objective."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openwork.core.schedules import Constant
from openwork.core.selection import find_weights
from openwork.core.sparsifier import Sparsifier
from openwork.core.sparsify import sparsify
from openwork.study.runs.calibration import calibration
from openwork.study.runs.checkpoint import load_model, mismatch, model_state, read_checkpoint
from openwork.study.runs.config import TRUSTED, canonical, from_plain, override
from openwork.study.runs.density import Density, density
from openwork.study.runs.origin import Origin
from openwork.study.runs.run import Run
from openwork.study.training.loop import Objective
from openwork.techniques.magnitude import GradualMagnitude


@dataclass(frozen=True)
class Live:
    """A run in the middle of its training: what `execute` drives and a checkpoint restores.

    Args:
        run: The run.
        model: Its model, on ``device``.
        sparsifier: What makes the model sparse, None for a dense one.
        device: Where it trains.
    """

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
        loss = self.run.task.loss(self.model, batch)
        if not isinstance(loss, Tensor) or loss.shape != () or not loss.requires_grad:
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ValueError(
                f"the loss of {self.run.task.title} must be a tensor of shape () with a gradient, got {what}; return "
                "the mean over the batch, without detach() or item()"
            )
        return loss, self.penalty()

    def sparsity(self) -> float:
        """The fraction of zeros among the selected weights."""
        return self.sparsifier.sparsity() if self.sparsifier else 0.0

    def density(self) -> Density | None:
        """The counts of the selected weights; None for dense training."""
        return density(self.sparsifier) if self.sparsifier else None

    def finalized_weights(self) -> dict[str, Tensor]:
        """The selected weights with the zeros that evaluation uses, by name, in the model's order."""
        weights, _ = find_weights(self.finalized_copy(), self.run.select)
        return {weight.name: weight.parameter.detach() for weight in weights}

    def state(self) -> dict[str, Any]:
        """The run with its weights and masks, as checkpoint.pt holds them."""
        return model_state(canonical(self.run), self.model, self.sparsifier)


def prepare(
    run: Run,
    device: torch.device,
    weights: Mapping[str, Tensor] | None = None,
    zeros: Mapping[str, Tensor] | None = None,
) -> Live:
    """The run at its beginning: its model, initialised from its seed and sparsified.

    Args:
        run: The run.
        device: Where to put the model.
        weights: A state dict that replaces the initial weights.
        zeros: Finalized weights of the run whose zeros are kept.

    Raises:
        ValueError: If ``weights`` or ``zeros`` do not fit the model.
    """
    initial_seed = run.origin.initial_seed if run.origin else None
    _seed(run.seed if initial_seed is None else initial_seed, device)
    model = run.task.model().to(device)
    if initial_seed is not None:
        _seed(run.seed, device)
    if weights is not None:
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"the weights to start from do not fit the model: {mismatch(error)}") from error
    if zeros is not None:
        assert run.origin
        _keep_zeros(model, run, run.origin, zeros)
    technique = GradualMagnitude(Constant(0.0)) if run.kept_zeros else run.technique
    if technique is None:
        return Live(run, model, None, device)
    sparsifier = sparsify(
        model,
        technique,
        select=run.select,
        seed=run.seed,
        keep_zeros=zeros is not None,
        calibrate=calibration(run, technique, device),
    )
    return Live(run, model, sparsifier, device)


def _seed(seed: int, device: torch.device) -> None:
    """As `torch.manual_seed`, which also keeps a stack trace for each kind of device that is not there, for ever."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


@torch.no_grad()
def _keep_zeros(model: nn.Module, run: Run, origin: Origin, zeros: Mapping[str, Tensor]) -> None:
    parameters = {weight.name: weight.parameter for weight in find_weights(model, run.select)[0]}
    for name, parameter in parameters.items():
        if name not in zeros or zeros[name].shape != parameter.shape:
            raise ValueError(f"the zeros to keep do not fit the model: {name} is not there in its shape")
    finalized = {name: zeros[name].to(parameter.device) for name, parameter in parameters.items()}
    for name, kept in origin.kept(finalized, run.seed).items():
        parameters[name].mul_(origin.scale(kept))


def compiled(live: Live) -> Objective:
    """The run's objective, compiled; on a GPU with CUDA graphs, as a small network's kernels are shorter than Python.

    torch raises an error of its own if it cannot compile the model as one graph.
    """
    mode = "reduce-overhead" if live.device.type == "cuda" else "default"
    function: Objective = torch.compile(live.objective, fullgraph=True, mode=mode)
    return function


def read_run(path: Path, *, trusted: Collection[str] = TRUSTED) -> Run:
    """The run of what `restore` takes, without making a model or reading data. Raises what `restore` raises."""
    run: Run = from_plain(json.loads(read_checkpoint(_file(path), mapped=True)["run"]), trusted)
    return run


def restore(
    path: Path, *, run: Run | None = None, settings: Sequence[str] = (), trusted: Collection[str] = TRUSTED
) -> Live:
    """The run of a checkpoint, with its weights, on the CPU.

    Args:
        path: A checkpoint.pt, or the run directory that holds one.
        run: What `read_run` returned, changed; by default the run as it was.
        settings: ``field=value`` changes to the run, such as "technique.threshold=2.0".
        trusted: The packages that the run may import, beside openwork.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If the file is truncated or foreign, or uses untrusted code.
    """
    path = _file(path)
    state = read_checkpoint(path)
    run = override(run or from_plain(json.loads(state["run"]), trusted), settings)
    live = prepare(run, torch.device("cpu"))
    load_model(state, live.model, live.sparsifier, path)
    return live


def _file(path: Path) -> Path:
    return path / "checkpoint.pt" if path.is_dir() else path
