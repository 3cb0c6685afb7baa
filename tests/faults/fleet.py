"""Worker processes to break: started as an operator starts them, killed and frozen by their id.

Must never signal a process it did not start, nor leave one behind. Everything belongs to the
thread that made the fleet: Linux ends a child with the thread that started it.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import urlopen

from tests.services import die_with_parent, free_port
from worker.settings import Settings, child_environment
from worker.station import worker_program

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Seam:
    """Where a worker acts, and how often in all; see :mod:`tests.faults.worker`."""

    name: str
    tokens: Path

    @staticmethod
    def of(name: str, times: int, folder: Path) -> "Seam":
        """Lay out ``times`` tokens below ``folder``."""
        tokens = folder / f"tokens-{name}"
        tokens.mkdir()
        for number in range(times):
            (tokens / str(number)).touch()
        return Seam(name=name, tokens=tokens)

    @property
    def left(self) -> int:
        """Tokens nobody has taken."""
        return len(list(self.tokens.iterdir()))


class Member:
    """One worker process and those that come after it under the same number.

    Args:
        number: from 1, part of its node name.
        settings: in force in it.
        folder: for its log.
        seam: where it acts; None is an ordinary worker.
    """

    def __init__(self, number: int, settings: Settings, folder: Path, seam: Seam | None) -> None:
        self.number = number
        self.log = folder / f"worker-{number}.log"
        self.metrics_port = free_port()
        self._settings = settings
        self._seam = seam
        self.started_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it takes a second or two to come up."""
        command = [*worker_program(self._settings, self.number).command]
        if self._seam is not None:
            at = command.index("celery")
            command[at : at + 1] = ["tests.faults.worker", self._seam.name, str(self._seam.tokens)]
        environment = child_environment(self._settings, root=ROOT)
        environment["PAYNOTIFY_METRICS_PORT"] = str(self.metrics_port)
        self.started_s = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into a loaded library
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def name(self) -> str:
        """What attempts call it."""
        return f"{socket.gethostname()}:{self.pid}"

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> str:
        """SIGKILL, and wait for the end; returns the name its attempts carry."""
        self.send(signal.SIGKILL)
        self.wait(10)
        return self.name

    def wait(self, timeout_s: float) -> int:
        """Wait for its end; returns the exit code."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    @property
    def frozen(self) -> bool:
        """Whether it is stopped by a signal."""
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False

    @property
    def up(self) -> bool:
        """Whether it delivers: its metrics are served from the same moment on."""
        return self.code is None and self._metrics() is not None

    def metric(self, name: str) -> float:
        """Sum a counter of it over its labels; 0 while it is not up."""
        return sum(
            float(line.rpartition(" ")[2])
            for line in (self._metrics() or "").splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        )

    def _metrics(self) -> str | None:
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with suppress(OSError), urlopen(url, timeout=1) as reply:
            return str(reply.read().decode())
        return None


class Fleet:
    """Several workers; started and awaited on entry, ended with the block.

    Args:
        settings: in force in all of them, or one for each.
        folder: for their logs.
        count: how many.
        seam: where each of them acts.
    """

    def __init__(
        self,
        settings: Settings | Sequence[Settings],
        folder: Path,
        *,
        count: int = 2,
        seam: Seam | None = None,
    ) -> None:
        each = [settings] * count if isinstance(settings, Settings) else settings
        self.members = [Member(n, chosen, folder, seam) for n, chosen in enumerate(each, 1)]
        self.ended: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        try:
            for member in self.members:
                member.start()
            until(lambda: all(m.up for m in self.members), within_s=60, why=self.last_words)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            print(self.last_words())
        self._end()

    def tend(self) -> None:
        """Start again whoever has ended, as a supervisor does, and remember how it ended."""
        for member in self.members:
            code = member.code
            if code is not None:
                self.ended.append((member.name, code))
                member.start()

    def metric(self, name: str) -> float:
        """Sum a counter over all that run."""
        return sum(member.metric(name) for member in self.members)

    def stop(self, *, within_s: float = 20) -> list[int]:
        """SIGTERM to all; returns their exit codes.

        Raises:
            AssertionError: one did not end in time.
        """
        for member in self.members:
            member.send(signal.SIGTERM)
        end = time.monotonic() + within_s
        try:
            return [member.wait(max(0.1, end - time.monotonic())) for member in self.members]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not stop in time\n{self.last_words()}") from None

    def last_words(self) -> str:
        """The end of every log."""
        return "\n".join(
            f"== {member.log.name}\n"
            + "\n".join(map(_short, member.log.read_text().splitlines()[-6:]))
            for member in self.members
            if member.log.exists()
        )

    def logs(self) -> str:
        """Everything they wrote."""
        return "".join(member.log.read_text(errors="replace") for member in self.members)

    def _end(self) -> None:
        for member in self.members:
            if member._process is not None and member.code is None:
                os.kill(member.pid, signal.SIGKILL)
                member.wait(10)


def _short(line: str) -> str:
    # Of a traceback the end says most.
    return line if len(line) < 2000 else f"{line[:300]} … {line[-1600:]}"


def until(
    fact: Callable[[], object],
    *,
    within_s: float = 20.0,
    why: Callable[[], object] = lambda: "",
    every_s: float = 0.05,
) -> None:
    """Wait until ``fact()`` is true.

    Raises:
        AssertionError: it was still not after ``within_s``; says ``why()``.
    """
    end = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < end, f"did not come true in {within_s} s: {why()}"
        time.sleep(every_s)
