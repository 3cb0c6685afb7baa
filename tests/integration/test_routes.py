"""Callback routes on both databases: the board that all workers share, and sends through it."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select, update

from tests.office import add_endpoint, enqueue, office, state_of, until
from tests.receiver import Receiver
from tests.seeding import RETRY, add_due, attempts_of, notification_of, row_of, store_on, verdict_on
from worker import as_sent, route_board
from worker import endpoint_routes as rules
from worker.endpoint_rows import read_endpoint
from worker.endpoints import Endpoints
from worker.errors import NotFoundError, UrlRefusedError
from worker.lanes import of_endpoint
from worker.models import Allowed, Claimed, Endpoint, EndpointState, Pool, Settlement, Verdict
from worker.retry import DELIVERED
from worker.route_board import RouteBoard
from worker.route_facts import RoutePolicy, Standing, Via
from worker.route_rows import views
from worker.runtime import Runtime
from worker.sealing import Sealer
from worker.tables import endpoint as endpoint_table
from worker.tables_routes import callback_route

POLICY = RoutePolicy(failures=2, pause_s=10.0, step_s=5.0)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("merchant")) as running:
        yield running


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that no test has to wait for what is remembered to grow old.
    monkeypatch.setattr(route_board, "FRESH_S", 0.0)


@pytest.fixture
def acme(engine: Engine) -> Endpoint:
    """An endpoint with a spare."""
    registry = Endpoints(engine, Sealer(b"k" * 32))
    registry.register(name="acme", merchant="m", who="li", url="https://a.example.com/")
    return registry.change_routes(
        "acme",
        lambda before: rules.added(before, "https://b.example.com/", weight=0),
        action="endpoint.route-add",
        who="li",
        why="second site",
    )


def board(engine: Engine) -> RouteBoard:
    """What one more worker process has."""
    return RouteBoard(engine, POLICY, luck=lambda: 0.5)


def claimed(engine: Engine, acme: Endpoint, count: int = 1) -> tuple[Claimed, ...]:
    add_due(engine, acme.id, count)
    return store_on(engine).claim(Pool.FAST, limit=count, worker="w").rows


def went(row: Claimed, via: Via, verdict: Verdict) -> Settlement:
    return replace(verdict_on(row, verdict), via=via)


def chosen(at: RouteBoard, acme: Endpoint) -> Via:
    at.look([acme])
    return at.choose(acme)[1]


def let_pass(engine: Engine, seconds: float) -> None:
    """Move the times of all routes back."""
    step = timedelta(seconds=seconds)
    with engine.begin() as tx:
        for row in tx.execute(select(callback_route)).all():
            tx.execute(
                update(callback_route)
                .where(callback_route.c.no == row.no)
                .values(
                    window_at=row.window_at and row.window_at - step,
                    probe_at=row.probe_at and row.probe_at - step,
                )
            )


def test_what_one_worker_saw_the_others_act_on(engine: Engine, acme: Endpoint) -> None:
    one, other = board(engine), board(engine)
    rows = claimed(engine, acme, 2)
    assert [chosen(one, acme), chosen(other, acme)] == [Via(no=0), Via(no=0)]
    heard = one.hear([went(row, Via(no=0), RETRY) for row in rows])
    # A spare is left, so their lane is told nothing.
    assert heard == []
    assert [chosen(one, acme).no, chosen(other, acme).no] == [1, 1]
    endpoint, _ = other.choose(acme)
    assert (endpoint.url, endpoint.name) == ("https://b.example.com/", "acme")


def test_a_lane_hears_of_failures_when_no_route_is_left(engine: Engine, acme: Endpoint) -> None:
    at = board(engine)
    rows = claimed(engine, acme, 4)
    for no in (0, 1):
        chosen(at, acme)
        heard = at.hear([went(row, Via(no=no), RETRY) for row in rows[2 * no : 2 * no + 2]])
        assert len(heard) == 2 * no
    assert len(at.hear([went(rows[0], Via(no=0, trips=1), DELIVERED)])) == 1


def test_a_probe_is_granted_once_and_again_when_nobody_reports(
    engine: Engine, acme: Endpoint
) -> None:
    workers = [board(engine) for _ in range(3)]
    row = claimed(engine, acme)[0]
    for at in workers:
        chosen(at, acme)
    workers[0].hear([went(row, Via(no=0), RETRY)] * 2)
    assert {chosen(at, acme).no for at in workers} == {1}
    for _ in range(2):
        let_pass(engine, 60)
        assert sorted(chosen(at, acme).no for at in workers) == [0, 1, 1]


def test_it_returns_in_grey_steps_that_every_worker_keeps(engine: Engine, acme: Endpoint) -> None:
    one, other = board(engine), board(engine)
    row = claimed(engine, acme)[0]
    chosen(one, acme)
    one.hear([went(row, Via(no=0), RETRY)] * 2)
    shares = []
    for _ in range(3):
        one.hear([went(row, Via(no=0, trips=1), DELIVERED)])
        shares.append([view.percent for view in views(engine, acme, POLICY)])
        let_pass(engine, POLICY.step_s)
    assert shares == [[5.0, 95.0], [25.0, 75.0], [100.0, 0.0]]
    assert chosen(other, acme) == Via(no=0, trips=1)
    assert views(engine, acme, POLICY)[0].standing is Standing.SOUND


def test_a_stragglers_answer_says_nothing_about_a_route_that_is_back(
    engine: Engine, acme: Endpoint
) -> None:
    at = board(engine)
    row = claimed(engine, acme)[0]
    chosen(at, acme)
    at.hear([went(row, Via(no=0), RETRY)] * 2)
    at.hear([went(row, Via(no=0, trips=1), DELIVERED)])
    at.hear([went(row, Via(no=0), RETRY)] * 20)
    assert views(engine, acme, POLICY)[0].standing is Standing.RETURNING


def test_success_through_a_sound_route_writes_nothing(engine: Engine, acme: Endpoint) -> None:
    at = board(engine)
    row = claimed(engine, acme)[0]
    settlement = went(row, chosen(at, acme), DELIVERED)
    assert at.hear([settlement]) == [settlement]
    with engine.connect() as connection:
        assert connection.execute(select(callback_route)).all() == []


def test_a_pinned_route_is_used_well_or_not(engine: Engine, acme: Endpoint) -> None:
    at = board(engine)
    row = claimed(engine, acme)[0]
    pinned = replace(acme, pinned=0)
    chosen(at, pinned)
    settlement = went(row, Via(no=0, pinned=True), RETRY)
    # There is no other, so the lane hears of it.
    assert at.hear([settlement] * 2) == [settlement] * 2
    assert chosen(at, pinned) == Via(no=0, trips=1, pinned=True)
    assert chosen(at, acme).no == 1


def test_a_route_that_leads_elsewhere_begins_anew(engine: Engine, acme: Endpoint) -> None:
    at = board(engine)
    row = claimed(engine, acme)[0]
    for no in (0, 1):
        chosen(at, acme)
        at.hear([went(row, Via(no=no), RETRY)] * 2)
    registry = Endpoints(engine, Sealer(b"k" * 32))
    registry.update("acme", who="li", why="moved", url="https://c.example.com/")
    assert [view.trips for view in views(engine, acme, POLICY)] == [0, 1]
    registry.change_routes(
        "acme", lambda before: rules.removed(before, 1), action="x", who="li", why="closed"
    )
    with engine.connect() as connection:
        assert connection.execute(select(callback_route)).all() == []


def test_routes_come_back_as_they_were_made_and_pass_the_guard(
    engine: Engine, acme: Endpoint
) -> None:
    registry = Endpoints(engine, Sealer(b"k" * 32))
    with engine.connect() as connection:
        assert read_endpoint(connection.execute(select(endpoint_table)).one()) == acme

    def add(url: str) -> Endpoint:
        return registry.change_routes(
            "acme",
            lambda before: rules.added(before, url, weight=0),
            action="endpoint.route-add",
            who="li",
            why="second site",
        )

    with pytest.raises(UrlRefusedError, match="route 2"):
        add("https://169.254.169.254/")
    registry.update("acme", who="li", why="their office", allowed=Allowed(http=True))
    add("http://d.example.com/")
    with pytest.raises(UrlRefusedError, match="route 2"):
        registry.update("acme", who="li", why="no more", allowed=Allowed())
    with pytest.raises(NotFoundError):
        registry.change_routes("acne", lambda b: b, action="x", who="li", why="y")


# Whole sends


def _with_spare(working: Runtime, receiver: Receiver, path: str, spare: str) -> Endpoint:
    made = add_endpoint(working, receiver, path, ack="200", schedules="1,1,1,1,1")
    return working.desk.endpoints.change_routes(
        made.name,
        lambda before: rules.added(before, receiver.url(spare), weight=0),
        action="endpoint.route-add",
        who="test",
        why="a spare",
    )


def _paths(engine: Engine, receiver: Receiver, notification_id: int) -> list[str]:
    mine = notification_of(engine, notification_id).message_id
    return [record.path for record in receiver.ledger() if record.message_id == mine]


def test_when_the_first_route_trips_the_next_sends_go_through_the_spare(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    # The lane's own breaker would open at once.
    with office(dsn, route_failures=1, breaker_failures=1) as working:
        endpoint = _with_spare(working, receiver, "/503", "/success")
        first = enqueue(working, endpoint, "first")
        until(lambda: row_of(engine, first).state in ("waiting", "delivered"))
        until(lambda: views(engine, endpoint, POLICY)[0].standing is Standing.TRIPPED)
        second = enqueue(working, endpoint, "second")
        other = enqueue(working, endpoint, "other", notify_url=receiver.url("/200"))
        for each in (first, second, other):
            until(lambda each=each: state_of(working, each) == "delivered")  # type: ignore[misc]
    assert _paths(engine, receiver, first) == ["/503", "/success"]
    assert _paths(engine, receiver, second) == ["/success"]
    assert _paths(engine, receiver, other) == ["/200"]
    assert [attempt.route for attempt in attempts_of(engine, first)] == [0, 1]
    with engine.connect() as connection:
        shown = [as_sent.masked(connection, first, attempt_no).url for attempt_no in (1, 2)]
    assert shown == [receiver.url("/503"), receiver.url("/success")]
    assert [lane.failures_in_row for lane in of_endpoint(engine, endpoint.id)] == [0, 0]


def test_410_of_one_route_burns_no_try_and_leaves_the_endpoint_active(
    engine: Engine, dsn: str, receiver: Receiver
) -> None:
    with office(dsn) as working:
        endpoint = _with_spare(working, receiver, "/410", "/success")
        row_id = enqueue(working, endpoint, "k")
        until(lambda: state_of(working, row_id) == "delivered")
        assert working.desk.endpoints.get(endpoint.id).state is EndpointState.ACTIVE
    assert _paths(engine, receiver, row_id) == ["/410", "/success"]
    assert (row_of(engine, row_id).tries, row_of(engine, row_id).attempt_no) == (1, 2)


def test_410_of_all_routes_holds_the_endpoint(engine: Engine, dsn: str, receiver: Receiver) -> None:
    with office(dsn) as working:
        endpoint = _with_spare(working, receiver, "/410", "/410?spare=1")
        row_id = enqueue(working, endpoint, "k")
        until(
            lambda: working.desk.endpoints.get(endpoint.id).state is EndpointState.GONE,
        )
        until(lambda: state_of(working, row_id) == "pending")
        assert row_of(engine, row_id).tries == 0
