"""Watches over rows that were lost twice in a row: they travel alone, in a process of their own.

A worker that dies takes everything it has on the wire along, and nobody can say afterwards
whether one of those rows ended it or somebody pulled the plug. A process that carries one row,
and dies while its parent lives, leaves one suspect. Must never hold a row responsible for a
death that others could have caused.
"""

import signal
import subprocess
import sys
from collections.abc import Mapping

from worker import clock, lifeline, telemetry
from worker.store import Store

# See worker/alone.py.
COMMAND: tuple[str, ...] = (sys.executable, "-m", "worker.alone")
# One is enough for what a crash leaves. Hundreds are left by a series of them: then one more
# each time this long has passed.
_PROCESSES_MAX = 4
_ANOTHER_AFTER_S = 4.0
# One that does nothing and ends within so long is not started again at once.
_SOON_S = 2.0
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
# How a process ends that is done or was asked to; an exit code is an error nobody caught.
_WELL = (0, -signal.SIGTERM, -signal.SIGINT)


class Quarantine:
    """These processes of one worker; they run only while there are suspects.

    Args:
        store: says whether there are any and is told of deaths.
        environment: of the processes; all of their settings are in there.
    """

    def __init__(self, store: Store, environment: Mapping[str, str]) -> None:
        self._store = store
        self._environment = environment
        self._processes: list[subprocess.Popen[bytes]] = []
        self._started_s = 0.0
        self._dead: dict[str, str] = {}
        self._pause_s = 0.0
        self._not_before_s = 0.0

    def tend(self) -> None:
        """Look who ended and how, and start one when it is needed.

        From a thread that lives as long as this process does.

        Raises:
            UnavailableError: the database is away; calling again goes on.
        """
        for process in [each for each in self._processes if each.poll() is not None]:
            self._processes.remove(process)
            soon = clock.monotonic_s() - self._started_s < _SOON_S
            if process.returncode in _WELL and soon:
                self._pause("it ended at once, though rows wait for it")
            if process.returncode not in _WELL:
                how = _how(process.returncode)
                name = lifeline.process_name(process.pid)
                self._dead[name] = f"it ended a process in which it was alone ({how})"
        for name, why in list(self._dead.items()):
            self._condemn(name, why)
        if self._may_start():
            if self._store.suspects():
                self._start()
            else:
                self._pause_s = 0.0

    def ask(self) -> None:
        """Ask them to end once the rows they carry are settled."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()

    def close(self, *, timeout_s: float) -> None:
        """Wait for their end, then end them; their leases bring back what they carried."""
        until_s = clock.monotonic_s() + timeout_s
        for process in self._processes:
            try:
                process.wait(max(0.0, until_s - clock.monotonic_s()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _may_start(self) -> bool:
        now_s = clock.monotonic_s()
        if now_s < self._not_before_s:
            return False
        if not self._processes:
            return True
        waited_s = now_s - self._started_s
        return len(self._processes) < _PROCESSES_MAX and waited_s > _ANOTHER_AFTER_S

    def _pause(self, why: str) -> None:
        """Start none for a while, each time for twice as long, while nothing comes of it."""
        if not self._store.suspects():
            return
        self._pause_s = min(max(_PAUSE_S, 2 * self._pause_s), _LONGEST_PAUSE_S)
        self._not_before_s = clock.monotonic_s() + self._pause_s
        why = f"{why}; the next one in {self._pause_s:g} s"
        telemetry.log(telemetry.Event.ALONE_FAILED, level="error", why=why)

    def _start(self) -> None:
        self._started_s = clock.monotonic_s()
        self._processes.append(
            subprocess.Popen(  # noqa: S603 - our own program
                COMMAND,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=lifeline.end_with_us(),  # noqa: PLW1509 - calls a loaded library only
            )
        )

    def _condemn(self, name: str, why: str) -> None:
        taken = self._store.condemn(worker=name, why=why)
        del self._dead[name]
        count = taken.again + taken.poisoned
        if not count:
            # It carried nothing: it could not even start.
            self._pause(why)
            return
        self._pause_s = 0.0
        telemetry.count_abandoned(count)
        telemetry.log(
            telemetry.Event.RELEASED,
            level="warning",
            again=taken.again,
            poisoned=taken.poisoned,
            why=why,
        )


def _how(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
