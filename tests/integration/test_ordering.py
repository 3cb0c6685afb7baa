"""Order within one key: who waits for whom, who goes next, what takes whose place."""

from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import Engine, select, text, update
from sqlalchemy.exc import DBAPIError

from schedules import retention_parts
from tests import crowd, plans
from tests.office import until
from tests.seeding import (
    DEAD,
    HOLD,
    RETRY,
    add_lane,
    age,
    change_lane,
    letters_of,
    row_of,
    settle,
    store_on,
    verdict_on,
)
from tests.services import PostgresServer
from worker import inbox, ordering, tables, timeline
from worker.client import Enqueue, Notifier
from worker.errors import BadFieldError
from worker.models import Claimed, Pool
from worker.retry import DELIVERED
from worker.store import Store

KEY = "A1"
NOTIFIER = Notifier()


@pytest.fixture
def store(engine: Engine) -> Store:
    add_lane(engine)
    return store_on(engine)


def event(number: int, **fields: Any) -> Enqueue:
    given: dict[str, Any] = {"endpoint": "acme", "ordering_key": KEY, "ordering_wait_s": 600}
    return Enqueue(
        event_type="order.moved", event_key=f"e{number}", payload={"n": number}, **given | fields
    )


def put(engine: Engine, *events: Enqueue) -> list[int]:
    with engine.begin() as tx:
        return [id_ for ids in NOTIFIER.enqueue_many(tx, events) for id_ in ids]


def claim(store: Store) -> list[Claimed]:
    return list(store.claim(Pool.FAST, limit=100, worker="w").rows)


def states(engine: Engine, ids: list[int]) -> list[str]:
    return [row_of(engine, id_).state for id_ in ids]


def test_events_of_a_key_go_one_after_the_other_in_the_order_they_were_given(
    engine: Engine, store: Store
) -> None:
    # Event keys that sort the other way round.
    ids = put(engine, *(event(number) for number in (9, 8, 7)))
    assert ids == sorted(ids)
    assert states(engine, ids) == ["pending", "blocked", "blocked"]
    for id_ in ids:
        [row] = claim(store)
        assert row.id == id_
        assert claim(store) == []
        settle(store, [row])
    assert states(engine, ids) == ["delivered"] * 3


def test_keys_and_what_has_none_do_not_wait_for_each_other(engine: Engine, store: Store) -> None:
    ids = put(
        engine,
        event(1),
        event(2, ordering_key="A2"),
        event(3, ordering_key=None, ordering_wait_s=None),
        event(4),
    )
    assert {row.id for row in claim(store)} == set(ids[:3])


def test_endpoints_keep_lines_of_their_own(engine: Engine, store: Store) -> None:
    add_lane(engine, "globex")
    ids = put(engine, event(1), event(1, endpoint="globex"))
    assert states(engine, ids) == ["pending", "pending"]


def test_settle_says_how_many_it_let_go(engine: Engine, store: Store) -> None:
    put(engine, event(1), event(2), event(3, ordering_key="A2"))
    rows = claim(store)
    assert store.settle([verdict_on(row) for row in rows]).promoted == 1


@pytest.mark.parametrize("verdict", [RETRY, HOLD])
def test_one_that_is_tried_again_still_holds_up_the_next(
    engine: Engine, store: Store, verdict: Any
) -> None:
    ids = put(engine, event(1), event(2))
    settle(store, claim(store), verdict)
    store.look(limit=10)
    assert row_of(engine, ids[1]).state == "blocked"


def test_a_dead_one_lets_the_next_go(engine: Engine, store: Store) -> None:
    ids = put(engine, event(1), event(2))
    settle(store, claim(store), DEAD)
    assert states(engine, ids) == ["dead", "pending"]


def test_a_cancelled_one_lets_the_next_go(engine: Engine, store: Store) -> None:
    ids = put(engine, event(1), event(2), event(3))
    with engine.begin() as tx:
        assert NOTIFIER.cancel(tx, ids[1])
        assert NOTIFIER.cancel(tx, ids[0])
    assert states(engine, ids) == ["cancelled", "cancelled", "pending"]


