"""Does to writes what a full disk does."""

import resource
import signal


def fill(left: int) -> None:
    """Lets this process write no file of more bytes than are ``left``."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, left))
