"""Worker processes that are killed, frozen or told to stop in the middle of their work."""

import signal
import time

import pytest
from sqlalchemy import select, update

from tests.faults import kills
from tests.faults.fleet import Fleet, Member, Seam, until
from tests.faults.site import LEASE_S, TIMEOUT_S, Site, quick
from tests.faults.worker import POISON
from tests.seeding import attempts_of, letters_of, row_of
from tests.services import PostgresServer, RedisServer
from worker import tables

_KILLED = -signal.SIGKILL


def test_a_worker_killed_within_a_claim_leaves_no_trace(place: Site) -> None:
    names = [place.endpoint() for _ in range(3)]
    seam = Seam.of("die-in-claim", 2, place.folder)
    with Fleet(place.settings, place.folder, count=1, seam=seam) as fleet:
        place.enqueue(names, 60)
        place.rest(fleet)
    books = place.books()
    books.check()
    assert [code for _, code in fleet.ended] == [_KILLED] * 2
    assert (books.outcomes, books.duplicates) == ({"acked": 60}, 0)


def test_a_worker_killed_after_a_claim_costs_a_lease_and_no_double(place: Site) -> None:
    names = [place.endpoint() for _ in range(3)]
    seam = Seam.of("die-after-claim", 1, place.folder)
    with Fleet(place.settings, place.folder, count=1, seam=seam) as fleet:
        began_s = time.monotonic()
        place.enqueue(names, 60)
        place.rest(fleet)
    # The lease, a tick and a start, on a busy machine.
    assert LEASE_S < time.monotonic() - began_s < LEASE_S + 15
    books = place.books()
    books.check()
    [(name, code)] = fleet.ended
    assert (code, books.duplicates) == (_KILLED, 0)
    assert books.on_wire_of([name]) == books.outcomes["abandoned"] > 0


@pytest.mark.parametrize("kind", ["place", "small_place"])
def test_a_worker_killed_before_it_wrote_a_yes_down_costs_one_double_each(
    kind: str, request: pytest.FixtureRequest
) -> None:
    place: Site = request.getfixturevalue(kind)
    name = place.endpoint()
    seam = Seam.of("die-before-settle", 1, place.folder)
    with Fleet(place.settings, place.folder, count=1, seam=seam) as fleet:
        ids = place.enqueue([name], 40)
        place.rest(fleet)
    books = place.books()
    books.check()
    [(dead, code)] = fleet.ended
    assert code == _KILLED
    assert 0 < books.duplicates <= books.on_wire_of([dead]) == books.outcomes["abandoned"]
    for id_ in books.doubles:
        attempts = attempts_of(place.engine, id_)
        assert [(a.attempt_no, a.outcome) for a in attempts] == [(1, "abandoned"), (2, "acked")]
    assert set(books.doubles) <= set(ids)


def test_a_worker_killed_after_it_wrote_everything_down_costs_nothing(place: Site) -> None:
    name = place.endpoint()
    seam = Seam.of("die-after-settle", 1, place.folder)
    with Fleet(place.settings, place.folder, count=1, seam=seam) as fleet:
        place.enqueue([name])
        place.rest(fleet)
        # It dies a moment after the last row is written.
        until(lambda: fleet.ended or fleet.members[0].code is not None)
        place.enqueue([name])
        place.rest(fleet)
    books = place.books()
    books.check()
    assert (books.outcomes, books.duplicates) == ({"acked": 2}, 0)


@pytest.mark.timeout(240)
def test_workers_killed_once_a_second_lose_nothing_and_double_only_what_was_on_the_wire(
    place: Site, postgres: PostgresServer, redis_server: RedisServer
) -> None:
    ran = kills.run(place, postgres, redis_server, kills=5, count=1200)
    print(ran.text())
    ran.books.check()
    assert len(ran.killed) == 5
    on_wire = ran.books.on_wire_of(ran.killed)
    assert ran.books.duplicates <= on_wire
    assert on_wire == ran.books.outcomes["abandoned"] > 0


def test_stopping_workers_in_turn_under_load_doubles_nothing_and_drops_nothing(
    place: Site,
) -> None:
    names = [place.endpoint("/slow?ms=150") for _ in range(5)]
    with Fleet(place.settings, place.folder) as fleet:
        for turn in range(6):
            place.enqueue(names, 200)
            member = fleet.members[turn % 2]
            until(lambda member=member: _given_work(place, names, member))  # type: ignore[misc]
            asked_s = time.monotonic()
            member.send(signal.SIGTERM)
            assert member.wait(20) == 0
            assert time.monotonic() - asked_s < TIMEOUT_S + 5
            fleet.tend()
        place.rest(fleet)
        until(lambda: all(member.up for member in fleet.members))
        assert fleet.stop() == [0, 0]
    books = place.books()
    books.check()
    assert (books.outcomes, books.duplicates) == ({"acked": len(place.accepted)}, 0)


