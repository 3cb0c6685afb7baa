"""Task shells: what Celery can ask of this process. Each says in one line what came of it.

``except Exception`` stands here and in the sweep loop only: a task that fails is logged, and
the tick does its work again.
"""

import gc
from typing import Any

from celery import signals
from celery.apps.worker import install_worker_term_handler

from worker import runtime
from worker.app import app
from worker.bells import TASK
from worker.errors import PaynotifyError
from worker.models import Pool


@app.task(name=TASK, shared=False)  # type: ignore[untyped-decorator]
def deliver(pool: str = Pool.FAST.value) -> str:
    """Claim and send one batch; see :meth:`worker.deliver.Courier.deliver`."""
    return runtime.current().courier.deliver(Pool(pool))


@app.task(name="paynotify.enqueue", shared=False, acks_late=True, reject_on_worker_lost=True)  # type: ignore[untyped-decorator]
def enqueue(**fields: Any) -> str:
    """Enqueue for a host that has no SQL at hand; the fields of ``Notifier.enqueue`` as JSON.

    The one message that carries data, so it is acknowledged late and safe to run twice: the
    event key makes the second run find the first one's notification.
    """
    desk = runtime.current().desk
    with desk.engine.begin() as tx:
        ids = desk.notifier.enqueue(tx, **fields)
    return f"notification {', '.join(map(str, ids))}" if ids else "no endpoint wants this event"


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _start(sender: Any, **_: object) -> None:
    # Celery does this later: a SIGTERM in between would cut what is on the wire.
    install_worker_term_handler(sender)
    try:
        # Before the broker is reached: callbacks must go out without it.
        runtime.current()
        # What was imported stays: looking through it for garbage again and again costs a tenth
        # of the processor under load.
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
    except PaynotifyError as error:
        # Celery would log any other exception and go on with a worker that cannot deliver.
        raise SystemExit(f"worker process cannot start: {error}") from error


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop_claiming(**_: object) -> None:
    runtime.stop_claiming()


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _close(**_: object) -> None:
    runtime.close()
