"""Code of users that ends the program, such as a parser of arguments: an error like any other."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exits_are_errors() -> Iterator[None]:
    """Raises a RuntimeError in the place of a SystemExit, which would end a sweep without a word.

    The error comes from where the program was ended.
    """
    try:
        yield
    except SystemExit as exit:
        if isinstance(exit.__context__, BrokenPipeError):  # rich and typer say so that nobody reads
            raise
        error = RuntimeError(f"this ends the program, with {exit.code!r}; raise an error instead")
        raise error.with_traceback(exit.__traceback__) from None
