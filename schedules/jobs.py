"""What a line of the cron table can run: our sweeps and jobs by name, a host's own by its path.

Must never import a job before somebody asks for it: one that cannot be imported is the mistake
of its own line only.
"""

import difflib
import inspect
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from threading import Lock
from typing import Protocol, cast

from schedules import sweep
from schedules.deadline import Deadline
from schedules.sweep import Sweep
from worker import settings
from worker.errors import BadFieldError
from worker.runtime import Desk

# Each makes a sweep of a desk and the line's arguments; run by the loop of sweep.py.
SWEEPS = {
    "compensation": "schedules.compensation:sweep",
    "status-reconciliation": "schedules.status_reconciliation:sweep",
    "freeze": "schedules.freezing:sweep",
    "redrive": "schedules.redrive:sweep",
    "retention": "schedules.retention:sweep",
}
# Each is a Job.
JOBS = {
    "alert-evaluation": "schedules.alert_evaluation:run",
    "alert-delivery": "schedules.alert_delivery:run",
}


# What sweeps are made of besides the settings; edited, they are made anew.
_FILES = ("channels.toml", "orders.toml")


class Job(Protocol):
    """One job. Safe to run again: a worker can be killed in the middle of it."""

    def __call__(self, desk: Desk, arguments: Mapping[str, object], deadline: Deadline) -> str:
        """Do it, between two batches stop when ``deadline.over``; say in one line what was done.

        Args:
            desk: tools to look and to change things.
            arguments: of the line in the cron table.
            deadline: when to stop.

        Raises:
            Exception: it failed; the tick is over all the same, the next one tries again.
        """
        ...


class Jobs:
    """The jobs of one process.

    Args:
        desk: what they work with.
        runner: name of this process, for people.
    """

    def __init__(self, desk: Desk, runner: str) -> None:
        self._desk = desk
        self._runner = runner
        self._made: dict[str, tuple[object, Sweep]] = {}
        self._lock = Lock()

    def run(self, name: str, arguments: Mapping[str, object], deadline: Deadline) -> str:
        """Run a job; returns what it did, in one line.

        Raises:
            BadFieldError: there is no such job, or it cannot be imported.
            Exception: whatever the job raised.
        """
        if name not in SWEEPS:
            job = cast("Job", find(name))
            return str(job(self._desk, arguments, deadline))
        return sweep.run(
            self._desk.engine,
            self._sweep(name, arguments),
            runner=self._runner,
            budget_s=deadline.left_s,
            deadline=deadline,
            # Half a tick's lease: whoever starts a lost tick again finds the sweep free.
            lease_s=self._desk.settings.lease_s / 2,
        ).line

    def _sweep(self, name: str, arguments: Mapping[str, object]) -> Sweep:
        key = f"{name} {json.dumps(arguments, sort_keys=True)}"
        stamp = _stamp()
        with self._lock:
            made = self._made.get(key)
            if made is None or made[0] != stamp:
                make = cast("Callable[..., Sweep]", find(name))
                _check_arguments(name, make, self._desk, arguments)
                made = self._made[key] = (stamp, make(self._desk, **arguments))
            return made[1]


def _stamp() -> tuple[object, ...]:
    """Return what changes when somebody edits a file that sweeps are made of."""
    stamps: list[object] = []
    for name in _FILES:
        try:
            found = (settings.folder() / name).stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
    return tuple(stamps)


def _check_arguments(
    name: str, make: Callable[..., Sweep], desk: Desk, arguments: Mapping[str, object]
) -> None:
    takes = inspect.signature(make)
    try:
        takes.bind(desk, **arguments)
    except TypeError as error:
        known = ", ".join([*takes.parameters][1:]) or "none"
        raise BadFieldError("arguments", f"{error}; {name} takes {known}") from None


def check(name: str) -> None:
    """Refuse a job that cannot be run; see :func:`find`."""
    find(name)


def find(name: str) -> Callable[..., object]:
    """Import a job, or what makes a sweep.

    Args:
        name: one of :data:`SWEEPS` or :data:`JOBS`, or ``package.module:function``.

    Raises:
        BadFieldError: there is no such job, or it cannot be imported.
    """
    known = SWEEPS | JOBS
    module_name, colon, function = known.get(name, name).partition(":")
    if not colon:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise BadFieldError("job", f"{name[:60]!r} is none; did you mean {near!r}?")
    try:
        found: object = getattr(import_module(module_name), function)
    except (Exception, SystemExit) as error:
        # A host's module may raise anything; one that ends its process would end the beat.
        raise BadFieldError(
            "job", f"{name[:60]!r} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    if not callable(found):
        raise BadFieldError("job", f"{name[:60]!r} is no function")
    return found
