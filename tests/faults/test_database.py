"""A database that restarts, is cut off or is written by many: no verdict is lost or made up."""

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy.exc import DBAPIError

from tests.chaos_proxy import ChaosProxy
from tests.faults.fleet import Fleet, until
from tests.faults.site import LEASE_S, Site, quick
from tests.services import PostgresServer
from worker import database, runtime, statements
from worker.client import Enqueue
from worker.errors import UnavailableError
from worker.models import Pool
from worker.settings import Settings
from worker.store_postgresql import PostgresqlStore


def test_nothing_goes_out_for_what_rolled_back(place: Site) -> None:
    name = place.endpoint()
    with Fleet(place.settings, place.folder) as fleet:
        for number in range(100):
            place.enqueue([name], 5)
            events = [
                Enqueue(
                    endpoint=name, event_type="order.paid", event_key=f"x{number}-{n}", payload=""
                )
                for n in range(5)
            ]
            with place.engine.connect() as tx:
                place.notifier.enqueue_many(tx, events)
                # A bell in the middle of it: whoever claims now must not see these rows.
                place.enqueue([name])
                tx.rollback()
        place.rest(fleet)
    books = place.books()
    books.check()
    assert books.received == books.accepted == 600


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_database_that_restarts_costs_no_more_than_what_was_on_the_wire(
    mode: Literal["fast", "immediate"], place: Site, postgres: PostgresServer
) -> None:
    names = [place.endpoint("/slow?ms=200") for _ in range(4)]
    # Its breaker is told of failures while the database is away.
    names.append(place.endpoint("/flaky?fail=1"))
    away_s = 0.0
    with Fleet(place.settings, place.folder) as fleet:
        for _ in range(2):
            place.enqueue(names, 300)
            until(lambda: place.open().get("sending"), every_s=0.01)
            began_s = time.monotonic()
            postgres.restart(mode)
            away_s = max(away_s, time.monotonic() - began_s)
        place.rest(fleet, within_s=80)
        assert fleet.ended == []
        logs = fleet.logs()
        assert "settle.retry" in logs or "tick.failed" in logs
    books = place.books()
    books.check()
    assert "settle.given_up" not in logs
    assert books.outcomes["acked"] == 600
    assert books.duplicates <= books.outcomes["abandoned"]
    # Back well within a lease, every verdict was kept and written.
    assert books.duplicates == 0 or away_s > LEASE_S / 2, f"{away_s:.1f} s\n{books.text()}"


def _behind(wire: ChaosProxy, place: Site, **changes: Any) -> Settings:
    """The site's settings with the proxy in front of its database."""
    dsn = place.engine.url.set(port=wire.port).render_as_string(hide_password=False)
    assert place.settings.broker_url is not None
    return quick(dsn, place.settings.broker_url.get_secret_value(), **changes)


def test_a_settle_whose_commit_was_not_heard_of_is_looked_up_and_not_sent_again(
    place: Site, postgres: PostgresServer
) -> None:
    name = place.endpoint()
    with (
        ChaosProxy(postgres.port) as wire,
        Fleet([_behind(wire, place)], place.folder, count=1) as fleet,
    ):
        # Often enough that psycopg has prepared the statement.
        for _ in range(8):
            place.enqueue([name], 5)
            place.rest(fleet)
        for _ in range(5):
            before = fleet.metric("paynotify_settle_retries_total")
            wire.drop_after(b'{"delivered"')
            place.enqueue([name], 5)
            place.rest(fleet)
            assert fleet.metric("paynotify_settle_retries_total") == before + 1
        assert fleet.metric("paynotify_stale_settles_total") == 0
        assert fleet.ended == []
    books = place.books()
    books.check()
    assert (books.outcomes, books.duplicates) == ({"acked": 65}, 0)


def test_a_claim_whose_commit_was_not_heard_of_costs_a_lease_and_no_double(
    place: Site, postgres: PostgresServer
) -> None:
    name = place.endpoint()
    with (
        ChaosProxy(postgres.port) as wire,
        Fleet([_behind(wire, place, tick_s=2.0)], place.folder, count=1) as fleet,
    ):
        for _ in range(6):
            # The worker's name is a value of the claim; now and then of one that finds nothing.
            wire.drop_after(fleet.members[0].name.encode())
            place.enqueue([name], 20)
            place.rest(fleet)
            if place.books().outcomes["abandoned"]:
                break
        assert fleet.ended == []
    books = place.books()
    books.check()
    assert books.outcomes["abandoned"] > 0
    assert (books.outcomes["acked"], books.duplicates) == (books.accepted, 0)


def test_a_claim_holds_the_gate_for_one_round_trip(place: Site, postgres: PostgresServer) -> None:
    place.enqueue([place.endpoint()], 50)
    with ChaosProxy(postgres.port) as wire:
        engine = database.connect(_behind(wire, place).database_dsn)
        store = runtime.open_store(engine, place.settings)
        store.claim(Pool.FAST, limit=1, worker="w")
        wire.delay(0.2)
        took_s = []
        for _ in range(3):
            began_s = time.monotonic()
            assert store.claim(Pool.FAST, limit=1, worker="w").rows
            took_s.append(time.monotonic() - began_s)
        engine.dispose()
    # 0.4 s each for the pool's ping and for the claim; a COMMIT of its own would be 0.4 s more.
    assert min(took_s) < 1.1


