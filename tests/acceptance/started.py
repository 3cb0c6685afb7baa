"""A command as a person starts it: a process of its own, told by signals, judged by what it did."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.services import die_with_parent
from worker.bootstrap import ROOT


class Started:
    """``python -m worker …`` for the length of a ``with`` block; nothing of it is left after.

    Args:
        arguments: of the command line.
        settings: by name (``slots=2``); given as ``PAYNOTIFY_*``.
    """

    def __init__(self, *arguments: str, **settings: object) -> None:
        self._words = [sys.executable, "-m", "worker", *arguments]
        given = {f"PAYNOTIFY_{name.upper()}": str(value) for name, value in settings.items()}
        self._environment = {**os.environ, **given, "COLUMNS": "120"}
        self._family: set[int] = set()

    def __enter__(self) -> Self:
        self._output = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._words,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into a loaded library
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        left = {*self.family(), *self._family}
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        for pid in left:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        if error is not None:
            print(self.said())
        self._output.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def said(self) -> str:
        """Everything it and its children printed."""
        return os.pread(self._output.fileno(), 1 << 20, 0).decode(errors="replace")

    def tell(self, number: signal.Signals) -> None:
        """Send it, and only it, a signal."""
        self._process.send_signal(number)

    def ends(self, within_s: float = 60) -> int:
        """Wait for its end; returns the exit code."""
        return self._process.wait(within_s)

    def stop(self, number: signal.Signals = signal.SIGTERM, within_s: float = 60) -> int:
        """Ask it to end and wait for it; returns the exit code."""
        self.family()
        self.tell(number)
        return self.ends(within_s)

    def family(self) -> dict[int, str]:
        """Its children that live now: process id and command line."""
        found = {}
        with suppress(OSError):
            pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            for pid in map(int, pids):
                with suppress(OSError):
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        self._family |= found.keys()
        return found

    def child(self, word: str) -> int:
        """Process id of the one child whose command line has this word."""
        [pid] = [pid for pid, line in self.family().items() if word in line]
        return pid

    def nobody_is_left(self, within_s: float = 15) -> bool:
        """Whether every child ever seen by ``family`` is gone, soon."""
        with suppress(AssertionError):
            until(lambda: not any(map(is_alive, self._family)), within_s=within_s)
            return True
        return False


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def until(fact: Callable[[], Any], *, within_s: float = 60.0) -> None:
    """Wait until ``fact()`` is true.

    Raises:
        AssertionError: it was still not after ``within_s``.
    """
    end = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.05)
