"""A whole delivering process within a test: real database, real transport, real timer."""

import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from sqlalchemy import select

from tests.receiver import Receiver
from worker import runtime, tables
from worker.models import Allowed, Endpoint
from worker.runtime import Runtime
from worker.settings import Settings

MASTER_KEY = b64encode(bytes(32)).decode()
LOCAL = Allowed(http=True, networks=("127.0.0.0/8",))


@contextmanager
def office(dsn: str, *, start: bool = True, **changes: Any) -> Iterator[Runtime]:
    """Run a process's tools on ``dsn``; ``changes`` are settings."""
    values: dict[str, Any] = {
        "database_url": dsn,
        "master_key": MASTER_KEY,
        "tick_s": 0.1,
        "settle_ms": 5,
        "timeout_s": 2.0,
        **changes,
    }
    desk = runtime.open_desk(Settings(**values))
    working = Runtime(desk, "test")
    if start:
        working.start()
    try:
        yield working
    finally:
        if start:
            working.close()
        else:
            desk.engine.dispose()


def add_endpoint(
    working: Runtime, receiver: Receiver, path: str = "/success", **fields: Any
) -> Endpoint:
    """Register an endpoint at the scripted merchant."""
    # The message id is made of the endpoint's name: a new name keeps ledgers apart.
    name = fields.pop("name", f"acme-{uuid4().hex[:8]}")
    return working.desk.endpoints.register(
        name=name,
        merchant=fields.pop("merchant", name),
        who="test",
        url=receiver.url(path) if path.startswith("/") else path,
        allowed=Allowed(http=True, ports=(receiver.port,), networks=("127.0.0.0/8",)),
        **fields,
    )


def enqueue(working: Runtime, endpoint: Endpoint, key: str, **fields: Any) -> int:
    """Enqueue one event in a transaction of its own."""
    fields = {"event_type": "payment.succeeded", "payload": {"order": key}, **fields}
    with working.desk.engine.begin() as tx:
        [notification_id] = working.desk.notifier.enqueue(
            tx, endpoint=endpoint.name, event_key=key, **fields
        )
    return notification_id


def state_of(working: Runtime, notification_id: int) -> str:
    """The stored state."""
    with working.desk.engine.connect() as connection:
        query = select(tables.delivery.c.state).where(tables.delivery.c.id == notification_id)
        return str(connection.execute(query).scalar_one())


def until(fact: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Wait until ``fact()`` is true.

    Raises:
        AssertionError: it was still not after ``within_s``.
    """
    end = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.01)
