"""Tells the workers that ticks are due, from a thread of its own.

Must never keep beat waiting: a broker that is away or half open costs nothing but the ring, and
the workers find the ticks without it.
"""

from collections.abc import Callable
from threading import Condition, Thread

from worker import telemetry

# More bells than this wake nobody who is not awake.
_AT_ONCE_MAX = 8


class Bell:
    """Rings for due ticks; safe to share between threads.

    Args:
        send: puts one message into the workers' queue; may raise, may block.
    """

    def __init__(self, send: Callable[[], object]) -> None:
        self._send = send
        self._wanted = 0
        self._away = False
        self._changed = Condition()
        Thread(target=self._talk, name="schedules-bell", daemon=True).start()

    def ring(self, count: int) -> None:
        """Ring for so many ticks; returns at once. Rings that could not be sent are forgotten."""
        with self._changed:
            self._wanted = min(self._wanted + count, _AT_ONCE_MAX)
            self._changed.notify()

    def _talk(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted > 0)
                wanted, self._wanted = self._wanted, 0
            self._tell(wanted)

    def _tell(self, wanted: int) -> None:
        try:
            for _ in range(wanted):
                self._send()
        except Exception as error:  # noqa: BLE001 - whatever a broker client raises, beat goes on
            if not self._away:
                why = f"{type(error).__name__}: {error}"
                telemetry.log(telemetry.Event.BROKER_AWAY, level="warning", why=why)
            self._away = True
        else:
            if self._away:
                telemetry.log(telemetry.Event.BROKER_BACK)
            self._away = False
