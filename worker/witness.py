"""Under which certificate each endpoint acknowledged last, to notice a change during a freeze.

Writes only what is new. Must never cost a callback more than a
look into a dictionary: it is advice, not truth.
"""

from threading import Lock

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import DBAPIError

from worker.columns import database_now
from worker.database import unavailable
from worker.tables_freeze import certificate as _certificate

# Endpoints remembered; beyond, everything is forgotten and asked of the database once more.
_KNOWN_MAX = 50_000
_WRITE_MAX = 200


class Witness:
    """Remembers for one process; safe between threads.

    Args:
        engine: of the database with our tables.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[int, str] = {}
        self._new: dict[int, str] = {}
        self._lock = Lock()

    def knows(self, endpoint_id: int, sha256: str) -> bool:
        """Tell whether an endpoint's certificate is written down already."""
        return self._known.get(endpoint_id) == sha256

    def saw(self, endpoint_id: int, sha256: str) -> None:
        """Hear what an endpoint showed."""
        with self._lock:
            self._new[endpoint_id] = sha256

    def write(self) -> None:
        """Write down what is new; nothing new costs nothing.

        Raises:
            UnavailableError: the database is away; the next call tries again.
        """
        if not self._new:
            return
        with self._lock:
            some = dict(list(self._new.items())[:_WRITE_MAX])
        try:
            self._write(some)
        except DBAPIError as error:
            raise unavailable(error) from error
        with self._lock:
            if len(self._known) > _KNOWN_MAX:
                self._known.clear()
            self._known |= some
            self._new = {key: sha for key, sha in self._new.items() if some.get(key) != sha}

    def _write(self, some: dict[int, str]) -> None:
        ids = _certificate.c.endpoint_id
        with self._engine.begin() as tx:
            kept = {
                row.endpoint_id: row.sha256
                for row in tx.execute(select(_certificate).where(ids.in_(some)))
            }
            for endpoint_id, sha256 in sorted(some.items()):
                if kept.get(endpoint_id) == sha256:
                    continue
                changed = tx.execute(
                    update(_certificate)
                    .where(ids == endpoint_id)
                    .values(sha256=sha256, seen_at=database_now())
                )
                if not changed.rowcount:
                    tx.execute(insert(_certificate).values(endpoint_id=endpoint_id, sha256=sha256))
