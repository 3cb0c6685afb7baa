"""Task shells: what Celery can ask of this process. Each says in one line what came of it.

``except Exception`` stands here and in the sweep loop only: a task that fails is logged, and
the tick does its work again.
"""

import gc
import logging
from typing import Any, NoReturn

from celery import signals
from celery.apps.worker import install_worker_term_handler
from celery.exceptions import Reject
from celery.worker import state
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from worker import clock, inbox, runtime, telemetry
from worker.app import app
from worker.bells import TASK
from worker.errors import PaynotifyError, TablesError, UnavailableError
from worker.lifeline import raise_file_limit
from worker.models import Pool

# A worker that starts while the database is away tries again after pauses that double.
_PAUSE_S, _PAUSE_MAX_S = 0.5, 5.0
# A signal does not wake a sleeper, so it sleeps in steps.
_STEP_S = 0.1
_PUT_BACK_MAX_S = 10
# Open besides the requests: database, broker, what Python itself needs.
_OTHER_FILES = 200
_AWAY = (UnavailableError, OperationalError, PoolTimeoutError)


@app.task(name=TASK, shared=False)  # type: ignore[untyped-decorator]
def deliver(pool: str = Pool.FAST.value) -> str:
    """Claim and send one batch; see :meth:`worker.deliver.Courier.deliver`."""
    try:
        return runtime.current().courier.deliver(Pool(pool))
    except UnavailableError as error:
        return f"{error.what}: {error.why}; tried again by itself"
    except PaynotifyError as error:
        return f"{error}; tried again by itself"


@app.task(  # type: ignore[untyped-decorator]
    name="paynotify.enqueue",
    bind=True,
    shared=False,
    acks_late=True,
    reject_on_worker_lost=True,
    max_retries=None,
)
def enqueue(self: Any, **fields: Any) -> str:
    """Enqueue for a host that has no SQL at hand; the fields of ``Notifier.enqueue`` as JSON.

    The one message that carries data, so it is acknowledged late and safe to run twice: the
    event key makes the second run find the first one's notification. While the database is away
    it is put back, for ever.
    """
    desk = runtime.current().desk
    try:
        with desk.engine.begin() as tx:
            ids = desk.notifier.enqueue(tx, **fields)
    except _AWAY as error:
        _put_back(self, error)
    except (PaynotifyError, TypeError) as error:
        # Nobody waits for this task's answer: what was wrong stands where it is looked for.
        inbox.keep_refused(desk.engine, fields, str(error))
        return f"refused: {error}"
    if not ids:
        inbox.keep_refused(desk.engine, fields, inbox.UNWANTED)
        return "no endpoint wants this event"
    return f"notification {', '.join(map(str, ids))}"


def _put_back(task: Any, error: Exception) -> NoReturn:
    # No other message has an ETA, because a tick does that work anyway. This one nobody would
    # miss: late acks also take what failed off the queue. The pause is short, because a message
    # held longer than the broker's visibility timeout is handed out a second time.
    pause_s = min(2 ** min(task.request.retries, 10), _PUT_BACK_MAX_S)
    try:
        raise task.retry(exc=error, countdown=pause_s)
    except Reject as rejected:
        # The broker did not take the copy: Celery would let the message go.
        raise Reject(rejected.reason, requeue=True) from error


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _start(sender: Any, **_: object) -> None:
    # Celery does this later: a SIGTERM in between would cut what is on the wire.
    install_worker_term_handler(sender)
    try:
        # Before the broker is reached: callbacks must go out without it.
        _wait_for_database(sender.hostname)
        _make_room(runtime.current().desk.settings.in_flight_max)
        _hush()
        # What was imported stays: looking through it for garbage again and again costs a tenth
        # of the processor under load.
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
    except PaynotifyError as error:
        # Celery would log any other exception and go on with a worker that cannot deliver.
        raise SystemExit(f"worker process cannot start: {error}") from error


def _hush() -> None:
    """Drop Celery's two lines per task: what came of it stands in Flower and in our tables."""
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _make_room(in_flight_max: int) -> None:
    """Let as many files be open as requests can be on the wire, and say so if that cannot be."""
    limit = raise_file_limit()
    if limit < in_flight_max + _OTHER_FILES:
        telemetry.log(
            telemetry.Event.FILES_FEW,
            level="warning",
            why=f"in_flight_max is {in_flight_max}, but only {limit} files can be open at once",
            fix=f"lower in_flight_max or raise the limit to {in_flight_max + _OTHER_FILES}",
        )


def _wait_for_database(place: str) -> None:
    """Build the runtime, however long the database is away; SIGTERM ends the process instead.

    Args:
        place: Celery's name of this worker, which stays when its process is replaced.

    Raises:
        PaynotifyError: waiting would not help.
    """
    pause_s = _PAUSE_S
    while state.should_stop is None:
        try:
            runtime.current(place)
        except TablesError:
            raise
        except _AWAY as error:
            why = str(error).splitlines()[0]
            telemetry.log(
                telemetry.Event.DATABASE_AWAY, level="warning", why=why, again_in_s=pause_s
            )
        else:
            return
        until_s = clock.monotonic_s() + pause_s
        while state.should_stop is None and clock.monotonic_s() < until_s:
            clock.sleep(_STEP_S)
        pause_s = min(2 * pause_s, _PAUSE_MAX_S)
    raise SystemExit(state.should_stop)


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop_claiming(**_: object) -> None:
    runtime.stop_claiming()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: object) -> None:
    runtime.close()
