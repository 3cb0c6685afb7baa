"""What a process asks of its system: a name, room for open files, to end with its parent."""

import ctypes
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import Any


def end_with_us() -> "Lifeline | None":
    """Return a ``preexec_fn`` with which a child gets SIGTERM when we end.

    Linux measures "we" by the thread that starts the child, so start it from one that lives as
    long as the process. None on other systems: there a killed parent leaves its children.
    """
    return Lifeline(ctypes.CDLL(None).prctl, os.getpid()) if sys.platform == "linux" else None


def process_name(pid: int) -> str:
    """Name a process of this machine as attempts do."""
    return f"{socket.gethostname()}:{pid}"


def raise_file_limit() -> int:
    """Raise the number of files this process may have open as far as it can; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS names no end and then takes none.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


class Lifeline:
    """Runs between fork and exec: nothing may be imported or locked there."""

    def __init__(self, prctl: Any, parent: int) -> None:
        self._prctl = prctl
        self._parent = parent

    def __call__(self) -> None:
        """Ask Linux for the signal."""
        self._prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        # The parent may have ended before the line above.
        if os.getppid() != self._parent:
            os._exit(1)
