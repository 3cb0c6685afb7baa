"""Evaluates alerts when nobody else does: each worker looks, so that no beat is no blindness.

The jobs ``alert-evaluation`` and ``alert-delivery`` come from beat. When the last evaluation is
too old, one worker does what they would have done, and so it is told that beat is silent. Must
never do it beside a beat that works, nor in two workers at once.
"""

from threading import Event, Thread

from sqlalchemy.exc import DBAPIError

from schedules import alert_delivery, alert_evaluation, alert_rounds, alert_rules
from worker import database, telemetry
from worker.errors import PaynotifyError
from worker.runtime import Desk

_LOOK_S = 30.0


class Watch:
    """Runs on a thread of its own in every worker process.

    Args:
        desk: tools of this process.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._closing = Event()
        self._thread = Thread(target=self._run, name="alert-watch", daemon=True)

    def start(self) -> None:
        """Start looking, the first time in half a minute."""
        self._thread.start()

    def close(self) -> None:
        """Stop; a send that is under way ends by its own deadline."""
        self._closing.set()

    def once(self) -> bool:
        """Look, and do what did not come; says whether it had to."""
        desk = self._desk
        now = desk.store.now()
        if not alert_rounds.take_round(desk.engine, now=now):
            return False
        book = alert_rules.load(desk.settings)
        failures = desk.settings.breaker_failures
        alert_evaluation.evaluate(desk.engine, book, now=now, breaker_failures=failures)
        alert_delivery.deliver_due(desk.engine, book.sinks, now=desk.store.now())
        return True

    def _run(self) -> None:
        while not self._closing.wait(_LOOK_S):
            try:
                self.once()
            except (PaynotifyError, DBAPIError) as error:
                known = database.unavailable(error) if isinstance(error, DBAPIError) else error
                telemetry.log(telemetry.Event.RULE_FAILED, level="warning", why=str(known))
            except Exception as error:  # noqa: BLE001 - the timer outlives any single mistake
                why = f"{type(error).__name__}: {error}"
                telemetry.log(telemetry.Event.RULE_FAILED, level="error", why=why)
