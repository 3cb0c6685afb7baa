"""What a host does, on both databases: enqueue in its own transaction, look up, cancel."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, func, select, text, update
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from worker import columns, tables
from worker.client import Enqueue, Notifier
from worker.drafts import draft
from worker.endpoints import Endpoints
from worker.errors import (
    BadFieldError,
    EventKeyConflictError,
    NotFoundError,
    UrlRefusedError,
)
from worker.models import Allowed, EndpointState, Schedule, State
from worker.sealing import Sealer

URL = "https://pay.example.com/notify"
EVENT: dict[str, Any] = {
    "event_type": "payment.succeeded",
    "event_key": "o-1:paid",
    "payload": {"order_no": "o-1", "amount": Decimal("1.10")},
}


@pytest.fixture
def endpoints(engine: Engine) -> Endpoints:
    return Endpoints(engine, Sealer(b"k" * 32))


@pytest.fixture
def notifier(endpoints: Endpoints) -> Notifier:
    endpoints.register(name="acme", merchant="m-1", url=URL, who="li")
    return Notifier()


def _count(engine: Engine) -> int:
    with engine.connect() as connection:
        rows = connection.execute(
            select(func.count()).select_from(tables.notification)
        ).scalar_one()
        others = connection.execute(select(func.count()).select_from(tables.delivery)).scalar_one()
    assert rows == others
    return int(rows)


def test_an_event_is_written_with_every_field(engine: Engine, notifier: Notifier) -> None:
    later = datetime(2190, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    with Session(engine) as session, session.begin():
        (id_,) = notifier.enqueue(
            session,
            merchant="m-1",
            **EVENT,
            order_no="o-1",
            notify_url="https://shop.example.com/cb?o=1",
            content_type="application/vnd.pay+json",
            headers={"X-Shop": "7"},
            deliver_at=later,
            expires_at=later + timedelta(hours=1),
            priority=2,
            schedule="5,10",
            trace_id="trace-1",
        )
    with engine.connect() as connection:
        seen = notifier.get(connection, id_)
        assert notifier.get(connection, seen.message_id) == seen
        assert notifier.payload(connection, id_) == b'{"order_no":"o-1","amount":1.10}'
        row = connection.execute(select(tables.notification)).one()
        small = connection.execute(select(tables.delivery)).one()
        lane = connection.execute(
            select(tables.lane).where(tables.lane.c.id == small.lane_id)
        ).one()
    assert (seen.endpoint, seen.merchant, seen.order_no) == ("acme", "m-1", "o-1")
    assert (seen.event_type, seen.event_key) == ("payment.succeeded", "o-1:paid")
    assert (seen.state, seen.held, seen.attempts) == (State.WAITING, False, 0)
    assert (seen.due_at, seen.expires_at) == (later, later + timedelta(hours=1))
    assert (seen.trace_id, seen.payload_bytes) == ("trace-1", 32)
    assert row.content_type == "application/vnd.pay+json"
    assert row.headers == '[["X-Shop","7"]]'
    assert row.schedule == '{"delays_s":[5,10],"jitter_ratio":0.1}'
    assert (small.priority, lane.host) == (2, "https://shop.example.com:443")


@pytest.mark.parametrize("offset", [None, timedelta(hours=-1)], ids=["now", "an hour ago"])
def test_what_is_due_is_pending_at_once(
    engine: Engine, notifier: Notifier, offset: timedelta | None
) -> None:
    with engine.begin() as connection:
        now = connection.execute(select(columns.database_now())).scalar_one()
        at = None if offset is None else now + offset
        (id_,) = notifier.enqueue(connection, merchant="m-1", **EVENT, deliver_at=at)
        seen = notifier.get(connection, id_)
    assert seen.state is State.PENDING
    assert seen.due_at is not None
    assert abs(seen.due_at - now) < timedelta(seconds=5)


def test_what_rolls_back_was_never_there(engine: Engine, notifier: Notifier) -> None:
    with Session(engine) as session:
        notifier.enqueue(session, merchant="m-1", **EVENT)
        session.rollback()
    with engine.connect() as connection:
        notifier.enqueue(connection, merchant="m-1", **EVENT)
    assert _count(engine) == 0


def test_it_never_commits_by_itself(engine: Engine, notifier: Notifier) -> None:
    committed: list[object] = []
    event.listen(engine, "commit", committed.append)
    with Session(engine) as session:
        ids = notifier.enqueue(session, merchant="m-1", **EVENT)
        notifier.get(session, ids[0])
        assert committed == []


def test_the_same_event_twice_is_one_notification(engine: Engine, notifier: Notifier) -> None:
    ids = []
    for _ in range(2):
        with engine.begin() as connection:
            ids.append(notifier.enqueue(connection, merchant="m-1", **EVENT))
    with engine.begin() as connection:
        ids.append(notifier.enqueue(connection, endpoint="acme", **EVENT))
        ids.append(notifier.enqueue(connection, endpoint="acme", **EVENT))
    assert len(set(ids)) == 1
    assert _count(engine) == 1


def test_the_same_key_with_other_bytes_is_a_conflict(engine: Engine, notifier: Notifier) -> None:
    with engine.begin() as connection:
        (id_,) = notifier.enqueue(connection, merchant="m-1", **EVENT)
    with pytest.raises(EventKeyConflictError) as caught, engine.begin() as connection:
        notifier.enqueue(connection, merchant="m-1", **(EVENT | {"payload": b"other"}))
    assert (caught.value.endpoint, caught.value.notification_id) == ("acme", id_)
    with engine.connect() as connection:
        assert notifier.payload(connection, id_) == b'{"order_no":"o-1","amount":1.10}'


def test_a_conflict_on_one_endpoint_leaves_nothing_for_the_others(
    engine: Engine, endpoints: Endpoints, notifier: Notifier
) -> None:
    with engine.begin() as connection:
        notifier.enqueue(connection, merchant="m-1", **EVENT)
    endpoints.register(name="second", merchant="m-1", url=URL, who="li")
    other = EVENT | {"payload": b"other"}
    with engine.begin() as connection:
        notifier.enqueue(connection, merchant="m-1", **(EVENT | {"event_key": "kept"}))
        with pytest.raises(EventKeyConflictError):
            notifier.enqueue(connection, merchant="m-1", **other)
        with pytest.raises(EventKeyConflictError):
            notifier.enqueue_many(connection, [Enqueue(merchant="m-1", **other)])
    assert _count(engine) == 3
    with engine.begin() as connection:
        assert len(notifier.enqueue(connection, merchant="m-1", **EVENT)) == 2


def test_the_message_id_is_the_event_s_own(engine: Engine, notifier: Notifier) -> None:
    seen = []
    for _ in range(2):
        with engine.connect() as connection:
            (id_,) = notifier.enqueue(connection, merchant="m-1", **EVENT)
            seen.append(notifier.get(connection, id_).message_id)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 36
    assert seen[0].startswith("msg_")


def test_many_hosts_at_once_agree_on_one_notification(engine: Engine, notifier: Notifier) -> None:
    start = Barrier(6)

    def host(payload: bytes) -> list[tuple[int, ...] | str]:
        start.wait()
        seen: list[tuple[int, ...] | str] = []
        for no in range(10):
            try:
                with engine.begin() as connection:
                    seen.append(
                        notifier.enqueue(
                            connection,
                            merchant="m-1",
                            event_type="payment.succeeded",
                            event_key=f"k-{no}",
                            payload=payload,
                        )
                    )
            except EventKeyConflictError as error:
                seen.append(f"conflict with {error.notification_id}")
        return seen

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(host, [b"one"] * 3 + [b"two"] * 3))
    assert _count(engine) == 10
    for turn in zip(*answers, strict=True):
        winners = {answer for answer in turn if isinstance(answer, tuple)}
        assert len(winners) == 1
        ((id_,),) = winners
        assert sorted(map(str, turn)) == sorted([f"({id_},)"] * 3 + [f"conflict with {id_}"] * 3)


def test_a_merchant_s_event_reaches_every_endpoint_that_wants_it(
    engine: Engine, endpoints: Endpoints, notifier: Notifier
) -> None:
    endpoints.register(name="pays", merchant="m-1", url=URL, who="li", events=("payment.*",))
    endpoints.register(name="refunds", merchant="m-1", url=URL, who="li", events=("refund.*",))
    endpoints.register(name="old", merchant="m-1", url=URL, who="li")
    endpoints.register(name="other", merchant="m-2", url=URL, who="li")
    endpoints.delete("old", who="li", why="moved")
    endpoints.pause("pays", who="li", why="house move")
    with engine.begin() as connection:
        ids = notifier.enqueue(connection, merchant="m-1", **EVENT)
        seen = [notifier.get(connection, id_) for id_ in ids]
    assert [one.endpoint for one in seen] == ["acme", "pays"]
    assert [one.held for one in seen] == [False, True]
    assert len({one.message_id for one in seen}) == 2


def test_a_merchant_nobody_registered_is_said_so(engine: Engine, notifier: Notifier) -> None:
    with engine.begin() as connection:
        with pytest.raises(NotFoundError, match="merchant 'm-9'"):
            notifier.enqueue(connection, merchant="m-9", **EVENT)
        with pytest.raises(NotFoundError, match="endpoint 'nobody'"):
            notifier.enqueue(connection, endpoint="nobody", **EVENT)


def test_an_event_nobody_wants_is_no_notification(engine: Engine, endpoints: Endpoints) -> None:
    endpoints.register(name="pays", merchant="m-1", url=URL, who="li", events=("payment.*",))
    with engine.begin() as connection:
        more = EVENT | {"event_type": "refund.done"}
        assert Notifier().enqueue(connection, merchant="m-1", **more) == ()


def test_a_deleted_endpoint_takes_nothing_more(
    engine: Engine, endpoints: Endpoints, notifier: Notifier
) -> None:
    endpoints.delete("acme", who="li", why="contract ended")
    with engine.begin() as connection:
        with pytest.raises(NotFoundError):
            notifier.enqueue(connection, endpoint="acme", **EVENT)
        with pytest.raises(NotFoundError):
            notifier.enqueue(connection, merchant="m-1", **EVENT)


def test_a_notify_url_passes_the_guard_with_the_endpoint_s_exceptions(
    engine: Engine, endpoints: Endpoints, notifier: Notifier
) -> None:
    endpoints.register(
        name="inside",
        merchant="m-2",
        url="http://10.1.1.1/",
        who="li",
        allowed=Allowed(http=True, networks=("10.0.0.0/8",)),
    )
    url = "http://10.9.9.9/cb"
    with engine.begin() as connection:
        with pytest.raises(UrlRefusedError) as caught:
            notifier.enqueue(connection, merchant="m-1", notify_url=url, **EVENT)
        assert caught.value.field == "notify_url"
        (id_,) = notifier.enqueue(connection, merchant="m-2", notify_url=url, **EVENT)
        assert notifier.get(connection, id_).notify_url == url


def test_a_notify_url_for_several_endpoints_asks_which(
    engine: Engine, endpoints: Endpoints, notifier: Notifier
) -> None:
    endpoints.register(name="second", merchant="m-1", url=URL, who="li")
    with engine.begin() as connection, pytest.raises(BadFieldError, match="acme, second") as caught:
        notifier.enqueue(connection, merchant="m-1", notify_url=URL, **EVENT)
    assert caught.value.field == "endpoint"


def test_orders_of_one_host_share_a_lane_that_copies_the_endpoint(
    engine: Engine, endpoints: Endpoints, notifier: Notifier
) -> None:
    endpoints.update("acme", who="li", why="slow", in_flight_cap=4, rate_per_s=2)
    endpoints.pause("acme", who="li", why="audit")
    for key in "ab":
        with engine.begin() as connection:
            notifier.enqueue(
                connection,
                endpoint="acme",
                event_type="payment.succeeded",
                event_key=key,
                payload=b"x",
                notify_url=f"https://Shop.example.com/{key}",
            )
    with engine.connect() as connection:
        _, lane = connection.execute(select(tables.lane).order_by(tables.lane.c.id)).all()
    assert (lane.host, lane.held) == ("https://shop.example.com:443", True)
    assert (lane.in_flight_cap, lane.rate_per_s, lane.config_no) == (4, 2, 3)


def test_hosts_that_open_one_lane_at_once_share_it(engine: Engine, notifier: Notifier) -> None:
    start = Barrier(5)

    def host(no: int) -> tuple[int, ...]:
        start.wait()
        with engine.begin() as connection:
            return notifier.enqueue(
                connection,
                merchant="m-1",
                event_type="payment.succeeded",
                event_key=f"k-{no}",
                payload=b"x",
                notify_url=f"https://shop.example.com/{no}",
            )

    with ThreadPoolExecutor(5) as pool:
        assert len(set(pool.map(host, range(5)))) == 5
    with engine.connect() as connection:
        lanes = connection.execute(select(tables.lane.c.host)).scalars().all()
    assert sorted(lanes) == ["", "https://shop.example.com:443"]


def test_a_pause_in_the_same_moment_holds_a_lane_that_is_just_being_opened(
    postgres_engine: Engine,
) -> None:
    endpoints = Endpoints(postgres_engine, Sealer(b"k" * 32))
    made = endpoints.register(name="acme", merchant="m-1", url=URL, who="li")
    with ThreadPoolExecutor(1) as pool, postgres_engine.connect() as connection:
        url = "https://shop.example.com/"
        Notifier().enqueue(connection, merchant="m-1", notify_url=url, **EVENT)
        paused = pool.submit(endpoints.pause, "acme", who="li", why="audit")
        with postgres_engine.connect() as watcher:
            _until_blocked(watcher)
        connection.commit()
        assert paused.result(10).state is EndpointState.PAUSED
    with postgres_engine.connect() as connection:
        held = select(tables.lane.c.held).where(tables.lane.c.endpoint_id == made.id)
        assert connection.execute(held).scalars().all() == [True, True]


def _until_blocked(watcher: Any) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=10)
    blocked = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    while not watcher.execute(blocked).scalar_one():
        assert datetime.now(UTC) < deadline
        watcher.rollback()


_LONG = "x" * 201
_NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001 - that is the point
_AWARE = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("merchant", {"merchant": None}),
        ("merchant", {"endpoint": "acme"}),
        ("merchant", {"merchant": "m 1"}),
        ("event_type", {"event_type": ""}),
        ("event_type", {"event_type": "payment.*"}),
        ("event_key", {"event_key": _LONG}),
        ("event_key", {"event_key": "a\nb"}),
        ("event_key", {"event_key": 7}),
        ("order_no", {"order_no": "单"}),
        ("trace_id", {"trace_id": ""}),
        ("payload.amount", {"payload": {"amount": 1.1}}),
        ("payload", {"payload": b"x" * 262_145}),
        ("notify_url", {"notify_url": 7}),
        ("notify_url", {"notify_url": "https://127.0.0.1/"}),
        ("content_type", {"content_type": "text/plain\r\nX: 1"}),
        ("headers", {"headers": {"Host": "x"}}),
        ("headers", {"headers": {"X-A": "a\r\nb"}}),
        ("headers", {"headers": [("X-A", "b")]}),
        ("deliver_at", {"deliver_at": _NAIVE}),
        ("deliver_at", {"deliver_at": "tomorrow"}),
        ("deliver_at", {"deliver_at": "2030-01-01T00:00:00"}),
        ("deliver_at", {"deliver_at": datetime.max.replace(tzinfo=UTC)}),
        ("expires_at", {"expires_at": _AWARE, "deliver_at": _AWARE}),
        ("priority", {"priority": 10}),
        ("priority", {"priority": True}),
        ("schedule", {"schedule": Schedule(delays_s=(0,))}),
        ("schedule", {"schedule": (60, 300)}),
    ],
)
def test_a_field_that_is_wrong_is_named(
    sqlite_engine: Engine, field: str, given: dict[str, Any]
) -> None:
    endpoints = Endpoints(sqlite_engine, Sealer(b"k" * 32))
    endpoints.register(name="acme", merchant="m-1", url=URL, who="li")
    with sqlite_engine.begin() as connection, pytest.raises(BadFieldError) as caught:
        Notifier().enqueue(connection, **({"merchant": "m-1"} | EVENT | given))
    assert caught.value.field == field
    assert _count(sqlite_engine) == 0


def test_what_is_no_transaction_is_refused() -> None:
    notifier = Notifier()
    with pytest.raises(BadFieldError, match="Session or Connection"):
        notifier.enqueue(create_engine("sqlite://"), merchant="m-1", **EVENT)  # type: ignore[arg-type]


def test_a_scoped_session_is_a_session(engine: Engine, notifier: Notifier) -> None:
    registry = scoped_session(sessionmaker(engine))
    notifier.enqueue(registry, merchant="m-1", **EVENT)
    registry.commit()
    registry.remove()
    assert _count(engine) == 1


def test_ten_thousand_events_take_a_dozen_round_trips(engine: Engine, notifier: Notifier) -> None:
    events = [
        Enqueue(
            merchant="m-1", event_type="payment.succeeded", event_key=f"k-{no}", payload={"no": no}
        )
        for no in range(10_000)
    ]
    asked: list[object] = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    with engine.begin() as connection:
        ids = notifier.enqueue_many(connection, iter(events))
        if engine.dialect.name == "postgresql":
            assert len(asked) == 11  # one for the endpoints, one per thousand events
        assert len({id_ for (id_,) in ids}) == 10_000
        assert notifier.payload(connection, ids[7777][0]) == b'{"no":7777}'
    assert _count(engine) == 10_000
    with engine.begin() as connection:
        assert notifier.enqueue_many(connection, events[:2000]) == ids[:2000]


def test_equal_events_in_one_call_are_one_notification(engine: Engine, notifier: Notifier) -> None:
    one = Enqueue(merchant="m-1", **EVENT)
    with engine.begin() as connection:
        first, second = notifier.enqueue_many(connection, [one, one])
    assert first == second
    clash = Enqueue(merchant="m-1", event_type="a", event_key="k", payload=b"1")
    other = Enqueue(merchant="m-1", event_type="a", event_key="k", payload=b"2")
    with engine.begin() as connection, pytest.raises(EventKeyConflictError):
        notifier.enqueue_many(connection, [clash, other])


def test_a_bulk_finds_endpoints_once(engine: Engine, endpoints: Endpoints) -> None:
    names = [f"e{no}" for no in range(50)]
    for name in names:
        endpoints.register(name=name, merchant=f"m-{name}", url=URL, who="li")
    events = [
        Enqueue(endpoint=name, event_type="a", event_key=f"{turn}", payload=b"x")
        for turn in range(4)
        for name in names
    ]
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    with engine.begin() as connection:
        Notifier().enqueue_many(connection, events, chunk=50)
    assert sum("paynotify_endpoint" in statement for statement in asked) == 1


@pytest.mark.parametrize(
    "field", ["priority", "event_type", "event_key", "order_no", "content_type", "headers"]
)
def test_a_number_nobody_can_print_is_refused_by_its_field(field: str) -> None:
    huge: Any = 10**5000
    given: dict[str, Any] = {field: {huge: "x"} if field == "headers" else huge}
    with pytest.raises(BadFieldError) as caught:
        draft(Enqueue(**({"merchant": "m-1"} | EVENT | given)))
    assert caught.value.field == field


def test_cancelling_is_final_and_only_for_what_is_not_on_the_wire(
    engine: Engine, notifier: Notifier
) -> None:
    with engine.begin() as connection:
        (id_,) = notifier.enqueue(connection, merchant="m-1", **EVENT)
        assert notifier.cancel(connection, id_) is True
        assert notifier.cancel(connection, id_) is False
        seen = notifier.get(connection, id_)
        assert (seen.state, seen.due_at) == (State.CANCELLED, None)
        assert seen.finished_at is not None
        with pytest.raises(NotFoundError):
            notifier.cancel(connection, 999)


@pytest.mark.parametrize("state", [State.SENDING, State.DELIVERED, State.DEAD])
def test_what_is_past_cancelling_stays_as_it_is(
    engine: Engine, notifier: Notifier, state: State
) -> None:
    with engine.begin() as connection:
        (id_,) = notifier.enqueue(connection, merchant="m-1", **EVENT)
        connection.execute(update(tables.delivery).values(state=state))
        assert notifier.cancel(connection, id_) is False
        assert notifier.get(connection, id_).state is state


def test_an_order_lists_its_notifications(engine: Engine, notifier: Notifier) -> None:
    with engine.begin() as connection:
        for key in ("paid", "shipped"):
            notifier.enqueue(
                connection, merchant="m-1", order_no="o-1", **EVENT | {"event_key": key}
            )
        found = notifier.list_by_order(connection, "o-1")
        assert [one.event_key for one in found] == ["paid", "shipped"]
        assert notifier.list_by_order(connection, "o-2") == []


def test_attempts_are_listed_in_order(engine: Engine, notifier: Notifier) -> None:
    with engine.begin() as connection:
        (id_,) = notifier.enqueue(connection, merchant="m-1", **EVENT)
        now = connection.execute(select(columns.database_now())).scalar_one()
        for no in (2, 1):
            connection.execute(
                tables.attempt.insert().values(
                    notification_id=id_, attempt_no=no, claim_no=no, started_at=now
                )
            )
        assert [one.attempt_no for one in notifier.attempts(connection, id_)] == [1, 2]
        assert notifier.attempts(connection, id_)[0].outcome is None


def test_unknown_notifications_are_not_found(engine: Engine, notifier: Notifier) -> None:
    with engine.connect() as connection:
        for look in (notifier.get, notifier.payload):
            with pytest.raises(NotFoundError):
                look(connection, 999)
        with pytest.raises(NotFoundError):
            notifier.get(connection, "msg_0")


def test_json_of_ours_is_never_announced_as_something_else(
    engine: Engine, endpoints: Endpoints, notifier: Notifier
) -> None:
    endpoints.register(name="plain", merchant="m-2", url=URL, who="li", content_type="text/plain")
    column = tables.notification.c.content_type
    with engine.begin() as connection:
        for name in ("acme", "plain"):
            for key, payload in (("dict", {}), ("text", "hello")):
                more = EVENT | {"event_key": key, "payload": payload}
                notifier.enqueue(connection, endpoint=name, **more)
        kept = connection.execute(select(column).order_by(tables.notification.c.id)).scalars().all()
    assert kept == [None, None, "application/json", None]


def test_a_host_loads_no_worker_and_no_heavy_library() -> None:
    code = (
        "import sys, worker.client; worker.client.Notifier('redis://127.0.0.1:1/0');"
        "bad = {'celery', 'kombu', 'pydantic', 'pydantic_settings', 'pycurl',"
        " 'cryptography.hazmat.primitives.ciphers.aead', 'cryptography.x509',"
        " 'worker.settings', 'worker.store', 'worker.transport', 'worker.sealing',"
        " 'worker.endpoints'};"
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_host_s_own_plain_engine_will_do(tmp_path: Any) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'host.db'}")
    columns.metadata.create_all(engine)
    Endpoints(engine, Sealer(b"k" * 32)).register(name="a", merchant="m-1", url=URL, who="li")
    with Session(engine) as session, session.begin():
        Notifier().enqueue(session, merchant="m-1", **EVENT)
    assert _count(engine) == 1
    engine.dispose()
