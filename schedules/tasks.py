"""The task shell of the schedules, and their threads in every worker process.

A message says only that there may be due ticks. Must never be what a tick depends on: each worker
looks for itself once a second, so that a broker that is away costs two seconds.
"""

import os
from threading import Lock

from celery import signals

from schedules.alert_watch import Watch
from schedules.freezing import FreezeWatch
from schedules.jobs import Jobs
from schedules.runner import Runner
from schedules.ticks import Ticks
from worker import lifeline, runtime, telemetry
from worker.app import app
from worker.errors import PaynotifyError

TASK = "paynotify.sweep"
QUEUE = "sweep"


@app.task(name=TASK, shared=False)  # type: ignore[untyped-decorator]
def run_due() -> str:
    """Run the ticks that are due; see :meth:`schedules.runner.Runner.run_due`."""
    try:
        return "; ".join(runner().run_due()) or "nothing is due"
    except PaynotifyError as error:
        return f"{error}; tried again by itself"


def runner() -> Runner:
    """Return this process's runner; built and started by the first call.

    Raises:
        PaynotifyError: as :func:`worker.runtime.current`; the next call tries again.
    """
    with _lock:
        if not _built:
            desk = runtime.current().desk
            name = lifeline.process_name(os.getpid())
            made = Runner(
                ticks=Ticks(desk.engine),
                run=Jobs(desk, name).run,
                name=name,
                lease_s=desk.settings.lease_s,
            )
            made.start()
            _built.append(made)
            for watch in (Watch(desk), FreezeWatch(desk, name)):
                watch.start()
                _watches.append(watch)
        return _built[0]


# After worker.tasks, which app.py names first: by then the process has its runtime.
@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _start(**_: object) -> None:
    try:
        runner()
    except PaynotifyError as error:
        # The first bell tries again.
        telemetry.log(telemetry.Event.RUNNER_FAILED, level="warning", why=str(error))


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop(**_: object) -> None:
    # Not under the lock: the thread the signal interrupts may hold it.
    for made in _built:
        made.stop()
    for watch in _watches:
        watch.close()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: object) -> None:
    for made in _built:
        made.close()


_built: list[Runner] = []
_watches: list[Watch | FreezeWatch] = []
_lock = Lock()
