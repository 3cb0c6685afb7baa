"""Merchants that hang, refuse, ask for time or are gone, beside those that are well."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update

from tests.faults import hanging
from tests.faults.fleet import Fleet, until
from tests.faults.site import LEASE_S, Site, site
from tests.seeding import attempts_of, letters_of, row_of
from tests.services import RedisServer
from worker import tables
from worker.errors import BadFieldError
from worker.models import EndpointState, Schedule


@pytest.mark.timeout(180)
def test_one_that_hangs_with_half_of_the_volume_does_not_keep_the_others_waiting(
    postgres_dsn: str, broker_url: str, tmp_path: Path
) -> None:
    with site(postgres_dsn, broker_url, tmp_path, fast=True, breaker_failures=20) as place:
        ran = hanging.run(place, endpoints=100, rounds=1, seconds=4, per_s=200, workers=2)
    print(ran.text())
    ran.books.check()
    assert ran.books.duplicates == 0
    assert ran.most_on_wire >= 100
    assert ran.books.outcomes["failed"] > 0


_SOONEST_S, _LATEST_S = 50, 6 * 3600


@pytest.mark.parametrize("kind", ["place", "small_place"])
def test_what_a_merchant_asks_for_is_a_floor_and_nonsense_is_ignored(
    kind: str, request: pytest.FixtureRequest
) -> None:
    place: Site = request.getfixturevalue(kind)
    # Each value with the wait it must make of a schedule of a minute.
    waits = {
        "500": 500,
        "0": 60,
        "-5": 60,
        "NaN": 60,
        "1000000000000000000": _LATEST_S,
        "Wed, 21 Oct 2015 07:28:00 GMT": 60,
        "Wed, 21 Oct 2099 07:28:00 GMT": _LATEST_S,
        "soon": 60,
    }
    schedule = Schedule(delays_s=(60, 60), jitter_ratio=0)
    ids: dict[str, int] = {}
    with Fleet(place.settings, place.folder, count=1) as fleet:
        for number, value in enumerate(waits):
            path = place.receiver.url("", retry_after=value).partition("?")[2]
            status = 429 if number % 2 else 503
            name = place.endpoint(f"/{status}?{path}", schedules=schedule)
            [ids[value]] = place.enqueue([name])
        until(lambda: set(place.open()) == {"waiting"}, why=fleet.last_words)
    for value, wait_s in waits.items():
        row = row_of(place.engine, ids[value])
        [attempt] = attempts_of(place.engine, ids[value])
        waited_s = (row.due_at - attempt.finished_at).total_seconds()
        assert waited_s == pytest.approx(wait_s, abs=2), value
        assert (row.tries, row.attempt_no) == (1, 1)


def test_one_that_is_gone_is_called_no_more_until_somebody_resumes_it(place: Site) -> None:
    place.receiver.control("gone", 410)
    gone, well = place.endpoint("/toggle/gone"), place.endpoint()
    with Fleet(place.settings, place.folder) as fleet:
        place.enqueue([gone, well], 40)
        until(lambda: place.endpoints.find(gone).state is EndpointState.GONE)
        until(lambda: place.open() == {"pending": 20}, why=fleet.last_words)
        calls = len(place.receiver.ledger())
        place.enqueue([gone, well], 40)
        until(lambda: place.open() == {"pending": 40}, why=fleet.last_words)
        # Only those that were well were called.
        assert len(place.receiver.ledger()) == calls + 20
        assert _burnt(place.engine) == 0
        place.receiver.control("gone", 200)
        place.endpoints.resume(gone, who="kim", why="they are back")
        place.rest(fleet)
    books = place.books()
    books.check()
    assert (books.states, books.duplicates) == ({"delivered": 80}, 0)


def _burnt(engine: Engine) -> int:
    """Tries used up by what is unfinished."""
    with engine.connect() as connection:
        query = select(tables.delivery.c.tries).where(tables.delivery.c.state == "pending")
        return sum(connection.execute(query).scalars())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("payload", b"x" * (256 * 1024 + 1)),
        ("payload", {"amount": 1.5}),
        ("payload", object()),
        ("headers", {"x-a": "1\r\nx-b: 2"}),
        ("headers", {"webhook-signature": "v1,forged"}),
        ("content_type", "text/plain\r\nx: y"),
        ("notify_url", "http://169.254.169.254/"),
    ],
)
def test_a_payload_that_could_not_be_sent_is_refused_before_anything_is_written(
    small_place: Site, field: str, value: object
) -> None:
    name = small_place.endpoint()
    with pytest.raises(BadFieldError, match=field):
        small_place.enqueue([name], 1, **{field: value})
    assert small_place.open() == {}


def test_a_row_nobody_can_read_is_buried_and_takes_no_other_along(
    place: Site, redis_server: RedisServer
) -> None:
    name = place.endpoint()
    bad = place.enqueue([name], 2)
    with place.engine.begin() as tx:
        # Nothing of ours writes this: a hand, a half migration, a broken disk.
        for id_, column in zip(bad, ("headers", "schedule"), strict=True):
            tx.execute(
                update(tables.notification)
                .where(tables.notification.c.id == id_)
                .values({column: '{"half": '})
            )
    with Fleet(place.settings, place.folder) as fleet:
        place.enqueue([name], 30)
        place.rest(fleet, within_s=8 * LEASE_S)
        assert fleet.ended == []
    books = place.books()
    books.check()
    assert books.states == {"dead": 2, "delivered": 30}
    for id_ in bad:
        assert [letter.reason for letter in letters_of(place.engine, id_)] in (
            ["poison"],
            ["unsendable"],
        )
