"""A broker that is killed, flushed, cut off or fed with junk: a doorbell, and nothing more."""

import json
import random
import time
from pathlib import Path

import pytest
from kombu import Connection as Broker

from tests.chaos_proxy import ChaosProxy
from tests.faults import outage
from tests.faults.fleet import Fleet, until
from tests.faults.site import Site, site
from tests.services import RedisServer
from worker.app import QUEUES, app
from worker.bells import KEY_PREFIX, TASK, envelope
from worker.client import Notifier
from worker.models import Pool


def _push(redis_server: RedisServer, queue: str, *messages: bytes) -> None:
    with redis_server.connect() as client:
        for message in messages:
            client.lpush(KEY_PREFIX + queue, message)


def _waiting(redis_server: RedisServer) -> int:
    with redis_server.connect() as client:
        return sum(int(client.llen(KEY_PREFIX + queue)) for queue in QUEUES)


def test_rows_that_no_bell_was_rung_for_are_found_by_the_tick(place: Site) -> None:
    names = [place.endpoint() for _ in range(3)]
    place.notifier = Notifier(None)
    with Fleet(place.settings, place.folder) as fleet:
        place.enqueue(names, 2000)
        place.rest(fleet, within_s=15)
    books = place.books()
    books.check()
    assert (books.outcomes, books.duplicates) == ({"acked": 2000}, 0)


def test_messages_doubled_replayed_and_reordered_double_no_callback(
    place: Site, redis_server: RedisServer
) -> None:
    names = [place.endpoint("/slow?ms=20") for _ in range(3)]
    bells = [envelope(pool) for pool in Pool for _ in range(100)] * 5
    random.Random(1).shuffle(bells)
    with Fleet(place.settings, place.folder) as fleet:
        before = fleet.metric("paynotify_claims_total")
        for part in range(4):
            place.enqueue(names, 150)
            for bell in bells[part::4]:
                queue = "deliver" if b'"argsrepr": "[]"' in bell else "deliver.slow"
                _push(redis_server, queue, bell)
        place.rest(fleet)
        until(lambda: _waiting(redis_server) == 0, why=fleet.last_words)
        assert fleet.metric("paynotify_claims_total") > before + 200
    books = place.books()
    books.check()
    assert (books.outcomes, books.duplicates) == ({"acked": 600}, 0)


@pytest.mark.parametrize("appendonly", [False, True])
def test_a_killed_redis_costs_nothing_with_and_without_its_log(
    appendonly: bool, postgres_dsn: str, tmp_path: Path
) -> None:
    with (
        RedisServer(appendonly=appendonly) as redis_server,
        site(postgres_dsn, redis_server.url(), tmp_path) as place,
        Fleet(place.settings, place.folder) as fleet,
    ):
        names = [place.endpoint("/slow?ms=20") for _ in range(3)]

        def _a_bell_failed() -> bool:
            # Tasks that go on need no bell, so there has to be something new until one ends.
            place.enqueue(names)
            return fleet.metric('paynotify_bells_total{result="failed"}') > 0

        for _ in range(3):
            place.enqueue(names, 100)
            # What lies in the queue now comes back with the log, and is gone without it.
            _push(redis_server, "deliver", *[envelope(Pool.FAST)] * 50)
            redis_server.kill()
            place.enqueue(names, 100)
            until(_a_bell_failed, why=fleet.last_words, every_s=0.2)
            redis_server.start()
        place.rest(fleet)
        _canaries(redis_server, fleet)
        assert fleet.ended == []
        books = place.books()
    books.check()
    assert (books.outcomes, books.duplicates) == ({"acked": len(place.accepted)}, 0)


def test_a_flushed_redis_costs_nothing_and_every_queue_is_still_heard(
    place: Site, redis_server: RedisServer
) -> None:
    names = [place.endpoint("/slow?ms=20") for _ in range(3)]
    with Fleet(place.settings, place.folder) as fleet:
        _canaries(redis_server, fleet)
        for _ in range(10):
            place.enqueue(names, 50)
            redis_server.flushall()
        place.rest(fleet)
        _canaries(redis_server, fleet)
        assert fleet.ended == []
    books = place.books()
    books.check()
    assert (books.outcomes, books.duplicates) == ({"acked": 500}, 0)


