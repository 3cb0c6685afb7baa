"""The child processes of one supervisor: started, watched, started again, ended in order.

Must never leave a child behind, nor put a secret into an argument: what a child has to know
goes by its environment. All of it belongs to the main thread: on Linux a child gets SIGTERM
when the thread that started it ends.
"""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import FrameType, TracebackType
from typing import IO, Any, Self

from worker import clock
from worker.errors import UnavailableError
from worker.lifeline import end_with_us

# A child that lived this long had come up: the next death is a new story.
_CAME_UP_S = 5.0
_PAUSE_S, _PAUSE_MAX_S = 0.5, 30.0
# Ends with an exit code, one right after the other: it says itself that it cannot run.
_ENDS_MAX = 6
_POLL_S = 0.05
_STDERR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What one child runs.

    Attributes:
        name: for people.
        command: program and arguments, nothing secret among them.
        stage: those of stage 0 are ended first, then those of stage 1, …
        stop_s: seconds between SIGTERM and SIGKILL.
        without: variables of the environment it has no business with.
    """

    name: str
    command: tuple[str, ...]
    stage: int
    stop_s: float
    without: tuple[str, ...] = ()


class Signals:
    """Turns SIGTERM and SIGINT into something to wait for, for the length of a ``with`` block.

    Attributes:
        asked: somebody asked us to stop.
        again: Ctrl-C was pressed a second time, so waiting is over.
    """

    def __init__(self) -> None:
        self.asked = Event()
        self.again = Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked.is_set():
            self.again.set()
        self.asked.set()


class Child:
    """One program and its process, which changes when it is started again."""

    def __init__(self, program: Program, environment: Mapping[str, str], log: Path | None) -> None:
        self.program = program
        self._environment = {
            name: text for name, text in environment.items() if name not in program.without
        }
        self._log = log
        self._quick = 0
        self._ends = 0
        self._start_at_s: float | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None while it waits to be started again."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it.

        Raises:
            UnavailableError: the program cannot be run at all.
        """
        self._started_s = clock.monotonic_s()
        self._start_at_s = None
        try:
            self._process = self._spawn()
        except OSError as error:
            why = f"cannot be started: {error.strerror or error}"
            raise UnavailableError(self.program.name, why) from error

    def check(self) -> str | None:
        """Start it again when its time has come; says when it has just ended, and how.

        Raises:
            UnavailableError: it ended by itself too often in a row.
        """
        if self._start_at_s is not None:
            if clock.monotonic_s() >= self._start_at_s:
                self.start()
            return None
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        self._process = None
        came_up = clock.monotonic_s() - self._started_s >= _CAME_UP_S
        self._quick = 0 if came_up else self._quick + 1
        # A signal came from outside (kill -9, out of memory): that is no reason to give up.
        self._ends = 0 if came_up or code < 0 else self._ends + 1
        if self._ends >= _ENDS_MAX:
            raise UnavailableError(
                self.program.name,
                f"{_ended(code)} {self._ends} times in a row",
                f"see its last lines{f' in {self._log}' if self._log else ' above'}",
            )
        pause_s = min(_PAUSE_S * 2 ** min(self._quick, 10), _PAUSE_MAX_S)
        self._start_at_s = clock.monotonic_s() + pause_s
        return f"{self.program.name} {_ended(code)}; starting it again in {pause_s:g} s"

    def ask(self) -> None:
        """Ask it to end."""
        self._start_at_s = None
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self, until_s: float, hurry: Event) -> str | None:
        """Wait for its end until a monotonic time, then kill it; says if it did not end well."""
        process, self._process = self._process, None
        if process is None:
            return None
        while process.poll() is None:
            if hurry.is_set() or clock.monotonic_s() >= until_s:
                process.kill()
                process.wait()
                return f"{self.program.name} did not end in time and was killed"
            hurry.wait(_POLL_S)
        # -SIGTERM: it was not yet up, so it had nothing in hand.
        if process.returncode in (0, -signal.SIGTERM):
            return None
        return f"{self.program.name} {_ended(process.returncode)}"

    def _spawn(self) -> "subprocess.Popen[bytes]":
        output: IO[bytes] | int = self._log.open("ab") if self._log else _STDERR
        try:
            return subprocess.Popen(  # noqa: S603 - our own programs
                self.program.command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in the terminal reaches the supervisor only, which stops all in order.
                start_new_session=True,
                preexec_fn=end_with_us(),  # noqa: PLW1509 - calls a loaded library only
            )
        finally:
            if not isinstance(output, int):
                output.close()


class Crew:
    """All children of one supervisor.

    Args:
        environment: of every child.
        log: file their output goes to; None is our standard error.
    """

    def __init__(self, environment: Mapping[str, str], log: Path | None = None) -> None:
        self._environment = environment
        self._log = log
        self._children: list[Child] = []

    def start(self, program: Program) -> None:
        """Start a program and keep it running from now on."""
        child = Child(program, self._environment, self._log)
        child.start()
        self._children.append(child)

    def check(self) -> list[str]:
        """Start again what has ended; says in one line each what has just ended.

        Raises:
            UnavailableError: one ends again and again.
        """
        return [line for child in self._children if (line := child.check())]

    def stop(self, hurry: Event) -> list[str]:
        """End all that are left, stage by stage; again is harmless.

        Once ``hurry`` is set nothing is waited for.

        Returns:
            One line for each that did not end by itself or not without an error.
        """
        children, self._children = self._children, []
        problems = []
        for stage in sorted({child.program.stage for child in children}):
            group = [child for child in children if child.program.stage == stage]
            for child in group:
                child.ask()
            now_s = clock.monotonic_s()
            for child in group:
                problem = child.wait(now_s + child.program.stop_s, hurry)
                if problem:
                    problems.append(problem)
        return problems

    @property
    def pids(self) -> Sequence[int]:
        """Process ids of the children that run now, in the order they were started."""
        return [pid for child in self._children if (pid := child.pid) is not None]


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
