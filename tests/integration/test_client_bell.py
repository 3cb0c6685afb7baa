"""The bell rings after the host's commit: never before, never instead, never in its way."""

import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from statistics import median
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.orm import Session

from tests.services import RedisServer
from worker import clock, intake, tables
from worker.after_commit import ring_after_commit
from worker.client import Enqueue, Notifier
from worker.doorbell import KEY_PREFIX, Doorbell
from worker.endpoints import Endpoints
from worker.models import Pool
from worker.sealing import Sealer

URL = "https://pay.example.com/notify"
_BOUND_S = 0.05
_SLACK_S = 0.05  # two busy cores: waking up may take this long


class _Listening(Notifier):
    """A notifier with a bell that only counts."""

    def __init__(self) -> None:
        super().__init__(None)
        self.rung: list[Pool] = []
        bell = _Bell(self.rung)
        self._doorbell = bell


class _Bell(Doorbell):
    def __init__(self, rung: list[Pool]) -> None:
        super().__init__(None)
        self._rung = rung

    def ring(self, pool: Pool = Pool.FAST) -> bool:
        self._rung.append(pool)
        return True


@pytest.fixture
def notifier(engine: Engine) -> _Listening:
    Endpoints(engine, Sealer(b"k" * 32)).register(name="acme", merchant="m-1", url=URL, who="li")
    return _Listening()


def _enqueue(notifier: Notifier, tx: Any, key: str = "k", **more: Any) -> tuple[int, ...]:
    return notifier.enqueue(
        tx, merchant="m-1", event_type="payment.paid", event_key=key, payload=b"x", **more
    )


def test_a_session_s_commit_rings_once(engine: Engine, notifier: _Listening) -> None:
    with Session(engine) as session:
        for key in "abc":
            _enqueue(notifier, session, key)
        assert notifier.rung == []
        session.commit()
        assert notifier.rung == [Pool.FAST]
        session.commit()
    assert notifier.rung == [Pool.FAST]


def test_a_connection_s_commit_rings_once(engine: Engine, notifier: _Listening) -> None:
    with engine.connect() as connection:
        _enqueue(notifier, connection)
        assert notifier.rung == []
        connection.commit()
        assert notifier.rung == [Pool.FAST]
        _enqueue(notifier, connection, "other")
        assert notifier.rung == [Pool.FAST]
        connection.commit()
    assert notifier.rung == [Pool.FAST] * 2


def test_the_row_is_there_for_others_when_the_bell_rings(
    engine: Engine, notifier: _Listening
) -> None:
    seen: list[int] = []

    class Looking(_Bell):
        def ring(self, pool: Pool = Pool.FAST) -> bool:
            with engine.connect() as other:
                seen.append(len(other.execute(tables.delivery.select()).all()))
            return True

    notifier._doorbell = Looking([])
    with engine.begin() as connection:
        _enqueue(notifier, connection)
    assert seen == [1]


@pytest.mark.parametrize("how", ["rollback", "close", "raise"])
def test_what_is_not_committed_never_rings(engine: Engine, notifier: _Listening, how: str) -> None:
    with suppress(ZeroDivisionError), Session(engine) as session:
        _enqueue(notifier, session)
        if how == "rollback":
            session.rollback()
        elif how == "close":
            session.close()
        raise ZeroDivisionError
    # The pool hands the same connection out again.
    with Session(engine) as session, session.begin():
        session.execute(tables.lane.select())
    with engine.begin() as connection:
        connection.execute(tables.lane.select())
    assert notifier.rung == []


def test_a_savepoint_does_not_ring_before_the_outer_commit(
    engine: Engine, notifier: _Listening
) -> None:
    with Session(engine) as session, session.begin():
        with session.begin_nested():
            _enqueue(notifier, session)
        assert notifier.rung == []
    assert notifier.rung == [Pool.FAST]


def test_a_savepoint_rolled_back_does_not_silence_the_rest(
    engine: Engine, notifier: _Listening
) -> None:
    with engine.begin() as connection:
        _enqueue(notifier, connection, "kept")
        savepoint = connection.begin_nested()
        _enqueue(notifier, connection, "dropped")
        savepoint.rollback()
    assert notifier.rung == [Pool.FAST]


def test_a_session_that_joined_a_transaction_rings_with_the_real_commit(
    engine: Engine, notifier: _Listening
) -> None:
    with engine.connect() as connection, connection.begin() as outer:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            _enqueue(notifier, session)
            session.commit()
        assert notifier.rung == []
        outer.commit()
    assert notifier.rung == [Pool.FAST]


def test_two_phases_ring_after_the_second(postgres_engine: Engine) -> None:
    # The server of the tests prepares no transactions, so only the order of calls is looked at.
    said: list[str] = []

    def commit(connection: Connection, xid: object, *_: object, **__: object) -> None:
        said.append("committed")

    dialect: Any = postgres_engine.dialect
    dialect.do_commit_twophase = commit

    class Saying(_Bell):
        def ring(self, pool: Pool = Pool.FAST) -> bool:
            said.append("rung")
            return True

    with postgres_engine.connect() as connection:
        ring_after_commit(connection, Saying([]), {Pool.FAST: 0.0})
        dialect.do_commit_twophase(connection, "x")
    assert said == ["committed", "rung"]


def test_an_engine_with_options_of_its_own_rings_too(engine: Engine, notifier: _Listening) -> None:
    with engine.execution_options(compiled_cache=None).begin() as connection:
        _enqueue(notifier, connection)
    assert notifier.rung == [Pool.FAST]


def test_what_is_due_later_or_there_already_does_not_ring(
    engine: Engine, notifier: _Listening
) -> None:
    with engine.begin() as connection:
        _enqueue(notifier, connection, deliver_at="2199-01-01T00:00:00Z")
    assert notifier.rung == []
    with engine.begin() as connection:
        _enqueue(notifier, connection)
    assert notifier.rung == []