def _canaries(redis_server: RedisServer, fleet: Fleet) -> None:
    """Publish one message to each queue as Celery does; each must be worked on."""
    for queue in QUEUES:
        before = fleet.metric("paynotify_claims_total")
        with Broker(redis_server.url(), transport_options={"global_keyprefix": KEY_PREFIX}) as to:
            app.send_task(TASK, connection=to, queue=queue)
        until(
            lambda before=before: fleet.metric("paynotify_claims_total") > before,  # type: ignore[misc]
            within_s=30,
            why=lambda queue=queue: f"{queue}: {fleet.last_words()}",  # type: ignore[misc]
        )


def test_with_redis_behind_a_black_hole_commits_stay_quick_and_callbacks_go_out(
    postgres_dsn: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    redis_server.flushall()
    with (
        ChaosProxy(redis_server.port) as wire,
        site(postgres_dsn, redis_server.url(port=wire.port), tmp_path) as place,
        Fleet(place.settings, place.folder) as fleet,
    ):
        names = [place.endpoint() for _ in range(3)]
        place.enqueue(names, 100)
        place.rest(fleet)
        wire.blackhole()
        slowest_s = 0.0
        for _ in range(20):
            at_s = time.monotonic()
            ids = place.enqueue(names, 20)
            slowest_s = max(slowest_s, time.monotonic() - at_s)
            until(lambda: not place.open(), within_s=10, why=fleet.last_words)
            assert ids
        failed = fleet.metric('paynotify_bells_total{result="failed"}')
        wire.restore()
        # A worker may find a half-open connection only when its next command times out.
        _canaries(redis_server, fleet)
        place.enqueue(names, 100)
        place.rest(fleet)
        assert fleet.ended == []
        books = place.books()
    books.check()
    assert (books.outcomes, books.duplicates) == ({"acked": 600}, 0)
    assert failed > 0
    print(f"slowest commit with Redis behind a black hole: {1000 * slowest_s:.0f} ms")
    assert slowest_s < 2


def _with(**changes: object) -> dict[str, object]:
    return {**json.loads(envelope(Pool.FAST)), **changes}


_JUNK = (
    b"",
    b"\x80\x04\x95junk",
    b"not json",
    b"[]",
    b"17",
    b"null",
    b"{}",
    b'{"body": "!!!", "headers": {}, "properties": {}}',
    json.dumps(_with(body="gASVAAAAAAAAAAA=")).encode(),
    json.dumps(_with(**{"content-type": "application/x-python-serialize"})).encode(),
    json.dumps(_with(headers={"task": "os.system"})).encode(),
    envelope(Pool.FAST).replace(TASK.encode(), b"paynotify.nobody"),
    envelope(Pool.FAST).replace(b'"argsrepr": "[]"', b'"argsrepr": 7'),
    json.dumps(_with(headers={"task": TASK, "id": "1", "timelimit": 3})).encode(),
    json.dumps(_with(headers={"task": TASK, "id": ["1"], "eta": 7})).encode(),
    json.dumps(_with(headers={"task": ["x"], "id": {}})).encode(),
    json.dumps(_with(headers=None)).encode(),
    json.dumps(_with(properties={"delivery_tag": "1", "delivery_info": 7})).encode(),
    b'{"a":' * 20_000,
)


def test_junk_in_the_queues_is_thrown_away_and_no_worker_dies_of_it(
    place: Site, redis_server: RedisServer
) -> None:
    names = [place.endpoint() for _ in range(3)]
    with Fleet(place.settings, place.folder) as fleet:
        place.enqueue(names, 100)
        for junk in _JUNK:
            _push(redis_server, "deliver", *[junk] * (1000 // len(_JUNK)))
            place.enqueue(names, 20)
        place.rest(fleet)
        until(lambda: _waiting(redis_server) == 0, within_s=30, why=fleet.last_words)
        _canaries(redis_server, fleet)
        assert "broker.junk" in fleet.logs()
        assert fleet.ended == []
    books = place.books()
    books.check()
    assert (books.outcomes, books.duplicates) == ({"acked": 100 + 20 * len(_JUNK)}, 0)


@pytest.mark.timeout(180)
def test_callbacks_keep_going_out_while_redis_is_away(
    postgres_dsn: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    redis_server.flushall()
    with site(postgres_dsn, redis_server.url(), tmp_path, fast=True, tick_s=1.0) as place:
        ran = outage.run(place, redis_server, seconds=4, per_s=300, workers=2)
    print(ran.text())
    ran.books.check()
    assert ran.books.duplicates == 0
    assert ran.during_per_s > 0
    assert ran.failed_bells > 0