def test_one_lost_with_its_worker_too_often_lets_the_next_go(engine: Engine, store: Store) -> None:
    # What is lost twice is sent alone, and its turn would be over.
    ids = put(engine, event(1), event(2, ordering_wait_s=10_000))
    for _ in range(10):
        rows = claim(store) or list(store.claim_suspect(worker="w").rows)
        assert [row.id for row in rows] == ids[:1]
        assert row_of(engine, ids[1]).state == "blocked"
        age(engine, 100)
        store.release(limit=10)
    assert states(engine, ids) == ["dead", "pending"]


def test_the_next_keeps_its_own_time(engine: Engine, store: Store) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    ids = put(engine, event(1), event(2, deliver_at=later))
    settle(store, claim(store))
    assert row_of(engine, ids[1]).state == "waiting"
    assert abs(row_of(engine, ids[1]).due_at - later) < timedelta(seconds=1)


def test_an_expired_one_goes_its_way_and_lets_the_next_go(engine: Engine, store: Store) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    ids = put(engine, event(1, expires_at=soon), event(2))
    settle(store, claim(store), RETRY)
    expire(engine, ids[0])
    store.look(limit=10)
    assert states(engine, ids) == ["waiting", "pending"]


def expire(engine: Engine, id_: int) -> None:
    table = tables.notification
    past = datetime.now(UTC) - timedelta(seconds=1)
    with engine.begin() as tx:
        tx.execute(update(table).where(table.c.id == id_).values(expires_at=past))


def test_a_turn_that_lasts_too_long_is_over_for_the_next_but_not_for_those_behind_it(
    engine: Engine, store: Store
) -> None:
    ids = put(engine, event(1), event(2), event(3))
    settle(store, claim(store), RETRY)
    turn(engine, ids[0], ago_s=599)
    store.look(limit=10)
    assert states(engine, ids) == ["waiting", "blocked", "blocked"]
    turn(engine, ids[0], ago_s=601)
    again(engine, store)
    assert states(engine, ids) == ["waiting", "pending", "blocked"]
    # The third waits for the second alone now.
    settle(store, claim(store))
    assert states(engine, ids) == ["waiting", "delivered", "pending"]


def turn(engine: Engine, id_: int, *, ago_s: float) -> None:
    table = tables.delivery
    at = store_on(engine).now() - timedelta(seconds=ago_s)
    with engine.begin() as tx:
        tx.execute(
            update(table)
            .where(table.c.id == id_)
            .values(turn_at=at, due_at=at + timedelta(hours=10))
        )


def again(engine: Engine, store: Store) -> int:
    """Look at every blocked row now."""
    table, now = tables.delivery, store.now()
    with engine.begin() as tx:
        tx.execute(update(table).where(text("state = 'blocked'")).values(due_at=now))
    return store.look(limit=100)


@pytest.mark.parametrize(
    "lane", [{"held": True}, {"open_until": datetime.now(UTC) + timedelta(hours=1)}]
)
def test_nothing_goes_ahead_while_nobody_could_be_sent(
    engine: Engine, store: Store, lane: dict[str, Any]
) -> None:
    ids = put(engine, event(1), event(2))
    settle(store, claim(store), RETRY)
    turn(engine, ids[0], ago_s=1000)
    change_lane(engine, 1, **lane)
    store.look(limit=10)
    assert states(engine, ids) == ["waiting", "blocked"]
    change_lane(engine, 1, held=False, open_until=None)
    assert again(engine, store) == 1


@pytest.mark.parametrize("state", ["pending", "sending"])
def test_one_that_is_about_to_be_sent_is_waited_for_however_old_it_is(
    engine: Engine, store: Store, state: str
) -> None:
    ids = put(engine, event(1), event(2))
    if state == "sending":
        claim(store)
    turn(engine, ids[0], ago_s=1000)
    store.look(limit=10)
    assert states(engine, ids) == [state, "blocked"]


