"""The store's promises, the same for both databases."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from tests.seeding import (
    DEAD,
    HOLD,
    RETRY,
    add_due,
    add_lane,
    age,
    attempts_of,
    change_lane,
    letters_of,
    row_of,
    settle,
    store_on,
    superseded,
    verdict_on,
)
from worker.models import Decision, Outcome, Pool, Verdict
from worker.seen import Tally
from worker.store import LOST_MAX, Released, Store


def test_a_claim_leases_the_row_and_opens_its_attempt(engine: Engine) -> None:
    store = store_on(engine)
    lane = add_lane(engine)
    [row_id] = add_due(engine, lane, order_no="A1", headers='[["x-a","1"]]')
    claim = store.claim(Pool.FAST, limit=10, worker="w1")
    [row] = claim.rows
    assert (row.id, row.attempt_no, row.tries, row.claim_no) == (row_id, 1, 1, 1)
    assert (row.payload, row.order_no, row.headers) == (b'{"amount":1}', "A1", (("x-a", "1"),))
    assert row.expires_in_s is None
    assert not row.troubled
    stored = row_of(engine, row_id)
    assert stored.state == "sending"
    assert 50 < (stored.lease_until - store.now()).total_seconds() <= 60
    [attempt] = attempts_of(engine, row_id)
    assert (attempt.attempt_no, attempt.outcome, attempt.worker) == (1, None, "w1")
    assert store.claim(Pool.FAST, limit=10, worker="w2").rows == ()


def test_rows_not_due_yet_are_staged_when_their_time_comes(engine: Engine) -> None:
    store = store_on(engine)
    lane = add_lane(engine)
    [row_id] = add_due(engine, lane, state="waiting", due_in_s=30)
    assert store.stage(limit=10) == 0
    assert store.due_pools() == frozenset()
    age(engine, 31)
    assert store.stage(limit=10) == 1
    assert row_of(engine, row_id).state == "pending"
    assert store.due_pools() == {Pool.FAST}


def test_an_acked_row_is_delivered_and_its_attempt_closed(engine: Engine) -> None:
    store = store_on(engine)
    [row_id] = add_due(engine, add_lane(engine))
    claim = store.claim(Pool.FAST, limit=1, worker="w")
    assert settle(store, claim.rows) == ()
    stored = row_of(engine, row_id)
    assert (stored.state, stored.lease_until) == ("delivered", None)
    assert stored.finished_at is not None
    [attempt] = attempts_of(engine, row_id)
    assert (attempt.outcome, attempt.status, attempt.evidence) == ("acked", 200, "success")
    assert attempt.finished_at >= attempt.started_at


def test_a_retry_waits_for_its_delay_and_counts_its_try(engine: Engine) -> None:
    store = store_on(engine)
    [row_id] = add_due(engine, add_lane(engine))
    settle(store, store.claim(Pool.FAST, limit=1, worker="w").rows, RETRY)
    stored = row_of(engine, row_id)
    assert (stored.state, stored.tries, stored.attempt_no) == ("waiting", 1, 1)
    assert 58 < (stored.due_at - store.now()).total_seconds() <= 60
    age(engine, 61)
    assert store.stage(limit=10) == 1
    [again] = store.claim(Pool.FAST, limit=1, worker="w").rows
    assert (again.attempt_no, again.tries, again.claim_no) == (2, 2, 2)


def test_a_dead_row_gets_one_letter_with_its_history(engine: Engine) -> None:
    store = store_on(engine)
    [row_id] = add_due(engine, add_lane(engine))
    settle(store, store.claim(Pool.FAST, limit=1, worker="w").rows, DEAD)
    assert row_of(engine, row_id).state == "dead"
    [letter] = letters_of(engine, row_id)
    assert (letter.reason, letter.attempts, letter.last_status) == ("exhausted", 1, 200)
    assert letter.last_reply == "success"
    assert letter.first_failed_at <= letter.last_failed_at
    assert letter.resolution is None


def test_a_hold_gives_the_try_back(engine: Engine) -> None:
    store = store_on(engine)
    [row_id] = add_due(engine, add_lane(engine))
    settle(store, store.claim(Pool.FAST, limit=1, worker="w").rows, HOLD)
    stored = row_of(engine, row_id)
    assert (stored.state, stored.tries, stored.attempt_no) == ("pending", 0, 1)


def test_a_verdict_under_an_old_claim_number_changes_nothing(engine: Engine) -> None:
    store = store_on(engine)
    [row_id] = add_due(engine, add_lane(engine))
    [first] = store.claim(Pool.FAST, limit=1, worker="frozen").rows
    age(engine, 61)
    assert store.release(limit=10).again == 1
    [second] = store.claim(Pool.FAST, limit=1, worker="next").rows
    assert second.claim_no == first.claim_no + 1
    assert settle(store, [first]) == (row_id,)
    assert row_of(engine, row_id).state == "sending"
    assert [a.outcome for a in attempts_of(engine, row_id)] == ["abandoned", None]
    assert settle(store, [second], RETRY) == ()
    assert settle(store, [superseded(second)]) == (row_id,)
    assert row_of(engine, row_id).state == "waiting"


def test_settling_twice_says_written_twice_and_writes_once(engine: Engine) -> None:
    store = store_on(engine)
    [row_id] = add_due(engine, add_lane(engine))
    claim = store.claim(Pool.FAST, limit=1, worker="w")
    assert settle(store, claim.rows, DEAD) == ()
    assert settle(store, claim.rows, DEAD) == ()
    assert len(letters_of(engine, row_id)) == 1


def test_a_lease_that_ran_out_is_released_with_its_attempt_abandoned(engine: Engine) -> None:
    store = store_on(engine)
    [row_id] = add_due(engine, add_lane(engine))
    store.claim(Pool.FAST, limit=1, worker="w")
    assert store.release(limit=10) == store.release(limit=10)
    age(engine, 61)
    released = store.release(limit=10)
    assert (released.again, released.poisoned) == (1, 0)
    stored = row_of(engine, row_id)
    assert (stored.state, stored.abandoned, stored.tries) == ("pending", 1, 1)
    [attempt] = attempts_of(engine, row_id)
    assert attempt.outcome == "abandoned"


def _lose_twice(store: Store, engine: Engine) -> int:
    [row_id] = add_due(engine, add_lane(engine))
    for _ in range(2):
        assert not store.suspects()
        store.claim(Pool.FAST, limit=10, worker="w")
        age(engine, 61)
        store.release(limit=10)
    return row_id


def test_a_row_lost_twice_in_a_row_travels_alone_and_is_poison_when_that_ends_its_process(
    engine: Engine,
) -> None:
    store = store_on(engine)
    poison = _lose_twice(store, engine)
    # No longer claimed in company.
    assert store.claim(Pool.FAST, limit=10, worker="w").rows == ()
    assert store.suspects()
    [row] = store.claim_suspect(worker="alone").rows
    assert row.id == poison
    assert not store.suspects()
    assert store.claim_suspect(worker="w").rows == ()
    assert store.condemn(worker="another", why="killed") == Released()
    assert store.condemn(worker="alone", why="killed") == Released(poisoned=1)
    assert store.condemn(worker="alone", why="killed") == Released()
    [letter] = letters_of(engine, poison)
    assert (letter.reason, letter.attempts) == ("poison", 3)
    assert letter.last_error == "lost 3 times in a row: killed"
    assert [a.outcome for a in attempts_of(engine, poison)] == ["abandoned"] * 3
    assert store.claim_suspect(worker="w").rows == ()


def test_what_nobody_can_be_blamed_for_is_sent_again_until_a_person_has_to_look(
    engine: Engine,
) -> None:
    store = store_on(engine)
    row_id = _lose_twice(store, engine)
    for lost in range(3, LOST_MAX):
        assert store.claim_suspect(worker="alone").rows
        age(engine, 61)
        assert store.release(limit=10) == Released(again=1)
        assert row_of(engine, row_id).abandoned == lost
    assert store.claim_suspect(worker="alone").rows
    age(engine, 61)
    assert store.release(limit=10) == Released(poisoned=1)
    [letter] = letters_of(engine, row_id)
    assert (letter.reason, letter.attempts) == ("poison", LOST_MAX)


def test_a_suspect_of_a_held_endpoint_waits(engine: Engine) -> None:
    store = store_on(engine)
    row_id = _lose_twice(store, engine)
    change_lane(engine, row_of(engine, row_id).lane_id, held=True)
    assert not store.suspects()
    assert store.claim_suspect(worker="alone").rows == ()


def test_a_suspect_that_comes_back_is_trusted_again(engine: Engine) -> None:
    store = store_on(engine)
    row_id = _lose_twice(store, engine)
    settle(store, store.claim_suspect(worker="w").rows, RETRY)
    assert row_of(engine, row_id).abandoned == 0


def test_a_batch_is_shared_among_lanes(engine: Engine) -> None:
    store = store_on(engine)
    big, *small = [add_lane(engine, f"m{n}") for n in range(5)]
    add_due(engine, big, 300)
    for lane in small:
        add_due(engine, lane, 3)
    rows = store.claim(Pool.FAST, limit=50, worker="w").rows
    counts = {lane: sum(row.lane_id == lane for row in rows) for lane in (big, *small)}
    assert 8 <= counts[big] <= 10
    assert all(counts[lane] == 3 for lane in small)


def test_lanes_that_a_full_batch_left_out_come_next(engine: Engine) -> None:
    store = store_on(engine)
    lanes = [add_lane(engine, f"m{n}") for n in range(9)]
    for lane in lanes:
        add_due(engine, lane, 4)
    seen: set[int] = set()
    for _ in range(9):
        claim = store.claim(Pool.FAST, limit=3, worker="w")
        seen |= {row.lane_id for row in claim.rows}
        assert claim.more
    # Nobody is served twice before everybody was served once.
    assert seen == set(lanes)
    while claim.rows:
        claim = store.claim(Pool.FAST, limit=3, worker="w")
    assert not claim.more
    assert store.backlog().sending == 36


def test_within_a_lane_priority_goes_first_then_the_earliest_due(engine: Engine) -> None:
    store = store_on(engine)
    lane = add_lane(engine)
    late = add_due(engine, lane, 2, due_in_s=-1)
    early = add_due(engine, lane, 2, due_in_s=-100)
    urgent = add_due(engine, lane, 1, priority=0)
    got: list[int] = []
    for _ in range(5):
        got += [row.id for row in store.claim(Pool.FAST, limit=1, worker="w").rows]
    assert got == [*urgent, *early, *late]


def test_the_in_flight_cap_counts_what_is_on_the_wire(engine: Engine) -> None:
    store = store_on(engine)
    lane = add_lane(engine, in_flight_cap=3)
    add_due(engine, lane, 10)
    claim = store.claim(Pool.FAST, limit=10, worker="w")
    assert len(claim.rows) == 3
    assert claim.capped
    assert store.claim(Pool.FAST, limit=10, worker="w").rows == ()
    settle(store, claim.rows[:2])
    assert len(store.claim(Pool.FAST, limit=10, worker="w").rows) == 2


def test_a_held_lane_is_left_alone_and_burns_nothing(engine: Engine) -> None:
    store = store_on(engine)
    lane = add_lane(engine, held=True)
    [row_id] = add_due(engine, lane)
    assert store.claim(Pool.FAST, limit=10, worker="w").rows == ()
    assert store.due_pools() == frozenset()
    assert store.backlog().held == 1
    assert row_of(engine, row_id).attempt_no == 0
    change_lane(engine, lane, held=False)
    assert len(store.claim(Pool.FAST, limit=10, worker="w").rows) == 1


def test_an_open_breaker_lets_nothing_through_then_one_probe(engine: Engine) -> None:
    store = store_on(engine)
    lane = add_lane(engine)
    rows = add_due(engine, lane, 30)
    claim = store.claim(Pool.FAST, limit=20, worker="w")
    settle(store, claim.rows, RETRY)
    store.tell_health({lane: Tally(ok=0, failed=20, latency_ms=5)})
    assert store.backlog().open_breakers == 1
    assert store.due_pools() == frozenset()
    assert store.claim(Pool.SLOW, limit=20, worker="w").rows == ()
    age(engine, 31)
    # A failing lane has moved to the slow pool.
    assert store.due_pools() == {Pool.SLOW}
    probe = store.claim(Pool.SLOW, limit=20, worker="w").rows
    assert len(probe) == 1
    assert probe[0].troubled
    assert store.claim(Pool.SLOW, limit=20, worker="w").rows == ()
    settle(store, probe)
    store.tell_health({lane: Tally(ok=1, failed=0, latency_ms=5)})
    pool = Pool.SLOW if Pool.SLOW in store.due_pools() else Pool.FAST
    assert len(store.claim(pool, limit=20, worker="w").rows) == 2
    assert row_of(engine, rows[-1]).attempt_no == 0


def test_a_rate_limit_lets_through_what_was_saved_up(engine: Engine) -> None:
    store = store_on(engine)
    # One every twenty seconds: a slow machine saves up nothing while the test runs.
    lane = add_lane(engine, rate_per_s=0.05, tokens=1.0)
    add_due(engine, lane, 40)
    assert len(store.claim(Pool.FAST, limit=20, worker="w").rows) == 1
    assert store.claim(Pool.FAST, limit=20, worker="w").rows == ()
    age(engine, 20.1)
    assert len(store.claim(Pool.FAST, limit=20, worker="w").rows) == 1
    age(engine, 3600)
    # A long silence saves up one burst, not an hour's worth.
    assert len(store.claim(Pool.FAST, limit=20, worker="w").rows) == 1
    change_lane(engine, lane, rate_per_s=5.0)
    age(engine, 3600)
    assert len(store.claim(Pool.FAST, limit=20, worker="w").rows) == 5


def test_a_claim_says_whether_places_or_tokens_ran_out(engine: Engine) -> None:
    store = store_on(engine)
    tight = add_lane(engine, "tight", rate_per_s=1000.0, tokens=1000.0, in_flight_cap=3)
    add_due(engine, tight, 9)
    claim = store.claim(Pool.FAST, limit=20, worker="w")
    assert (len(claim.rows), claim.capped, claim.metered) == (3, True, False)
    change_lane(engine, tight, held=True)
    metered = add_lane(engine, "metered", rate_per_s=0.05, tokens=1.0)
    add_due(engine, metered, 9)
    claim = store.claim(Pool.FAST, limit=20, worker="w")
    assert (len(claim.rows), claim.capped, claim.metered) == (1, False, True)


def test_slow_lanes_are_claimed_by_their_own_pool(engine: Engine) -> None:
    store = store_on(engine)
    fast, slow = add_lane(engine, "fast"), add_lane(engine, "slow", slow=True)
    add_due(engine, fast)
    add_due(engine, slow)
    assert store.due_pools() == {Pool.FAST, Pool.SLOW}
    assert [row.lane_id for row in store.claim(Pool.FAST, limit=9, worker="w").rows] == [fast]
    assert [row.lane_id for row in store.claim(Pool.SLOW, limit=9, worker="w").rows] == [slow]


def test_many_claimers_never_share_a_row_nor_break_a_cap(engine: Engine) -> None:
    store = store_on(engine)
    lanes = [add_lane(engine, f"m{n}", in_flight_cap=40) for n in range(4)]
    for lane in lanes:
        add_due(engine, lane, 60)

    def claim_all(worker: int) -> list[int]:
        mine: list[int] = []
        for _ in range(6):
            mine += [row.id for row in store.claim(Pool.FAST, limit=11, worker=str(worker)).rows]
        return mine

    with ThreadPoolExecutor(8) as threads:
        claimed = [row for rows in threads.map(claim_all, range(8)) for row in rows]
    assert len(claimed) == len(set(claimed)) == 160
    assert store.backlog().sending == 160


def test_redriving_gives_a_fresh_budget_and_counts_attempts_on(engine: Engine) -> None:
    store = store_on(engine)
    rows = add_due(engine, add_lane(engine), 3)
    settle(store, store.claim(Pool.FAST, limit=3, worker="w").rows, DEAD)
    letters = [letters_of(engine, row)[0].id for row in rows]
    done = store.redrive(letters, who="kim", why="merchant mended", over_s=0)
    assert done == letters
    assert store.redrive(letters, who="kim", why="again", over_s=0) == []
    [letter] = letters_of(engine, rows[0])
    assert (letter.resolution, letter.resolved_by) == ("redriven", "kim")
    again = store.claim(Pool.FAST, limit=3, worker="w").rows
    assert {(row.attempt_no, row.tries) for row in again} == {(2, 1)}


def test_a_redrive_can_be_spread_over_time(engine: Engine) -> None:
    store = store_on(engine)
    rows = add_due(engine, add_lane(engine), 4)
    settle(store, store.claim(Pool.FAST, limit=4, worker="w").rows, DEAD)
    letters = [letters_of(engine, row)[0].id for row in rows]
    store.redrive(letters, who="kim", why="slowly", over_s=40)
    assert [row_of(engine, row).state for row in rows] == ["pending", *["waiting"] * 3]
    assert 29 < (row_of(engine, rows[3]).due_at - store.now()).total_seconds() < 31


def test_discarding_closes_the_letter_and_cancels_the_row(engine: Engine) -> None:
    store = store_on(engine)
    [row] = add_due(engine, add_lane(engine))
    settle(store, store.claim(Pool.FAST, limit=1, worker="w").rows, DEAD)
    letter = letters_of(engine, row)[0].id
    assert store.discard([letter], who="kim", why="refunded") == [letter]
    assert store.discard([letter], who="kim", why="refunded") == []
    assert row_of(engine, row).state == "cancelled"


@pytest.mark.parametrize("evidence", ["ok", "成功", "\\x00", "a" * 4096])
def test_any_evidence_is_stored(engine: Engine, evidence: str) -> None:
    store = store_on(engine)
    [row_id] = add_due(engine, add_lane(engine))
    [row] = store.claim(Pool.FAST, limit=1, worker="w").rows
    store.settle([verdict_on(row, evidence=evidence)])
    assert attempts_of(engine, row_id)[0].evidence == evidence


def test_lanes_behind_thousands_of_blocked_ones_are_found(postgres_engine: Engine) -> None:
    store = store_on(postgres_engine)
    with postgres_engine.begin() as tx:
        tx.exec_driver_sql(
            "INSERT INTO paynotify_endpoint (id, name, merchant, url, config) "
            "SELECT n, 'm' || n, 'm', 'https://a.com/', '{}' FROM generate_series(1, 4100) n"
        )
        tx.exec_driver_sql(
            "INSERT INTO paynotify_lane (id, endpoint_id, host, held) "
            "SELECT n, n, '', n < 4100 FROM generate_series(1, 4100) n"
        )
        tx.exec_driver_sql(
            "INSERT INTO paynotify_notification (id, endpoint_id, message_id, event_type, "
            "event_key, payload) SELECT n, n, 'msg_' || n, 'a', 'k', '' "
            "FROM generate_series(1, 4100) n"
        )
        tx.exec_driver_sql(
            "INSERT INTO paynotify_delivery (id, lane_id, state, due_at) "
            "SELECT n, n, 'pending', now() FROM generate_series(1, 4100) n"
        )
    assert store.due_pools() == {Pool.FAST}
    claim = store.claim(Pool.FAST, limit=10, worker="w")
    while not claim.rows and claim.more:
        claim = store.claim(Pool.FAST, limit=10, worker="w")
    assert [row.id for row in claim.rows] == [4100]


def test_a_try_that_said_nothing_is_given_back(engine: Engine) -> None:
    store = store_on(engine)
    [row_id] = add_due(engine, add_lane(engine))
    local = Verdict(
        decision=Decision.RETRY, outcome=Outcome.NOT_SENT, delay_s=10.0, given_back=True
    )
    settle(store, store.claim(Pool.FAST, limit=1, worker="w").rows, local)
    stored = row_of(engine, row_id)
    assert (stored.state, stored.tries, stored.attempt_no) == ("waiting", 0, 1)
