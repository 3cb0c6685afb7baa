"""``paynotify worker``: real processes that are told to stop, killed and started again."""

import os
import re
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy import func, select

from tests.acceptance.started import Started, is_alive, until
from tests.office import MASTER_KEY, add_endpoint, enqueue, office
from tests.receiver import Receiver
from tests.services import PostgresServer, RedisServer
from worker.bells import KEY_PREFIX, TASK
from worker.runtime import Runtime
from worker.tables import attempt, delivery, inbox

_COUNT = 30


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path / "merchant") as running:
        yield running


@pytest.fixture
def broker_url(redis_server: RedisServer) -> str:
    redis_server.flushall()
    return redis_server.url()


@pytest.fixture
def working(postgres_dsn: str) -> Iterator[Runtime]:
    """The test's own view of the database; it delivers nothing."""
    with office(postgres_dsn, start=False) as desk:
        yield desk


@pytest.fixture
def settings(postgres_dsn: str, broker_url: str) -> dict[str, object]:
    return {
        "database_url": postgres_dsn,
        "broker_url": broker_url,
        "master_key": MASTER_KEY,
        "tick_s": 0.2,
        "timeout_s": 5,
        "lease_s": 12,
    }


@pytest.fixture
def host(broker_url: str) -> Iterator[Celery]:
    """A shop's own Celery, which sends and runs nothing here."""
    with Celery("shop", broker=broker_url, set_as_current=False) as shop:
        shop.conf.broker_transport_options = {"global_keyprefix": KEY_PREFIX}
        yield shop


def test_sigterm_finishes_what_is_on_the_wire_and_doubles_nothing(
    receiver: Receiver, working: Runtime, settings: dict[str, object]
) -> None:
    endpoint = add_endpoint(working, receiver, "/slow?ms=1500", in_flight_cap=10)
    for number in range(_COUNT):
        enqueue(working, endpoint, f"order-{number}")
    with Started("worker", "--processes", "2", **settings) as worker:
        until(receiver.ledger)
        assert worker.stop(within_s=5 + 5) == 0
        assert worker.nobody_is_left(within_s=1)
    begun = {record.message_id for record in receiver.ledger()}
    assert 0 < len(begun) < _COUNT
    # Whatever the merchant heard of is settled, and nothing else was even claimed.
    assert _states(working) == {"delivered": len(begun), "pending": _COUNT - len(begun)}
    assert _outcomes(working) == {"acked": len(begun)}
    with Started("worker", "--processes", "1", **settings) as worker:
        until(lambda: _states(working) == {"delivered": _COUNT})
        assert worker.stop() == 0
    heard = Counter(record.message_id for record in receiver.ledger())
    assert len(heard) == _COUNT
    assert set(heard.values()) == {1}


def test_a_killed_process_is_started_again_and_an_orphaned_one_ends(
    receiver: Receiver, working: Runtime, settings: dict[str, object]
) -> None:
    endpoint = add_endpoint(working, receiver)
    with Started("worker", "--processes", "1", **settings) as worker:
        enqueue(working, endpoint, "before")
        until(lambda: _states(working) == {"delivered": 1})
        first = worker.child("paynotify-1@")
        os.kill(first, signal.SIGKILL)
        enqueue(working, endpoint, "after")
        until(lambda: _states(working) == {"delivered": 2})
        assert "worker 1 was ended by SIGKILL; starting it again" in worker.said()
        second = worker.child("paynotify-1@")
        assert second != first
        worker.tell(signal.SIGKILL)
        until(lambda: not is_alive(second))


def test_a_worker_without_tables_says_what_to_run(
    postgres: PostgresServer, settings: dict[str, object]
) -> None:
    settings["database_url"] = postgres.dsn(postgres.create_database())
    with Started("worker", **settings) as worker:
        assert worker.ends() != 0
        assert "paynotify migrate" in worker.said()
        assert "Traceback" not in worker.said()


def test_a_worker_killed_while_the_database_is_away_waits_for_it(
    receiver: Receiver,
    postgres: PostgresServer,
    redis_server: RedisServer,
    working: Runtime,
    settings: dict[str, object],
    host: Celery,
) -> None:
    endpoint = add_endpoint(working, receiver)
    with Started("worker", "--processes", "1", **settings) as worker:
        enqueue(working, endpoint, "before")
        until(lambda: _states(working) == {"delivered": 1})
        postgres.halt()
        try:
            for _ in range(3):
                host.send_task(TASK, queue="deliver")
            until(lambda: _waiting(redis_server) == 0)
            os.kill(worker.child("paynotify-1@"), signal.SIGKILL)
            until(lambda: worker.said().count("database.away") >= 3)
            assert worker.said().count("starting it again") == 1
            assert "Traceback" not in worker.said()
            assert "celery.app.trace" not in worker.said()
            assert "celery.worker.strategy" not in worker.said()
        finally:
            postgres.start()
        enqueue(working, endpoint, "after")
        until(lambda: _states(working) == {"delivered": 2})
        assert worker.stop() == 0