def test_a_look_finds_what_a_settle_could_not_see(engine: Engine, store: Store) -> None:
    ids, now = put(engine, event(1), event(2)), store.now()
    with engine.begin() as tx:
        # As if the second had been committed after the first was settled.
        tx.execute(
            update(tables.delivery)
            .where(tables.delivery.c.id == ids[0])
            .values(state="delivered", finished_at=now)
        )
    assert store.look(limit=10) == 1
    assert states(engine, ids) == ["delivered", "pending"]


def test_looks_at_one_row_come_further_and_further_apart(engine: Engine, store: Store) -> None:
    ids = put(engine, event(1), event(2))
    gaps = []
    for waited in (0, 80, 400, 100_000):
        created = store.now() - timedelta(seconds=waited)
        table = tables.notification
        with engine.begin() as tx:
            tx.execute(update(table).where(table.c.id == ids[1]).values(created_at=created))
        again(engine, store)
        gaps.append(round((row_of(engine, ids[1]).due_at - store.now()).total_seconds()))
    assert gaps == [1, 10, 50, 75]


def test_supersede_cancels_what_is_older_and_names_what_took_its_place(
    engine: Engine, store: Store
) -> None:
    ids = put(engine, event(1), event(2), event(3, ordering_key="A2"))
    [newest] = put(engine, event(4, supersede=True))
    assert states(engine, [*ids, newest]) == ["cancelled", "cancelled", "pending", "pending"]
    with engine.connect() as connection:
        assert NOTIFIER.get(connection, ids[0]).superseded_by == newest
    assert timeline.of(engine, ids[1]).standing == f"cancelled; superseded by {newest}"
    assert [row.id for row in claim(store)] == [ids[2], newest]


def test_supersede_within_one_call_leaves_the_last(engine: Engine, store: Store) -> None:
    ids = put(engine, *(event(number, supersede=True) for number in range(3)))
    assert states(engine, ids) == ["cancelled", "cancelled", "pending"]
    assert [row_of(engine, id_).superseded_by for id_ in ids] == [ids[2], ids[2], None]


@pytest.mark.parametrize(
    ("verdict", "ends"), [(RETRY, "cancelled"), (HOLD, "cancelled"), (DELIVERED, "delivered")]
)
def test_what_is_on_the_wire_is_waited_for_and_has_no_retry(
    engine: Engine, store: Store, verdict: Any, ends: str
) -> None:
    [old] = put(engine, event(1))
    rows = claim(store)
    [new] = put(engine, event(2, supersede=True))
    assert states(engine, [old, new]) == ["sending", "blocked"]
    assert "not tried again" in timeline.of(engine, old).standing
    assert timeline.of(engine, new).waits_for == old
    settle(store, rows, verdict)
    assert states(engine, [old, new]) == [ends, "pending"]


def test_what_was_on_the_wire_of_a_killed_worker_has_no_retry(engine: Engine, store: Store) -> None:
    [old] = put(engine, event(1))
    claim(store)
    [new] = put(engine, event(2, supersede=True))
    age(engine, 100)
    assert store.release(limit=10).again == 1
    assert states(engine, [old, new]) == ["cancelled", "pending"]


def test_enqueueing_a_superseding_event_again_drops_nothing(engine: Engine, store: Store) -> None:
    put(engine, event(1, supersede=True))
    [later] = put(engine, event(2))
    put(engine, event(1, supersede=True))
    settle(store, claim(store))
    assert row_of(engine, later).state == "pending"


def test_a_rolled_back_superseding_event_drops_nothing(engine: Engine, store: Store) -> None:
    [old] = put(engine, event(1))
    with engine.connect() as host:
        NOTIFIER.enqueue_many(host, [event(2, supersede=True)])
        host.rollback()
    assert row_of(engine, old).state == "pending"


def test_redriven_ones_line_up_again(engine: Engine, store: Store) -> None:
    ids = put(engine, event(1), event(2))
    for _ in ids:
        settle(store, claim(store), DEAD)
    letters = [letters_of(engine, id_)[0].id for id_ in reversed(ids)]
    assert store.redrive(letters, who="kim", why="back", over_s=0) == sorted(letters)
    assert states(engine, ids) == ["blocked", "blocked"]
    store.look(limit=10)
    for id_ in ids:
        rows = claim(store)
        assert [row.id for row in rows] == [id_]
        settle(store, rows)


