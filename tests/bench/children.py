"""Child processes of the bench: they talk in lines and are always ended, by their own id.

Must never leave one behind, nor signal a process that this run did not start.
"""

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.services import die_with_parent
from worker import clock

ROOT = Path(__file__).resolve().parents[2]


class BenchError(Exception):
    """A run cannot be trusted: a child failed, or the numbers do not add up."""


class Talker:
    """A Python module run as a child in a session of its own, so that Ctrl-C reaches only us.

    Args:
        arguments: module and its arguments, as after ``python -m``.
        log: file its error output goes to; quoted when it fails.
        env: variables on top of ours.
    """

    def __init__(
        self, arguments: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self._name = arguments[0]
        self._log = log
        self._heard = b""
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into a loaded library
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def alive(self) -> None:
        """Do nothing while it runs.

        Raises:
            BenchError: it has ended.
        """
        if self._process.poll() is not None:
            raise self._failed("ended")

    def say(self, line: str) -> None:
        """Write one line to it.

        Raises:
            BenchError: it is gone.
        """
        pipe = _open(self._process.stdin)
        try:
            pipe.write(line.encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._failed("is gone") from None

    def hear(self, *, timeout_s: float) -> str:
        """Wait for its next line.

        Raises:
            BenchError: it ended, or said nothing for ``timeout_s`` seconds.
        """
        pipe = _open(self._process.stdout)
        deadline = clock.monotonic_s() + timeout_s
        with selectors.DefaultSelector() as waits:
            waits.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                if not waits.select(max(0.0, deadline - clock.monotonic_s())):
                    raise self._failed(f"said nothing for {timeout_s:g} s")
                got = os.read(pipe.fileno(), 1 << 16)
                if not got:
                    raise self._failed("ended")
                self._heard += got
        line, self._heard = self._heard.split(b"\n", 1)
        return line.decode()

    def end(self, *, grace_s: float = 10.0) -> None:
        """Ask it to end, wait ``grace_s``, then kill its session. Again is harmless."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        # A prefork pool may have outlived its parent; it shares this session.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(5)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                _open(pipe).close()

    def last_words(self) -> str:
        """Return the end of what it wrote to its error output; empty when it wrote nothing."""
        tail = self._log.read_text(errors="replace").strip().splitlines()[-15:]
        return f"\n{self._name} (pid {self.pid}) said last:\n  " + "\n  ".join(tail) if tail else ""

    def _failed(self, what: str) -> BenchError:
        code = self._process.poll()
        return BenchError(f"{self._name} (exit code {code}) {what}{self.last_words()}")


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # both were asked for
    return pipe
