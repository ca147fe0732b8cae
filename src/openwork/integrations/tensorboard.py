"""TensorBoard: the numbers of a run as event files."""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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

    Raises:
        OSError: If they cannot be written, as on a full disk; what was begun is removed, or its rows would be there
            twice once they are written again.
    """
    before = {*folder.glob("*")}
    try:
        with _without_tracebacks(), SummaryWriter(str(folder)) as writer:
            for name, text in settings.items():
                writer.add_text(name, text)
            for step, numbers in rows:
                for name, value in numbers.items():
                    writer.add_scalar(name, value, step)
    except OSError as error:
        for path in {*folder.glob(f"*.{os.getpid()}.*")} - before:  # others may be writing there, too
            path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(folder)) from error


@contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Lets the thread that writes print no traceback of an OSError, which the writer raises as well."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, OSError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
