"""TensorBoard: the numbers of a run as event files."""

from collections.abc import Iterable, Mapping
from pathlib import Path

try:
    import tensorboard  # noqa: F401  torch's writer needs it, and says so less plainly
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise ImportError('TensorBoard is missing; pip install "openwork[tensorboard]"') from error


def write_run(folder: Path, rows: Iterable[tuple[int, Mapping[str, float]]], settings: Mapping[str, str]) -> None:
    """Adds rows to the event files of one run.

    Args:
        folder: Where TensorBoard finds the run; its name is the run's there.
        rows: Step, and numbers by name.
        settings: Shown as text.
    """
    with SummaryWriter(str(folder)) as writer:
        for name, text in settings.items():
            writer.add_text(name, text)
        for step, numbers in rows:
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)