def test_a_slow_lane_rings_for_the_slow_pool(engine: Engine, notifier: _Listening) -> None:
    with engine.begin() as connection:
        connection.execute(tables.lane.update().values(slow=True))
    with engine.begin() as connection:
        _enqueue(notifier, connection)
    assert notifier.rung == [Pool.SLOW]


@pytest.mark.parametrize(
    "lane",
    [{"held": True}, {"open_until": clock.now() + timedelta(hours=1)}, {"in_flight_cap": 1}],
    ids=["held", "shut off", "full"],
)
def test_nobody_is_woken_for_a_lane_that_no_claim_would_serve(
    engine: Engine, notifier: _Listening, lane: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        _enqueue(notifier, connection, "sending")
        connection.execute(tables.delivery.update().values(state="sending"))
        _enqueue(notifier, connection, "waits")
        connection.execute(tables.lane.update().values(**lane))
    notifier.rung.clear()
    with engine.begin() as connection:
        _enqueue(notifier, connection, "more")
    assert notifier.rung == []
    with monkeypatch.context() as patched, engine.begin() as connection:
        # As if the transaction had gone on for longer than what was seen is believed.
        patched.setattr(intake, "_BELIEVED_S", 0.0)
        _enqueue(notifier, connection, "late")
    assert notifier.rung == [Pool.FAST]
    notifier.rung.clear()
    with engine.begin() as connection:
        connection.execute(
            tables.lane.update().values(held=False, in_flight_cap=2, open_until=clock.now())
        )
    with engine.begin() as connection:
        _enqueue(notifier, connection, "welcome")
    assert notifier.rung == [Pool.FAST]


def test_a_full_lane_in_which_nothing_waits_is_rung_for(
    engine: Engine, notifier: _Listening
) -> None:
    with engine.begin() as connection:
        _enqueue(notifier, connection, "sending")
        connection.execute(tables.delivery.update().values(state="sending"))
        connection.execute(tables.lane.update().values(in_flight_cap=1))
    notifier.rung.clear()
    with engine.begin() as connection:
        _enqueue(notifier, connection, "next")
    assert notifier.rung == [Pool.FAST]


def test_two_notifiers_in_one_transaction_both_ring(engine: Engine, notifier: _Listening) -> None:
    other = _Listening()
    with engine.begin() as connection:
        _enqueue(notifier, connection, "a")
        _enqueue(other, connection, "b")
    assert (notifier.rung, other.rung) == ([Pool.FAST], [Pool.FAST])


def test_a_commit_reaches_the_queue_of_a_real_redis(
    engine: Engine, notifier: _Listening, redis_server: RedisServer
) -> None:
    redis_server.flushall()
    real = Notifier(redis_server.url(), bell_timeout_s=1)
    with closing(redis_server.connect()) as client, engine.begin() as connection:
        _enqueue(real, connection)
        assert client.llen(f"{KEY_PREFIX}deliver") == 0
    with closing(redis_server.connect()) as client:
        assert client.llen(f"{KEY_PREFIX}deliver") == 1


@pytest.fixture(params=["gone", "frozen"])
def bad_redis(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[str]:
    if request.param == "gone":
        redis_server.kill()
    else:
        redis_server.pause()
    yield redis_server.url()
    if request.param == "gone":
        redis_server.start()
    else:
        redis_server.resume()


def test_a_redis_gone_or_frozen_holds_no_commit_up(
    engine: Engine, notifier: _Listening, bad_redis: str
) -> None:
    # Medians, because a disk may take its time for any one commit.
    plain_s = median(_commits_s(engine, [notifier] * 5, "plain"))
    fresh = [Notifier(bad_redis, bell_timeout_s=_BOUND_S) for _ in range(5)]
    assert median(_commits_s(engine, fresh, "first")) < plain_s + _BOUND_S + _SLACK_S
    # Now it knows: one timeout a second at most for all commits together.
    assert median(_commits_s(engine, fresh[:1] * 9, "later")) < plain_s + _SLACK_S
    with engine.connect() as connection:
        assert len(connection.execute(tables.delivery.select()).all()) == 19


def _commits_s(engine: Engine, notifiers: list[Any], name: str) -> list[float]:
    taken_s = []
    for no, notifier in enumerate(notifiers):
        with engine.connect() as connection:
            _enqueue(notifier, connection, f"{name}-{no}")
            started = time.monotonic()
            connection.commit()
            taken_s.append(time.monotonic() - started)
    return taken_s


def test_many_events_ring_once(engine: Engine, notifier: _Listening) -> None:
    events = [
        Enqueue(merchant="m-1", event_type="a", event_key=str(no), payload=b"x") for no in range(50)
    ]
    with engine.begin() as connection:
        notifier.enqueue_many(connection, events, chunk=10)
    assert notifier.rung == [Pool.FAST]


def test_a_host_s_listeners_still_hear_its_commits(engine: Engine, notifier: _Listening) -> None:
    heard: list[str] = []
    event.listen(engine, "commit", lambda _: heard.append("commit"))
    with engine.begin() as connection:
        _enqueue(notifier, connection)
    assert heard == ["commit"]


def test_engines_do_not_hear_each_other(engine: Engine, notifier: _Listening) -> None:
    other = create_engine("sqlite://")
    with engine.connect() as connection:
        _enqueue(notifier, connection)
        with other.begin() as elsewhere:
            elsewhere.exec_driver_sql("SELECT 1")
        assert notifier.rung == []
        connection.commit()
    other.dispose()
    assert notifier.rung == [Pool.FAST]