def test_an_event_sent_as_a_message_is_kept_while_the_database_is_away(
    receiver: Receiver,
    postgres: PostgresServer,
    working: Runtime,
    redis_server: RedisServer,
    settings: dict[str, object],
    host: Celery,
) -> None:
    endpoint = add_endpoint(working, receiver)
    event = {"endpoint": endpoint.name, "event_type": "payment.succeeded", "payload": "paid"}
    with Started("worker", "--processes", "1", **settings) as worker:
        _send(host, **event, event_key="before")
        until(lambda: _states(working) == {"delivered": 1})
        postgres.halt()
        try:
            _send(host, **event, event_key="meanwhile")
            # Handed out, not finished, and put back with a later time at least once.
            until(lambda: any(re.search(r"retries\W+[1-9]", held) for held in _held(redis_server)))
        finally:
            postgres.start()
        until(lambda: _states(working) == {"delivered": 2})
        _send(host, **event, event_key="not allowed\n")
        until(lambda: any("event_key" in why for why in _refused(working)))
        _send(host, event_type="payment.succeeded", event_key="k", payload="p", merchant="nobody")
        until(lambda: any("nobody" in why for why in _refused(working)))
        assert worker.stop() == 0
    assert _held(redis_server) == []


def test_a_worker_that_waits_for_the_database_stops_at_once(
    postgres: PostgresServer, working: Runtime, settings: dict[str, object]
) -> None:
    with Started("worker", "--processes", "1", **settings) as worker:
        until(lambda: any("paynotify-1@" in line for line in worker.family().values()))
        postgres.halt()
        try:
            os.kill(worker.child("paynotify-1@"), signal.SIGKILL)
            until(lambda: "database.away" in worker.said())
            assert worker.stop(within_s=5) == 0
        finally:
            postgres.start()


def test_a_worker_takes_the_open_files_it_can_have_and_says_when_they_are_few(
    working: Runtime, settings: dict[str, object]
) -> None:
    with Started("worker", "--processes", "1", **settings) as worker:
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (256, 1500))
        until(lambda: "worker.few_files" in worker.said())
        assert "in_flight_max is 2000, but only 1500 files" in worker.said()
        child = worker.child("paynotify-1@")
        assert resource.prlimit(child, resource.RLIMIT_NOFILE) == (1500, 1500)
        assert worker.stop() == 0


def test_callbacks_go_out_while_the_broker_is_away_and_the_worker_stops_all_the_same(
    receiver: Receiver, working: Runtime, settings: dict[str, object]
) -> None:
    settings["broker_url"] = "redis://127.0.0.1:1/0"
    endpoint = add_endpoint(working, receiver)
    enqueue(working, endpoint, "nobody-rings")
    with Started("worker", "--processes", "1", **settings) as worker:
        until(lambda: _states(working) == {"delivered": 1})
        assert "Callbacks go out without it" in worker.said()
        assert worker.stop(within_s=5 + 5) == 0


def _send(host: Celery, **event: str) -> None:
    host.send_task("paynotify.enqueue", kwargs=event, queue="deliver")


def _refused(working: Runtime) -> list[str]:
    with working.desk.engine.connect() as connection:
        return [str(why) for why in connection.scalars(select(inbox.c.refused_because))]


def _waiting(redis_server: RedisServer) -> int:
    """Messages not handed out yet."""
    with redis_server.connect() as client:
        return int(client.llen(f"{KEY_PREFIX}deliver"))


def _held(redis_server: RedisServer) -> list[str]:
    """Messages that were handed out and not acknowledged."""
    with redis_server.connect() as client:
        return list(client.hvals(f"{KEY_PREFIX}unacked"))


def _states(working: Runtime) -> dict[str, int]:
    query = select(delivery.c.state, func.count()).group_by(delivery.c.state)
    with working.desk.engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def _outcomes(working: Runtime) -> dict[str | None, int]:
    query = select(attempt.c.outcome, func.count()).group_by(attempt.c.outcome)
    with working.desk.engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}
