"""Writing files so that a crash leaves the old content or the new, never a half.

Of several processes that train one model the first alone writes.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from openwork.study.processes import rank


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` fill a temporary file beside ``path``, flushes it to disk and renames it to ``path``.

    Does nothing in any process but the first. Raises OSError where that fails; ``path`` is then what it was before.
    """
    if rank():
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's files are private
        temporary.replace(path)
    except (RuntimeError, SafetensorError) as error:  # how torch and safetensors report a full disk
        temporary.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {str(error).splitlines()[0]}; is there space left?") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` atomically, as UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
