"""A thread in every worker that looks now and then, and does what nobody else did.

Must never stop because of one mistake, and never keep its process from ending.
"""

from abc import ABC, abstractmethod
from threading import Event, Thread

from sqlalchemy.exc import DBAPIError

from worker import database, telemetry
from worker.errors import PaynotifyError


class Lookout(ABC):
    """See the module.

    Args:
        name: of its thread.
        every_s: seconds between two looks, and before the first.
        failed: what is logged when a look fails.
    """

    def __init__(self, name: str, *, every_s: float, failed: telemetry.Event) -> None:
        self._every_s = every_s
        self._failed = failed
        self._closing = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def once(self) -> object:
        """Look, and do what did not come."""

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def close(self) -> None:
        """Stop; what is under way ends by its own deadline."""
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(self._every_s):
            try:
                self.once()
            except (PaynotifyError, DBAPIError) as error:
                known = database.unavailable(error) if isinstance(error, DBAPIError) else error
                telemetry.log(self._failed, level="warning", why=str(known))
            except Exception as error:  # noqa: BLE001 - the timer outlives any single mistake
                why = f"{type(error).__name__}: {error}"
                telemetry.log(self._failed, level="error", why=why)