def test_a_gate_that_nobody_opens_is_gone_round(place: Site, postgres: PostgresServer) -> None:
    name = place.endpoint()
    with Fleet(place.settings, place.folder, count=1) as fleet:
        place.enqueue([name], 5)
        place.rest(fleet)
        with postgres.connect(str(place.engine.url.database)) as frozen, frozen.transaction():
            # As a worker does that is frozen in the middle of a claim.
            frozen.execute(statements.GATE)
            place.enqueue([name], 20)
            place.rest(fleet, within_s=8)
            began_s = time.monotonic()
            place.enqueue([name], 20)
            place.rest(fleet)
            # Once known it is not waited for each time.
            assert time.monotonic() - began_s < 1.5
    books = place.books()
    books.check()
    assert (books.outcomes, books.duplicates) == ({"acked": 45}, 0)


def test_a_claim_that_fails_half_way_keeps_what_it_has(
    place: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [place.endpoint() for _ in range(3)]
    place.enqueue(names, 9)
    store = runtime.open_store(place.engine, place.settings)
    original = PostgresqlStore._claim_from
    calls: list[int] = []

    def claim_from(self: PostgresqlStore, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise UnavailableError("database", "went away")
        return original(self, *given)

    monkeypatch.setattr(PostgresqlStore, "_claim_from", claim_from)
    # The first stops short of the last lane; the second ends there and goes on from the first.
    first = store.claim(Pool.FAST, limit=2, worker="w").rows
    second = store.claim(Pool.FAST, limit=8, worker="w").rows
    assert len(calls) == 3
    assert second
    assert place.open()["sending"] == len(first) + len(second)


def test_connections_cut_at_any_moment_lose_nothing(place: Site, postgres: PostgresServer) -> None:
    names = [place.endpoint("/slow?ms=30") for _ in range(3)]
    with (
        ChaosProxy(postgres.port) as wire,
        Fleet([_behind(wire, place)] * 2, place.folder) as fleet,
    ):
        for turn in range(15):
            place.enqueue(names, 40)
            at_s = time.monotonic() + turn * 0.005
            until(lambda at_s=at_s: time.monotonic() >= at_s, every_s=0.001)  # type: ignore[misc]
            wire.drop()
        place.rest(fleet)
        assert fleet.ended == []
        assert fleet.metric("paynotify_stale_settles_total") == 0
    books = place.books()
    books.check()
    # A cut may cost a claim its lease; a verdict is kept until it is written.
    assert (books.outcomes["acked"], books.duplicates) == (600, 0)


def test_a_short_partition_after_the_yes_doubles_nothing(
    place: Site, postgres: PostgresServer
) -> None:
    name = place.endpoint("/slow?ms=700")
    with (
        ChaosProxy(postgres.port) as wire,
        Fleet([_behind(wire, place)], place.folder, count=1) as fleet,
    ):
        place.enqueue([name], 20)
        until(lambda: len(place.receiver.ledger()) == 20)
        wire.blackhole()
        at_s = time.monotonic() + 2.5
        until(lambda: time.monotonic() >= at_s)
        assert place.open() == {"sending": 20}
        wire.restore()
        place.rest(fleet)
        assert fleet.ended == []
    books = place.books()
    books.check()
    assert (books.outcomes, books.duplicates) == ({"acked": 20}, 0)


def test_a_partition_longer_than_the_lease_doubles_what_was_cut_off_and_refuses_it_late(
    place: Site, postgres: PostgresServer
) -> None:
    name = place.endpoint("/slow?ms=700")
    with ChaosProxy(postgres.port) as wire:
        apart = _behind(wire, place)
        with Fleet([apart, place.settings], place.folder) as fleet:
            # Until the one behind the partition has its share.
            while not place.books().received or not fleet.members[0].metric("paynotify_in_flight"):
                place.enqueue([name], 20)
                until(lambda: place.open().get("sending"))
            cut = fleet.members[0]
            wire.blackhole()
            began_s = time.monotonic()
            place.rest(fleet)
            assert time.monotonic() - began_s > LEASE_S - 2
            wire.restore()
            held = place.books().on_wire_of([cut.name])
            assert held > 0
            until(lambda: cut.metric("paynotify_stale_settles_total") >= held, within_s=30)
            place.enqueue([name], 10)
            place.rest(fleet)
            assert fleet.ended == []
    books = place.books()
    books.check()
    assert books.duplicates == held == books.outcomes["abandoned"]


@pytest.mark.timeout(180)
def test_eight_writers_of_one_sqlite_file_never_see_it_locked(small_place: Site) -> None:
    place = small_place
    names = [place.endpoint("/slow?ms=10") for _ in range(4)]
    errors: list[DBAPIError] = []

    def host() -> None:
        try:
            for _ in range(30):
                place.enqueue(names, 4, patience_s=0)
        except DBAPIError as error:
            errors.append(error)

    with Fleet(place.settings, place.folder, count=3) as fleet:
        hosts = [threading.Thread(target=host) for _ in range(5)]
        for thread in hosts:
            thread.start()
        until(lambda: place.open().get("sending"), every_s=0.01)
        killed = fleet.members[0].kill()
        fleet.tend()
        for thread in hosts:
            thread.join()
        place.rest(fleet, within_s=60)
        assert "locked" not in fleet.logs()
    assert errors == []
    books = place.books()
    books.check()
    assert books.accepted == 600
    assert books.duplicates <= books.on_wire_of([killed])
    assert place.engine.url.database
    with sqlite3.connect(Path(place.engine.url.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
