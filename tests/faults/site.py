"""One installation to break: database, broker, scripted merchant, and a host that enqueues."""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import DBAPIError

from tests.faults.books import Books, compare
from tests.faults.fleet import Fleet, until
from tests.office import MASTER_KEY
from tests.receiver import Receiver
from worker import columns, database, settings, tables
from worker.client import Enqueue, Notifier
from worker.endpoints import Endpoints
from worker.models import Allowed
from worker.sealing import Sealer, master_key
from worker.settings import Settings

# The shortest lease and deadline that settings allow, so that recovery takes seconds.
LEASE_S, TIMEOUT_S, TICK_S = 6, 2.0, 0.2
_OPEN = ("blocked", "waiting", "pending", "sending")


def quick(dsn: str, broker_url: str, **changes: Any) -> Settings:
    """Settings under which everything happens within seconds; ``changes`` go before."""
    values: dict[str, Any] = {
        "database_url": dsn,
        "broker_url": broker_url,
        "master_key": MASTER_KEY,
        "lease_s": LEASE_S,
        "timeout_s": TIMEOUT_S,
        "tick_s": TICK_S,
        "linger_ms": 100,
        "schedule_s": (1,) * 20,
        "jitter_ratio": 0,
        "log_level": "warning",
        # Breakers have tests of their own; here they would only hide what is being looked for.
        "breaker_failures": 10_000,
        "breaker_minimum": 100_000,
        **changes,
    }
    return settings.alone(**values)


class Site:
    """See the module; made by :func:`site`.

    Attributes:
        accepted: ids of notifications whose host's commit succeeded.
    """

    def __init__(self, engine: Engine, chosen: Settings, receiver: Receiver, folder: Path) -> None:
        self.engine = engine
        self.settings = chosen
        self.receiver = receiver
        self.folder = folder
        self.endpoints = Endpoints(engine, Sealer(master_key(chosen)), timeout_min_s=0.1)
        assert chosen.broker_url is not None
        self.notifier = Notifier(chosen.broker_url.get_secret_value())
        self.accepted: list[int] = []
        self._names = count(1)
        self._keys = count(1)

    def endpoint(self, path: str = "/success", **fields: Any) -> str:
        """Register an endpoint at the merchant; returns its name."""
        # Unlike that of any other test: the message id is made of it.
        name = f"m-{self.folder.name.replace('_', '-').lower()[-40:]}-{next(self._names)}"
        self.endpoints.register(
            name=name,
            merchant=name,
            who="test",
            url=self.receiver.url(path),
            ack=fields.pop("ack", "2xx"),
            allowed=Allowed(http=True, ports=(self.receiver.port,), networks=("127.0.0.0/8",)),
            timeout_s=fields.pop("timeout_s", self.settings.timeout_s),
            **fields,
        )
        return name

    def enqueue(self, names: Sequence[str], number: int = 1, **fields: Any) -> list[int]:
        """Enqueue ``number`` events in one transaction, spread over the endpoints.

        A host whose database is away asks again with the same keys until it is back.
        """
        payload = fields.pop("payload", {"amount_minor": 1999, "currency": "CNY"})
        patience_s = fields.pop("patience_s", 30)
        events = [
            Enqueue(
                endpoint=names[place % len(names)],
                event_type="payment.succeeded",
                event_key=f"k{next(self._keys)}",
                payload=payload,
                **fields,
            )
            for place in range(number)
        ]
        end = time.monotonic() + patience_s
        while True:
            try:
                with self.engine.begin() as tx:
                    ids = [id_ for [id_] in self.notifier.enqueue_many(tx, events)]
            except DBAPIError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
            else:
                self.accepted += ids
                return ids

    def open(self) -> dict[str, int]:
        """Count unfinished notifications by state."""
        state = tables.delivery.c.state
        with self.engine.connect() as connection:
            found = connection.execute(
                select(state, func.count()).where(state.in_(_OPEN)).group_by(state)
            ).all()
        return {row[0]: row[1] for row in found}

    def on_wire(self) -> int:
        """Count what is being sent, without a look at the thousands that wait: cheap under load."""
        query = select(func.count()).where(columns.spelled(tables.delivery.c.state, "sending"))
        with self.engine.connect() as connection:
            return connection.scalar(query) or 0

    def rest(self, fleet: Fleet, *, within_s: float = 40.0) -> None:
        """Wait until nothing is unfinished; workers that end meanwhile are started again."""

        def finished() -> bool:
            fleet.tend()
            with suppress(DBAPIError):
                return not self.open()
            return False

        until(finished, within_s=within_s, why=lambda: f"{self.open()}\n{fleet.last_words()}")

    def books(self, *, aside: Collection[int] = ()) -> Books:
        """Compare the books of this site; ``aside`` are accepted ids that are not judged."""
        return compare(self.engine, self.receiver.ledger(), self.accepted, aside=aside)


@contextmanager
def site(
    dsn: str, broker_url: str, folder: Path, *, fast: bool = False, **changes: Any
) -> Iterator[Site]:
    """Open a site on a migrated database with a merchant of its own.

    Args:
        dsn: of the database.
        broker_url: of the broker.
        folder: for the ledger and the workers' logs.
        fast: whether the merchant is made for load.
        changes: settings.
    """
    engine = database.connect(dsn)
    try:
        with Receiver(folder / "merchant", fast=fast) as receiver:
            yield Site(engine, quick(dsn, broker_url, **changes), receiver, folder)
    finally:
        engine.dispose()