def test_a_worker_frozen_past_its_lease_has_its_late_verdicts_refused(place: Site) -> None:
    name = place.endpoint()
    seam = Seam.of("freeze-before-settle", 1, place.folder)
    with Fleet(place.settings, place.folder, seam=seam) as fleet:
        place.enqueue([name], 40)
        until(lambda: any(member.frozen for member in fleet.members))
        [frozen] = [member for member in fleet.members if member.frozen]
        place.rest(fleet)
        held = place.books().on_wire_of([frozen.name])
        assert held > 0
        frozen.send(signal.SIGCONT)
        until(lambda: frozen.metric("paynotify_stale_settles_total") >= held)
        place.enqueue([name], 10)
        place.rest(fleet)
    books = place.books()
    books.check()
    assert 0 < books.duplicates <= held == books.outcomes["abandoned"]
    assert books.outcomes["acked"] == 50
    assert fleet.ended == []


def test_a_frozen_worker_never_holds_the_others_up(place: Site) -> None:
    names = [place.endpoint() for _ in range(3)]
    with Fleet(place.settings, place.folder) as fleet:
        for turn in range(8):
            place.enqueue(names, 60)
            # Each time a little later in the work that this begins.
            at_s = time.monotonic() + turn * 0.003
            until(lambda at_s=at_s: time.monotonic() >= at_s, every_s=0.001)  # type: ignore[misc]
            member = fleet.members[turn % 2]
            member.send(signal.SIGSTOP)
            try:
                ids = place.enqueue(names, 5)
                until(
                    lambda ids=ids, name=member.name: _delivered(place, ids, but_of=name),  # type: ignore[misc]
                    within_s=5,
                    why=fleet.last_words,
                )
            finally:
                member.send(signal.SIGCONT)
        place.rest(fleet)
    books = place.books()
    books.check()
    assert books.states == {"delivered": 8 * 65}


@pytest.mark.timeout(180)
def test_a_payload_that_kills_whoever_touches_it_ends_three_processes_and_is_buried(
    place: Site,
) -> None:
    name = place.endpoint()
    seam = Seam.of("die-of-poison", 0, place.folder)
    with Fleet(place.settings, place.folder, seam=seam) as fleet:
        [poison] = place.enqueue([name], payload=POISON)
        place.enqueue([name], 60)
        place.rest(fleet, within_s=90)
        place.enqueue([name], 20)
        place.rest(fleet)
    # Two workers, then a process that carried nothing else.
    assert [code for _, code in fleet.ended] == [_KILLED] * 2
    [letter] = letters_of(place.engine, poison)
    assert (letter.reason, letter.attempts) == ("poison", 3)
    assert "alone (SIGKILL)" in letter.last_error
    assert row_of(place.engine, poison).state == "dead"
    books = place.books()
    books.check()
    assert books.states == {"dead": 1, "delivered": 80}


def test_suspects_do_not_wait_for_a_tick_each(place: Site) -> None:
    ids = place.enqueue([place.endpoint()], 40)
    with place.engine.begin() as tx:
        tx.execute(update(tables.delivery).values(abandoned=tables.SUSPECT_AFTER))
    assert place.settings.broker_url is not None
    slowly = quick(
        place.engine.url.render_as_string(hide_password=False),
        place.settings.broker_url.get_secret_value(),
        tick_s=5.0,
    )
    with Fleet(slowly, place.folder, count=1) as fleet:
        place.rest(fleet, within_s=30)
    books = place.books()
    books.check()
    assert (books.outcomes, len(ids)) == ({"acked": 40}, 40)


def _given_work(place: Site, names: list[str], member: Member) -> bool:
    """Enqueue a little and say whether it has anything on the wire: the other may take it all."""
    place.enqueue(names, 20)
    return member.metric("paynotify_in_flight") > 0


def _delivered(place: Site, ids: list[int], *, but_of: str) -> bool:
    """Tell whether all are delivered but what worker ``but_of`` holds.

    A claim that it had sent when it was frozen is still carried out, at the gate perhaps only after
    these were there; a lease is what brings such rows back.
    """
    attempt, delivery = tables.attempt.c, tables.delivery.c
    others = (
        select(delivery.id)
        .outerjoin(
            tables.attempt,
            (attempt.notification_id == delivery.id) & (attempt.attempt_no == delivery.attempt_no),
        )
        .where(
            delivery.id.in_(ids),
            delivery.state != "delivered",
            (delivery.state != "sending") | (attempt.worker != but_of),
        )
    )
    with place.engine.connect() as connection:
        return not connection.execute(others).all()
