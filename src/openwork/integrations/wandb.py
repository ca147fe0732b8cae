"""Weights & Biases: the numbers of a run, online or, with WANDB_MODE=offline, in a folder for `wandb sync`."""

from collections.abc import Iterable, Mapping
from pathlib import Path

try:
    import wandb
except ImportError as error:
    raise ImportError('Weights & Biases is missing; pip install "openwork[wandb]"') from error


def write_run(
    folder: Path, rows: Iterable[tuple[int, Mapping[str, float]]], settings: Mapping[str, str], *, project: str
) -> None:
    """Adds rows to one run of a project, which is made where it does not exist.

    Args:
        folder: Where W&B keeps its files; its name is the run's id there.
        rows: Step, and numbers by name, in the order of steps.
        settings: The run's configuration; ``name`` is what it is called.
        project: The project of your account.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with wandb.init(
        project=project,
        id=folder.name,
        name=settings.get("name"),
        config=dict(settings),
        dir=str(folder),
        resume="allow",
    ) as run:
        for step, numbers in rows:
            run.log(dict(numbers), step=step)
