"""The inbox on both databases: any language's INSERT becomes a notification, or says why not."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, Row, event, func, insert, select, text, update

from worker import inbox, tables
from worker.client import Notifier
from worker.endpoints import Endpoints
from worker.inbox import Accepted
from worker.models import State
from worker.sealing import Sealer

URL = "https://pay.example.com/notify"
ROW: dict[str, Any] = {
    "merchant": "m-1",
    "event_type": "payment.paid",
    "event_key": "k",
    "payload": '{"a": 1.10}',
}


@pytest.fixture
def notifier(engine: Engine) -> Notifier:
    endpoints = Endpoints(engine, Sealer(b"k" * 32))
    endpoints.register(name="acme", merchant="m-1", url=URL, who="li")
    endpoints.register(name="pays", merchant="m-2", url=URL, who="li", events=("payment.*",))
    return Notifier()


def _put(engine: Engine, *rows: dict[str, Any]) -> None:
    with engine.begin() as connection:
        for row in rows:
            connection.execute(insert(tables.inbox).values(ROW | row))


def _left(engine: Engine) -> list[Row[Any]]:
    query = text("SELECT id, refused_because FROM paynotify_inbox ORDER BY id")
    with engine.connect() as connection:
        return list(connection.execute(query))


def _count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(
            connection.execute(select(func.count()).select_from(tables.delivery)).scalar_one()
        )


def test_a_row_becomes_a_notification_with_its_bytes_kept(
    engine: Engine, notifier: Notifier
) -> None:
    body = '{ "amount" : 1.10, "名": "\u2028" }'
    _put(
        engine,
        {
            "payload": body,
            "order_no": "o-1",
            "headers": '{"X-Shop": "7"}',
            "notify_url": "https://o.example.com/x",
            "content_type": "text/json",
            "deliver_at": datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
            "expires_at": datetime(2100, 1, 3, tzinfo=UTC),
            "priority": 3,
            "trace_id": "t",
        },
    )
    assert inbox.accept(engine, notifier) == Accepted(accepted=1, refused=0)
    assert _left(engine) == []
    with engine.connect() as connection:
        (seen,) = notifier.list_by_order(connection, "o-1")
        assert notifier.payload(connection, seen.id) == body.encode()
        assert seen.state is State.WAITING
        assert seen.due_at == datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
        assert seen.expires_at == datetime(2100, 1, 3, tzinfo=UTC)
        assert (seen.notify_url, seen.trace_id) == ("https://o.example.com/x", "t")
        kept = connection.execute(select(tables.notification)).one()
        assert (kept.headers, kept.content_type) == ('[["X-Shop","7"]]', "text/json")


def test_an_empty_inbox_is_nothing_done(engine: Engine, notifier: Notifier) -> None:
    assert inbox.accept(engine, notifier) == Accepted(accepted=0, refused=0)


def test_one_bad_row_stops_no_other_and_is_read_once(engine: Engine, notifier: Notifier) -> None:
    _put(
        engine,
        {"event_key": "good-1"},
        {"event_key": "bad", "merchant": "nobody"},
        {"event_key": "good-2", "merchant": None, "endpoint": "acme"},
    )
    assert inbox.accept(engine, notifier) == Accepted(accepted=2, refused=1)
    assert inbox.accept(engine, notifier) == Accepted(accepted=0, refused=0)
    (row,) = _left(engine)
    assert "merchant 'nobody'" in row.refused_because
    assert _count(engine) == 2


@pytest.mark.parametrize(
    ("says", "given"),
    [
        ("merchant", {"endpoint": "acme"}),
        ("merchant", {"merchant": None}),
        ("event_type", {"event_type": "pay ment"}),
        ("event_key", {"event_key": ""}),
        ("headers", {"headers": "X-A: b"}),
        ("headers", {"headers": "[" * 5000}),
        ("headers", {"headers": '{"Host": "x"}'}),
        ("headers", {"headers": '{"X-A": 7}'}),
        ("notify_url", {"notify_url": "https://127.0.0.1/"}),
        ("priority", {"priority": 11}),
        ("priority", {"priority": -1}),
        ("deliver_at", {"deliver_at": datetime(2300, 1, 1, tzinfo=UTC)}),
        ("expires_at", {"expires_at": datetime(1969, 1, 1, tzinfo=UTC)}),
        ("payload", {"payload": "x" * 262_145}),
    ],
)
def test_a_refused_row_says_which_field(
    engine: Engine, notifier: Notifier, says: str, given: dict[str, Any]
) -> None:
    _put(engine, given)
    assert inbox.accept(engine, notifier) == Accepted(accepted=0, refused=1)
    assert str(_left(engine)[0].refused_because).startswith(says)


@pytest.mark.parametrize(
    "moment", ["infinity", "-infinity", "0044-03-15 00:00:00+00 BC", "294276-01-01 00:00:00+00"]
)
def test_a_time_the_driver_cannot_read_stops_nothing(postgres_engine: Engine, moment: str) -> None:
    endpoints = Endpoints(postgres_engine, Sealer(b"k" * 32))
    endpoints.register(name="acme", merchant="m-1", url=URL, who="li")
    _put(postgres_engine, {}, {"event_key": "other"})
    with postgres_engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE paynotify_inbox SET deliver_at = CAST(:at AS timestamptz) "
                "WHERE event_key = 'k'"
            ),
            {"at": moment},
        )
    assert inbox.accept(postgres_engine, Notifier()) == Accepted(accepted=1, refused=1)
    assert "deliver_at" in _left(postgres_engine)[0].refused_because


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("deliver_at", "'2030-01-01'", "deliver_at"),
        ("deliver_at", "99999999999999999999", "deliver_at"),
        ("deliver_at", "1.5", "deliver_at"),
        ("deliver_at", "x'ff'", "deliver_at"),
        ("priority", "'high'", "priority"),
        ("priority", "x'ff'", "priority"),
        ("event_key", "x'ff'", "event_key"),
        ("headers", "x'c328'", "headers"),
        ("event_type", "7", "ok"),
        ("payload", "x'ff00'", "ok"),
    ],
)
def test_whatever_sqlite_lets_into_a_column_stops_nothing(
    sqlite_engine: Engine, column: str, value: str, says: str
) -> None:
    endpoints = Endpoints(sqlite_engine, Sealer(b"k" * 32))
    endpoints.register(name="acme", merchant="m-1", url=URL, who="li")
    _put(sqlite_engine, {"event_key": "other"}, {})
    with sqlite_engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE paynotify_inbox SET {column} = {value} WHERE event_key = 'k'"
        )
    taken = inbox.accept(sqlite_engine, Notifier())
    if says == "ok":
        assert taken == Accepted(accepted=2, refused=0)
    else:
        assert taken == Accepted(accepted=1, refused=1)
        assert _left(sqlite_engine)[0].refused_because.startswith(says)


def test_the_same_event_again_is_accepted_once_and_other_bytes_are_refused(
    engine: Engine, notifier: Notifier
) -> None:
    _put(engine, {}, {}, {"payload": "other"})
    assert inbox.accept(engine, notifier) == Accepted(accepted=2, refused=1)
    assert "another payload" in _left(engine)[0].refused_because
    assert _count(engine) == 1


def test_a_refused_row_that_is_mended_is_read_again(engine: Engine, notifier: Notifier) -> None:
    _put(engine, {"merchant": "nobody"})
    inbox.accept(engine, notifier)
    with engine.begin() as connection:
        connection.execute(update(tables.inbox).values(merchant="m-1", refused_because=None))
    assert inbox.accept(engine, notifier) == Accepted(accepted=1, refused=0)
    assert _count(engine) == 1


def test_a_batch_is_bounded_and_oldest_first(engine: Engine, notifier: Notifier) -> None:
    _put(engine, *({"event_key": f"k{no}"} for no in range(5)))
    assert inbox.accept(engine, notifier, limit=2) == Accepted(accepted=2, refused=0)
    with engine.connect() as connection:
        keys = connection.execute(select(tables.inbox.c.event_key).order_by(tables.inbox.c.id))
        assert list(keys.scalars()) == ["k2", "k3", "k4"]


def test_a_row_not_yet_committed_is_left_alone(postgres_engine: Engine) -> None:
    with postgres_engine.connect() as host:
        host.execute(insert(tables.inbox).values(ROW))
        assert inbox.accept(postgres_engine, Notifier()) == Accepted(accepted=0, refused=0)
        host.rollback()
    assert inbox.accept(postgres_engine, Notifier()) == Accepted(accepted=0, refused=0)


def test_many_at_once_take_each_row_once(engine: Engine, notifier: Notifier) -> None:
    _put(engine, *({"event_key": f"k{no}"} for no in range(120)))
    start = Barrier(4)

    def work() -> int:
        start.wait()
        taken = 0
        while (now := inbox.accept(engine, notifier, limit=10)).accepted:
            taken += now.accepted
        return taken

    with ThreadPoolExecutor(4) as pool:
        assert sum(job.result() for job in [pool.submit(work) for _ in range(4)]) == 120
    assert _left(engine) == []
    assert _count(engine) == 120


def test_what_fails_half_way_leaves_the_rows_for_the_next(
    engine: Engine, notifier: Notifier
) -> None:
    _put(engine, {})

    def fail(*_: object) -> None:
        raise ConnectionResetError

    event.listen(engine, "commit", fail)
    with pytest.raises(ConnectionResetError):
        inbox.accept(engine, notifier)
    event.remove(engine, "commit", fail)
    assert _count(engine) == 0
    assert inbox.accept(engine, notifier) == Accepted(accepted=1, refused=0)


def test_what_only_the_database_refuses_is_found_among_the_others(postgres_engine: Engine) -> None:
    endpoints = Endpoints(postgres_engine, Sealer(b"k" * 32))
    endpoints.register(name="acme", merchant="m-1", url=URL, who="li")
    with postgres_engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE paynotify_notification ADD CHECK (event_key <> 'cursed')")
        )
    _put(postgres_engine, {"event_key": "a"}, {"event_key": "cursed"}, {"event_key": "b"})
    assert inbox.accept(postgres_engine, Notifier()) == Accepted(accepted=2, refused=1)
    assert "database refuses" in _left(postgres_engine)[0].refused_because


def test_a_row_whose_key_an_open_transaction_holds_stops_no_other(postgres_engine: Engine) -> None:
    endpoints = Endpoints(postgres_engine, Sealer(b"k" * 32))
    endpoints.register(name="acme", merchant="m-1", url=URL, who="li")
    notifier = Notifier()
    _put(postgres_engine, {"event_key": "a"}, {"event_key": "held"}, {"event_key": "b"})
    with postgres_engine.connect() as host:
        notifier.enqueue(
            host, merchant="m-1", event_type="payment.paid", event_key="held", payload=b"x"
        )
        assert inbox.accept(postgres_engine, notifier) == Accepted(accepted=2, refused=0)
        assert [row.refused_because for row in _left(postgres_engine)] == [None]
        host.rollback()
    assert inbox.accept(postgres_engine, notifier) == Accepted(accepted=1, refused=0)
    assert (_left(postgres_engine), _count(postgres_engine)) == ([], 3)


def test_an_endpoint_that_cannot_be_read_stops_only_its_own_rows(
    engine: Engine, notifier: Notifier
) -> None:
    with engine.begin() as connection:
        connection.execute(
            update(tables.endpoint)
            .where(tables.endpoint.c.name == "pays")
            .values(config=func.replace(tables.endpoint.c.config, '"any"', '"xpath"'))
        )
    _put(engine, {"event_key": "a"}, {"merchant": "m-2"}, {"event_key": "b"})
    assert inbox.accept(engine, notifier) == Accepted(accepted=2, refused=1)
    assert "cannot be taken" in _left(engine)[0].refused_because


def test_a_refused_row_is_sent_to_none_of_its_endpoints(engine: Engine, notifier: Notifier) -> None:
    endpoints = Endpoints(engine, Sealer(b"k" * 32))
    _put(engine, {})
    inbox.accept(engine, notifier)
    endpoints.register(name="second", merchant="m-1", url=URL, who="li")
    alone = {"merchant": None, "endpoint": "second"}
    _put(engine, {"payload": "other"}, alone | {"payload": "third"}, {"event_key": "more"})
    assert inbox.accept(engine, notifier) == Accepted(accepted=2, refused=1)
    assert "another payload" in _left(engine)[0].refused_because
    with engine.connect() as connection:
        written = select(tables.notification.c.event_key, tables.notification.c.payload)
        kept = sorted((key, bytes(payload)) for key, payload in connection.execute(written))
    assert kept == [("k", b"third"), ("k", b'{"a": 1.10}')] + [("more", b'{"a": 1.10}')] * 2


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"event_type": "paymnet.succeeded"}, "no endpoint of this merchant wants it"),
        ({"payload": '{"a":5'}, "not valid JSON"),
        ({"payload": "a=5", "content_type": "application/json"}, "not valid JSON"),
    ],
)
def test_what_would_reach_nobody_or_nothing_can_read_stays_with_the_reason(
    engine: Engine, notifier: Notifier, row: dict[str, str], why: str
) -> None:
    Endpoints(engine, Sealer(b"k" * 32)).update(
        "acme", who="li", why="only payments", events=("payment.*",)
    )
    with engine.begin() as tx:
        tx.execute(insert(tables.inbox).values(**(ROW | row)))
    assert inbox.accept(engine, notifier).refused == 1
    with engine.connect() as connection:
        assert why in str(connection.scalar(select(tables.inbox.c.refused_because)))


def test_an_event_refused_as_a_message_is_kept_until_somebody_puts_it_right(
    engine: Engine, notifier: Notifier
) -> None:
    fields = {"merchant": "m-1", "event_type": "x", "event_key": "k9", "payload": {"a": 1.5}}
    inbox.keep_refused(engine, fields, "payload.a: is a float")
    assert inbox.accept(engine, notifier) == Accepted(accepted=0, refused=0)
    with engine.begin() as tx:
        tx.execute(update(tables.inbox).values(payload='{"a": 1}', refused_because=None))
    assert inbox.accept(engine, notifier) == Accepted(accepted=1, refused=0)