@pytest.mark.parametrize("verdict", [None, RETRY, DELIVERED])
def test_a_dead_one_that_was_overtaken_is_only_redriven_out_of_order(
    engine: Engine, store: Store, verdict: Any
) -> None:
    old, new = put(engine, event(1), event(2))
    settle(store, claim(store), DEAD)
    if verdict is not None:
        settle(store, claim(store), verdict)
    letter = letters_of(engine, old)[0].id
    assert timeline.of(engine, old).overtaken_by == new
    assert store.redrive([letter], who="kim", why="back", over_s=0) == []
    assert store.redrive([letter], who="kim", why="b", over_s=0, out_of_order=True) == [letter]
    assert row_of(engine, old).state == "pending"


def test_a_dead_one_that_was_superseded_is_overtaken(engine: Engine, store: Store) -> None:
    [old] = put(engine, event(1))
    settle(store, claim(store), DEAD)
    [new] = put(engine, event(2, supersede=True))
    letter = letters_of(engine, old)[0].id
    settle(store, claim(store), DEAD)
    with engine.connect() as connection:
        assert ordering.overtaken(connection, [old, new]) == {old: new}
    assert store.redrive([letter], who="kim", why="b", over_s=0, out_of_order=True) == [letter]
    settle(store, claim(store))
    assert row_of(engine, old).state == "delivered"


def test_rows_of_the_inbox_keep_their_order(engine: Engine, store: Store) -> None:
    insert_inbox(engine, "b", "a")
    insert_inbox(engine, "c", supersede=True)
    assert inbox.accept(engine, NOTIFIER).accepted == 3
    with engine.connect() as connection:
        rows = connection.execute(
            select(tables.notification.c.event_key, tables.delivery.c.state)
            .join(tables.delivery, tables.delivery.c.id == tables.notification.c.id)
            .order_by(tables.notification.c.id)
        ).all()
    assert [tuple(row) for row in rows] == [
        ("b", "cancelled"),
        ("a", "cancelled"),
        ("c", "pending"),
    ]


def insert_inbox(engine: Engine, *keys: str, **fields: Any) -> None:
    with engine.begin() as tx:
        for key in keys:
            tx.execute(
                tables.inbox.insert().values(
                    endpoint="acme",
                    event_type="order.moved",
                    event_key=key,
                    payload="{}",
                    ordering_key=KEY,
                    **fields,
                )
            )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ordering_key": ""}, "ordering_key"),
        ({"ordering_key": "a b"}, "ordering_key"),
        ({"ordering_key": None, "ordering_wait_s": 5}, "needs an ordering_key"),
        ({"ordering_key": None, "ordering_wait_s": None, "supersede": True}, "supersede"),
        ({"supersede": 1}, "supersede"),
        ({"ordering_wait_s": 0}, "1 to 604800"),
        ({"ordering_wait_s": True}, "1 to 604800"),
    ],
)
def test_a_wrong_field_is_named(sqlite_engine: Engine, fields: Any, message: str) -> None:
    add_lane(sqlite_engine)
    with pytest.raises(BadFieldError, match=message):
        put(sqlite_engine, event(1, **fields))


def test_an_earlier_id_that_commits_later_is_not_overtaken(postgres_engine: Engine) -> None:
    add_lane(postgres_engine)
    second: list[int] = []
    with postgres_engine.connect() as slow:
        [[first]] = NOTIFIER.enqueue_many(slow, [event(1)])
        other = Thread(target=lambda: second.extend(put(postgres_engine, event(2))))
        other.start()
        until(lambda: _waiting(postgres_engine))
        assert not second
        slow.commit()
        other.join(10)
    assert second > [first]
    assert states(postgres_engine, [first, *second]) == ["pending", "blocked"]


