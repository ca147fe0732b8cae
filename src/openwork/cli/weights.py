"""Weights from anywhere, in the model of an experiment's task."""

import reprlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from openwork.study.runs.run import Run


def with_images(run: "Run", source: str | None) -> "Run":
    """The run, with the images of ``source`` where it is given. Raises ValueError as `Task.with_images` does."""
    return run if source is None else replace(run, task=run.task.with_images(source))


def with_vocabulary(run: "Run", file: Path | None) -> "Run":
    """The run, with the vocabulary of ``file`` where it is given. Raises ValueError as `Task.with_vocabulary` does."""
    return run if file is None else replace(run, task=run.task.with_vocabulary(str(file.absolute())))


def with_weights(
    experiment: str, path: Path, *, data: str | None = None, vocabulary: Path | None = None
) -> tuple["Run", "nn.Module"]:
    """The run that ``experiment`` names, and its task's model with the weights of a file.

    Args:
        experiment: ``module:function`` of a function that returns one Run.
        path: A file of weights that fits the task's model.
        data: A source whose images replace those of the run.
        vocabulary: A file that replaces the run's vocabulary.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read or does not fit the model, or the experiment is not one Run.
    """
    from openwork.formats.checkpoint import read_checkpoint
    from openwork.study.runs.config import find
    from openwork.study.runs.run import Run

    made = find(experiment)
    made = made() if callable(made) else made
    if not isinstance(made, Run):
        raise ValueError(f"{experiment} must return one Run, got {reprlib.repr(made)}")
    run = with_vocabulary(with_images(made, data), vocabulary)
    state = read_checkpoint(path).tensors
    model = run.task.model()
    try:
        model.load_state_dict(run.task.weights_from(state))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit the model of {run.task.title}: {reason[:300]}") from error
    return run, model
