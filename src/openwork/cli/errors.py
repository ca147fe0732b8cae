"""How the command line says what went wrong: one sentence for what is expected, a traceback for a bug of openwork."""

import errno
import linecache
import sys
import sysconfig
from pathlib import Path
from types import TracebackType

import openwork

TRACEBACK = "OPENWORK_TRACEBACK"
"""The environment variable that asks for the traceback of every error."""

_UNUSABLE = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_UNUSABLE_PLACES = (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS)
_OURS = Path(openwork.__file__).parent
_OTHERS = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]


def sentence(error: Exception) -> str | None:
    """What to say about the error; None for a bug, whose traceback says more.

    An error that Python or a library raised in the user's own code is no bug of openwork: the sentence has its type and
    the place. Neither is one that openwork raises on purpose, as for ow.L0(0.1) or a misspelt name.
    """
    places, own = _code(error)
    expected = isinstance(error, ValueError | OSError | ImportError) or _is_meant(error)
    if not expected and places[-1:] != own[-1:]:
        return None
    text = _text(error) if expected else f"{type(error).__name__}: {_text(error)}"
    if not own:
        return text
    code, line = own[-1].tb_frame.f_code, own[-1].tb_lineno
    return f"{text} ({code.co_filename}, line {line}, in {code.co_name}; {TRACEBACK}=1 shows the traceback)"


def exit_code(error: Exception) -> int:
    """2 where what was given cannot be used: an argument, a setting or a file; 1 for all else that goes wrong."""
    place = isinstance(error, OSError) and error.errno in _UNUSABLE_PLACES
    return 2 if (place or isinstance(error, _UNUSABLE) or _is_meant(error)) and not _code(error)[1] else 1


def _code(error: Exception) -> tuple[list[TracebackType], list[TracebackType]]:
    """The places in openwork's and the user's code, from the outermost call on; and those in the user's alone."""
    places = [place for place in _places(error) if not _is_of_others(place)]
    return places, [place for place in places if not _is_in(place, _OURS)]


def _is_meant(error: Exception) -> bool:
    """Whether openwork raises it on purpose: a bug's TypeError or AttributeError comes from no line that says so."""
    last = _places(error)[-1:]
    return isinstance(error, TypeError | AttributeError) and any(
        _is_in(place, _OURS)
        and linecache.getline(place.tb_frame.f_code.co_filename, place.tb_lineno).strip().startswith("raise ")
        for place in last
    )


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"cannot open {error.filename or 'a file'}: too many files are open; allow more, as by `ulimit -n 1024`"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename:
        return "cannot write the output: no space left on device; make room, or let it go elsewhere"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"cannot use {error.filename}: {error.strerror.lower()}; make it usable or give another"
    return str(error) or type(error).__name__


def _places(error: Exception) -> list[TracebackType]:
    """From the outermost call to the one that raised."""
    found, traceback = [], error.__traceback__
    while traceback:
        found.append(traceback)
        traceback = traceback.tb_next
    return found


def _is_of_others(place: TracebackType) -> bool:
    """Whether the code is Python's, a library's, or the script that starts the command."""
    frame = place.tb_frame
    if frame.f_code.co_filename.startswith("<") or frame.f_globals is sys.modules["__main__"].__dict__:
        return True
    return not _is_in(place, _OURS) and any(_is_in(place, folder) for folder in _OTHERS)


def _is_in(place: TracebackType, folder: Path) -> bool:
    return Path(place.tb_frame.f_code.co_filename).is_relative_to(folder)