def test_a_transaction_with_an_older_snapshot_fails_instead_of_overtaking(
    postgres_engine: Engine,
) -> None:
    add_lane(postgres_engine)
    with postgres_engine.connect().execution_options(isolation_level="REPEATABLE READ") as old:
        old.execute(select(tables.lane.c.id)).all()
        put(postgres_engine, event(1))
        with pytest.raises(DBAPIError, match="could not serialize"):
            NOTIFIER.enqueue_many(old, [event(2)])


def test_a_settle_does_not_wait_for_a_host_that_supersedes(postgres_engine: Engine) -> None:
    add_lane(postgres_engine)
    store = store_on(postgres_engine)
    ids = put(postgres_engine, event(1), event(2), event(3))
    rows = claim(store)
    with postgres_engine.begin() as host:
        [[newest]] = NOTIFIER.enqueue_many(host, [event(4, supersede=True)])
        settle(store, rows, RETRY)
        assert states(postgres_engine, ids) == ["waiting", "blocked", "blocked"]
    # The host committed after the settle: a look puts it right.
    store.look(limit=10)
    assert states(postgres_engine, [*ids, newest]) == ["cancelled"] * 3 + ["pending"]


def test_two_processes_that_empty_the_inbox_keep_the_order(postgres_engine: Engine) -> None:
    add_lane(postgres_engine)
    insert_inbox(postgres_engine, "first", "second")
    with postgres_engine.begin() as other:
        other.execute(select(tables.inbox.c.id).order_by("id").limit(1).with_for_update())
        assert inbox.accept(postgres_engine, NOTIFIER).accepted == 0
    assert inbox.accept(postgres_engine, NOTIFIER).accepted == 2


def _waiting(engine: Engine) -> bool:
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        )
        return bool(found.scalar())


def test_lines_nobody_stands_in_are_removed_and_made_again(engine: Engine, store: Store) -> None:
    put(engine, event(1, supersede=True), event(2, ordering_key="A2", supersede=True))
    settle(store, [row for row in claim(store) if row.ordering_key == KEY])
    later = store.now() + timedelta(days=1)
    with engine.begin() as tx:
        batch = retention_parts.lines(tx, after="", before=later, limit=10)
        assert batch == retention_parts.Batch(removed=1)
        assert tx.scalars(select(tables.ordering.c.ordering)).all() == ["1:A2"]
    ids = put(engine, event(3), event(4))
    assert states(engine, ids) == ["pending", "blocked"]


def test_nothing_about_lines_reads_a_table_whole(
    postgres: PostgresServer, migrated_template: str
) -> None:
    name = postgres.create_database(migrated_template)
    with plans.watched(postgres.dsn(name)) as (engine, seen):
        crowd.fill(engine, finished=6000, due=200)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as tx:
            for statement in _ALL_IN_LINE.split(";")[:-1]:
                tx.exec_driver_sql(statement)
        seen.take()
        store = store_on(engine)
        shop = {"endpoint": "shop-7", "ordering_key": "k7"}
        put(engine, event(1, **shop), event(2, **shop))
        put(engine, event(3, **shop, supersede=True), event(4, **shop))
        rows = store.claim(Pool.FAST, limit=400, worker="w").rows
        assert settle(store, rows, RETRY) == ()
        again(engine, store)
        store.release(limit=100)
        with engine.connect() as connection:
            assert ordering.overtaken(connection, [rows[0].id]) is not None
        ran = seen.take()
    postgres.forget_database(name)
    assert any("superseded_below" in plan.statement for plan in ran)
    read_whole = {table for plan in ran for table in plan.read_whole}
    assert not {table for table in read_whole if table.startswith("paynotify_")} - {
        *("paynotify_lane", "paynotify_endpoint")
    }


_ALL_IN_LINE = """
UPDATE paynotify_notification SET ordering_key = 'k' || mod(id, 50), ordering_wait_s = 600;
UPDATE paynotify_delivery d SET ordering = n.endpoint_id || ':' || n.ordering_key
  FROM paynotify_notification n WHERE n.id = d.id;
INSERT INTO paynotify_ordering (ordering) SELECT DISTINCT ordering FROM paynotify_delivery;
VACUUM ANALYZE;
"""
