"""Endpoints that keep failing are frozen, pinged one at a time, and let go when they answer."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, Row, select, update

from schedules import alert_evaluation, alert_rules
from schedules.freezing import NAME, FreezeWatch, sweep
from tests.alarms import SHIPPED
from tests.certificates import authority_in
from tests.office import add_endpoint, enqueue, office, state_of, until
from tests.receiver import Receiver
from tests.seeding import add_due, add_lane, change_lane, row_of, settle, store_on
from tests.sweeping import whole_round
from worker import endpoint_routes, freeze_probes, freeze_views, freezes, runtime, tables
from worker.breaker import Policy
from worker.freeze_probes import Probe
from worker.freeze_rules import CERTIFICATE_CHANGED, URL_CHANGED, Manner, Move
from worker.freezer import Freezer
from worker.models import Allowed, Endpoint, EndpointState, Pool
from worker.runtime import Runtime
from worker.seen import Tally
from worker.tables_alerts import alert
from worker.tables_freeze import certificate, freeze
from worker.tables_schedules import sweep as sweep_row

_MANNER = Manner(trips=3, open_s=600.0, probe_s=30.0, trial_s=1800.0)


@pytest.fixture(scope="module")
def merchant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("merchant")) as receiver:
        yield receiver


@pytest.fixture
def working(sqlite_dsn: str) -> Iterator[Runtime]:
    with office(sqlite_dsn, start=False) as opened:
        yield opened


def _trip(engine: Engine, endpoint_id: int, times: int = 3) -> None:
    """Its breaker has just opened."""
    now = store_on(engine).now()
    values = {"open_until": now + timedelta(seconds=60), "opened_times": times, "slow": True}
    with engine.begin() as tx:
        tx.execute(
            update(tables.lane).where(tables.lane.c.endpoint_id == endpoint_id).values(**values)
        )


def _freeze(engine: Engine, manner: Manner = _MANNER) -> list[str]:
    frozen = freezes.freeze_failing(engine, manner=manner, breaker=Policy(), limit=50)
    return [name for name, _ in frozen]


def _later(engine: Engine, **seconds: float) -> None:
    """Move times of the freezes back."""
    with engine.begin() as tx:
        for row in tx.execute(select(freeze)).all():
            moved = {name: getattr(row, name) - timedelta(seconds=s) for name, s in seconds.items()}
            mine = freeze.c.endpoint_id == row.endpoint_id
            tx.execute(update(freeze).where(mine).values(**moved))


def _take(engine: Engine, lease_s: float = 30.0) -> list[freeze_probes.Due]:
    return freeze_probes.take(engine, limit=50, lease_s=lease_s)


def _state(engine: Engine) -> tuple[str, str]:
    with engine.connect() as connection:
        row = connection.execute(select(tables.endpoint)).one()
    return row.state, row.state_reason


def _audit(engine: Engine) -> list[Row[Any]]:
    with engine.connect() as connection:
        return list(connection.execute(select(tables.audit).order_by(tables.audit.c.id)))


def _view(engine: Engine, endpoint_id: int = 1) -> freeze_views.FreezeView:
    view = freeze_views.of_endpoint(engine, endpoint_id)
    assert view is not None
    return view


def test_one_that_keeps_failing_is_held_and_uses_up_no_try(engine: Engine) -> None:
    lane = add_lane(engine)
    other = add_lane(engine, "well")
    [row_id] = add_due(engine, lane)
    _trip(engine, lane)
    _trip(engine, other, times=2)
    assert _freeze(engine) == ["acme"]
    assert _freeze(engine) == []
    # Even after its breaker's pause nothing goes out.
    change_lane(engine, lane, open_until=store_on(engine).now() - timedelta(seconds=1))
    assert store_on(engine).claim(Pool.SLOW, limit=9, worker="w").rows == ()
    assert row_of(engine, row_id).tries == 0
    [kept] = _audit(engine)
    assert (kept.actor, kept.action) == ("freeze", "endpoint.freeze")
    assert kept.why == "its breaker opened 3 times in a row"
    assert json.loads(kept.facts)["state"] == ["active", "frozen"]
    assert freeze_views.count(engine) == (1, 0)


@pytest.mark.parametrize("kept", ["opted out", "paused", "recovered", "switched off"])
def test_who_is_not_to_be_frozen_is_not(engine: Engine, kept: str) -> None:
    lane = add_lane(engine)
    _trip(engine, lane)
    manner = _MANNER
    with engine.begin() as tx:
        if kept == "opted out":
            tx.execute(update(tables.endpoint).values(config='{"freeze": false}'))
        if kept == "paused":
            tx.execute(update(tables.endpoint).values(state="paused"))
            tx.execute(update(tables.lane).values(held=True))
    if kept == "recovered":
        change_lane(engine, lane, open_until=None, ramp=2)
    if kept == "switched off":
        manner = Manner(trips=0, open_s=0.0, probe_s=30.0, trial_s=0.0)
    assert _freeze(engine, manner) == []


def test_an_answer_lets_one_notification_through_then_two_and_four(engine: Engine) -> None:
    lane = add_lane(engine, in_flight_cap=50)
    add_due(engine, lane, 40)
    _trip(engine, lane)
    _freeze(engine)
    assert _take(engine) == []
    _later(engine, probe_at=31, frozen_at=31)
    [due] = _take(engine)
    assert due.same_url
    done = freeze_probes.settle(engine, Probe(due=due, code="acked", status=200), manner=_MANNER)
    assert done is not None
    assert (done.move, round(done.frozen_s or 0)) == (Move.UNFREEZE, 31)
    assert _state(engine) == ("active", "")
    view = _view(engine)
    assert (view.unfrozen_by, view.frozen_s, view.code) == ("freeze", 31, "acked")
    store = store_on(engine)
    went = []
    for _ in range(4):
        rows = store.claim(Pool.SLOW, limit=100, worker="w").rows
        went.append(len(rows))
        settle(store, rows)
        store.tell_health({lane: Tally(ok=len(rows), latency_ms=1.0)})
        change_lane(engine, lane, slow=True)
    assert went == [1, 2, 4, 8]


def test_two_processes_never_probe_the_same_endpoint(engine: Engine) -> None:
    for name in ("a", "b", "c"):
        _trip(engine, add_lane(engine, name))
    assert len(_freeze(engine)) == 3
    _later(engine, probe_at=31)
    with ThreadPoolExecutor(4) as pool:
        taken = [due for some in pool.map(lambda _: _take(engine), range(8)) for due in some]
    assert len(taken) == len({due.endpoint_id for due in taken}) == 3
    # One dies with its leases; after them somebody else goes on, and the dead one's word is void.
    _later(engine, lease_until=31)
    again = _take(engine)
    assert {due.claim_no for due in again} == {2}
    late = Probe(due=taken[0], code="acked", status=200)
    assert freeze_probes.settle(engine, late, manner=_MANNER) is None


def test_a_probe_that_fails_is_kept_once_and_tried_again(engine: Engine) -> None:
    _trip(engine, add_lane(engine))
    _freeze(engine)
    for code in ("connect", "connect", "timeout"):
        _later(engine, probe_at=31)
        [due] = _take(engine)
        done = freeze_probes.settle(engine, Probe(due=due, code=code), manner=_MANNER)
        assert done is not None
        assert done.move is Move.WAIT
    view = _view(engine)
    assert (view.probes, view.code, view.unfrozen_at) == (3, "timeout", None)
    why = [row.why for row in _audit(engine) if row.action == "endpoint.probe"]
    assert why == ["it is still frozen: connect", "it is still frozen: timeout"]


def test_one_that_fails_again_right_away_waits_longer(engine: Engine) -> None:
    lane = add_lane(engine)
    waits = []
    for times in (3, 4, 5):
        _trip(engine, lane, times)
        assert _freeze(engine) == ["acme"]
        view = _view(engine)
        waits.append(round((view.probe_at - view.frozen_at).total_seconds()))
        _later(engine, probe_at=999)
        [due] = _take(engine)
        freeze_probes.settle(engine, Probe(due=due, code="acked", status=200), manner=_MANNER)
    assert waits == [30, 60, 120]
    # Once it has recovered, its breaker counts from one again.
    _trip(engine, lane, 3)
    _freeze(engine)
    assert _view(engine).times == 1


def test_a_person_goes_before_a_probe_that_is_on_its_way(
    working: Runtime, merchant: Receiver
) -> None:
    engine, endpoints = working.desk.engine, working.desk.endpoints
    endpoint = _frozen(working, merchant, "/success")
    [due] = _take(engine)
    endpoints.pause(endpoint.name, who="li", why="they asked")
    done = freeze_probes.settle(engine, Probe(due=due, code="acked", status=200), manner=_MANNER)
    assert done is None
    assert _state(engine) == ("paused", "they asked")
    assert _view(engine, endpoint.id).unfrozen_by == "li"


def _freezer(working: Runtime, **changes: Any) -> Freezer:
    chosen = working.desk.settings.model_copy(update=changes)
    return Freezer(working.desk.engine, working.desk.sealer, chosen, runtime.breaker_policy(chosen))


def _frozen(working: Runtime, merchant: Receiver, path: str, **fields: Any) -> Endpoint:
    """An endpoint that was frozen and whose probe is due."""
    endpoint = add_endpoint(working, merchant, path, **fields)
    _trip(working.desk.engine, endpoint.id)
    assert _freezer(working).freeze() == 1
    _later(working.desk.engine, probe_at=31)
    return working.desk.endpoints.get(endpoint.id)


def _pings(merchant: Receiver, path: str) -> int:
    return sum(record.path == path for record in merchant.ledger())


def test_one_whose_other_route_answers_is_let_go(working: Runtime, merchant: Receiver) -> None:
    merchant.control("spare", 503)
    endpoint = add_endpoint(working, merchant, "/503")
    working.desk.endpoints.change_routes(
        endpoint.name,
        lambda before: endpoint_routes.added(before, merchant.url("/toggle/spare"), weight=0),
        action="endpoint.route.add",
        who="li",
        why="their second site",
    )
    _trip(working.desk.engine, endpoint.id)
    assert _freezer(working).freeze() == 1
    _later(working.desk.engine, probe_at=31)
    assert _freezer(working).probe() == {"probed": 1}
    merchant.control("spare", 200)
    _later(working.desk.engine, probe_at=31)
    assert _freezer(working).probe() == {"probed": 1, Move.UNFREEZE: 1}
    assert working.desk.endpoints.get(endpoint.id).state is EndpointState.ACTIVE


def test_the_ping_is_judged_by_the_endpoints_own_ack_rule(
    working: Runtime, merchant: Receiver
) -> None:
    # 200, but not the word.
    merchant.control("own", 200)
    endpoint = _frozen(working, merchant, "/toggle/own", ack="200 exact:success-not")
    assert _freezer(working).probe() == {"probed": 1}
    assert _view(working.desk.engine, endpoint.id).code == "not_acked"
    working.desk.endpoints.update(endpoint.name, who="li", why="w", ack="200")
    _later(working.desk.engine, probe_at=31)
    assert _freezer(working).probe() == {"probed": 1, "unfreeze": 1}
    assert working.desk.endpoints.get(endpoint.id).state is EndpointState.ACTIVE
    [*_, last] = [r for r in merchant.ledger() if r.path == "/toggle/own"]
    assert last.headers["webhook-signature"].startswith("v1,")
    assert json.loads(last.body or "")["type"] == "paynotify.ping"


def test_a_changed_address_is_never_called_and_waits_for_a_person(
    working: Runtime, merchant: Receiver
) -> None:
    engine, endpoints = working.desk.engine, working.desk.endpoints
    endpoint = _frozen(working, merchant, "/success?first")
    endpoints.update(endpoint.name, who="li", why="mail", url=merchant.url("/success/taken-over"))
    assert _freezer(working).probe() == {"probed": 1, "person": 1}
    assert _pings(merchant, "/success/taken-over") == 0
    assert _state(engine) == ("frozen", URL_CHANGED)
    assert freeze_views.count(engine) == (1, 1)
    _later(engine, probe_at=999)
    assert _freezer(working).probe() == {}
    endpoints.resume(endpoint.name, who="kim", why="I called them")
    assert _state(engine) == ("active", "")
    assert _view(engine, endpoint.id).unfrozen_by == "kim"


def test_410_is_for_a_person(working: Runtime, merchant: Receiver) -> None:
    _frozen(working, merchant, "/410")
    assert _freezer(working).probe() == {"probed": 1, "gone": 1}
    assert _state(working.desk.engine) == ("gone", "the merchant answered 410 Gone")


def test_one_that_knows_no_pings_gets_one_notification_after_a_while(
    working: Runtime, merchant: Receiver
) -> None:
    endpoint = _frozen(working, merchant, "/404")
    assert _freezer(working).probe() == {"probed": 1}
    _later(working.desk.engine, probe_at=31, frozen_at=1801)
    assert _freezer(working).probe() == {"probed": 1, "trial": 1}
    assert working.desk.endpoints.get(endpoint.id).state is EndpointState.ACTIVE
    [*_, kept] = _audit(working.desk.engine)
    assert (kept.action, "one notification is tried" in kept.why) == ("endpoint.unfreeze", True)


def test_hundreds_that_hang_are_waited_for_together(working: Runtime, merchant: Receiver) -> None:
    for _ in range(30):
        endpoint = add_endpoint(working, merchant, "/hang", timeout_s=0.3)
        _trip(working.desk.engine, endpoint.id)
    freezer = _freezer(working)
    assert freezer.freeze() == 30
    _later(working.desk.engine, probe_at=31)
    # One after the other would be cut by the test's own patience, not asserted on.
    assert freezer.probe() == {"probed": 30}
    assert _view(working.desk.engine, endpoint.id).code == "timeout"


def test_another_certificate_than_before_waits_for_a_person(
    sqlite_dsn: str, tmp_path: Path
) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    with office(sqlite_dsn) as working, Receiver(folder, tls="good") as merchant:
        engine = working.desk.engine
        endpoint = working.desk.endpoints.register(
            name="tls",
            merchant="tls",
            who="test",
            url=merchant.url("/success", host="localhost"),
            allowed=Allowed(ports=(merchant.port,), networks=("127.0.0.0/8", "::1/128")),
            ca_pem=authority_in(folder).certificate_pem,
        )
        # What shows a certificate and acknowledges nothing proves nothing.
        stranger = working.desk.endpoints.register(
            name="stranger",
            merchant="tls",
            who="test",
            url=merchant.url("/fail", host="localhost"),
            ack="200 exact:success",
            allowed=endpoint.allowed,
            ca_pem=endpoint.ca_pem,
        )
        tried = enqueue(working, stranger, "1")
        until(lambda: state_of(working, tried) == "waiting")
        enqueue(working, endpoint, "1")
        until(lambda: _shown(engine))
        before = _shown(engine)
        assert len(before) == 1
        _trip(engine, endpoint.id)
        assert _freezer(working).freeze() == 1
        _later(engine, probe_at=31)
        # The same certificate lets it go; another one, of the same authority, does not.
        assert _freezer(working).probe() == {"probed": 1, "unfreeze": 1}
        _trip(engine, endpoint.id)
        assert _freezer(working).freeze() == 1
        _later(engine, probe_at=999)
        merchant.stop()
        for file in folder.glob("server-*.pem"):
            file.unlink()
        merchant.start()
        assert _freezer(working).probe() == {"probed": 1, "person": 1}
        found = working.desk.endpoints.get(endpoint.id)
        assert (found.state, found.state_reason) == (EndpointState.FROZEN, CERTIFICATE_CHANGED)
        assert _shown(engine) == before


def _shown(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(select(certificate.c.sha256)))


def test_a_worker_runs_it_when_no_beat_does(working: Runtime, merchant: Receiver) -> None:
    engine = working.desk.engine
    endpoint = add_endpoint(working, merchant, "/success")
    _trip(engine, endpoint.id)
    watch = FreezeWatch(working.desk, "w1")
    done = watch.once()
    assert done is not None
    assert (done.whole, done.counts["frozen"]) == (True, 1)
    # Somebody just did.
    assert watch.once() is None
    long_ago = working.desk.store.now() - timedelta(minutes=5)
    with engine.begin() as tx:
        tx.execute(update(sweep_row).where(sweep_row.c.name == NAME).values(beat_at=long_ago))
    _later(engine, probe_at=31)
    again = watch.once()
    assert again is not None
    assert again.counts["unfreeze"] == 1


def test_the_sweep_freezes_and_pings_in_one_round(working: Runtime, merchant: Receiver) -> None:
    _frozen(working, merchant, "/success")
    assert whole_round(sweep(working.desk)) == {"frozen": 0, "probed": 1, "unfreeze": 1}


def test_people_are_told_when_one_is_frozen_and_when_it_is_let_go(
    working: Runtime, merchant: Receiver
) -> None:
    assert "endpoint-frozen" in SHIPPED.read_text()
    engine, endpoint = working.desk.engine, _frozen(working, merchant, "/success")
    book = alert_rules.load(working.desk.settings)
    failures = working.desk.settings.breaker_failures
    now = working.desk.store.now()
    alert_evaluation.evaluate(engine, book, now=now, breaker_failures=failures)
    assert _alerts(engine) == {("endpoint-frozen", endpoint.name, False)}
    _freezer(working).probe()
    alert_evaluation.evaluate(
        engine, book, now=now + timedelta(seconds=90), breaker_failures=failures
    )
    assert _alerts(engine) == {("endpoint-frozen", endpoint.name, True)}


def _alerts(engine: Engine) -> set[tuple[str, str, bool]]:
    with engine.connect() as connection:
        rows = connection.execute(select(alert).where(alert.c.measure == "endpoints_frozen"))
        return {(row.rule, row.subject, row.resolved_at is not None) for row in rows}
