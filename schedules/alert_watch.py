"""Evaluates alerts when nobody else does: each worker looks, so that no beat is no blindness.

The jobs ``alert-evaluation`` and ``alert-delivery`` come from beat. When the last evaluation is
too old, one worker does what they would have done, and so it is told that beat is silent. Must
never do it beside a beat that works, nor in two workers at once.
"""

from schedules import alert_delivery, alert_evaluation, alert_rounds, alert_rules
from schedules.lookout import Lookout
from worker import telemetry
from worker.runtime import Desk

_LOOK_S = 30.0


class Watch(Lookout):
    """Evaluates and tells when nobody did lately.

    Args:
        desk: tools of this process.
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__("alert-watch", every_s=_LOOK_S, failed=telemetry.Event.RULE_FAILED)
        self._desk = desk

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
