"""The registry on both databases: changes, lanes, audit, secrets, and the workers' book."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, Row, event, insert, select, update

from tests.certificates import authority
from worker import columns, tables
from worker.endpoint_book import EndpointBook
from worker.endpoint_fields import Fields
from worker.endpoints import Endpoints
from worker.errors import (
    BadFieldError,
    NotFoundError,
    SecretError,
    UrlRefusedError,
    WrongStateError,
)
from worker.models import AckRule, Allowed, BodyRule, Endpoint, EndpointState, Schedule
from worker.sealing import Sealer

URL = "https://pay.example.com/notify?shop=1"
SEALER = Sealer(b"k" * 32)
CERTIFICATE = authority()


@pytest.fixture
def endpoints(engine: Engine) -> Endpoints:
    return Endpoints(engine, SEALER)


def _lanes(engine: Engine, endpoint_id: int) -> list[Row[Any]]:
    with engine.connect() as connection:
        query = select(tables.lane).where(tables.lane.c.endpoint_id == endpoint_id)
        return list(connection.execute(query.order_by(tables.lane.c.id)))


def _audit(engine: Engine) -> list[Row[Any]]:
    with engine.connect() as connection:
        return list(connection.execute(select(tables.audit).order_by(tables.audit.c.id)))


def _add(endpoints: Endpoints, name: str = "acme", **more: Any) -> Any:
    given: dict[str, Any] = {"merchant": "m-1", "url": URL, "who": "li"} | more
    return endpoints.register(name=name, **given)


def test_every_field_comes_back_as_it_was_registered(endpoints: Endpoints) -> None:
    made = endpoints.register(
        name="acme.cn-1",
        merchant="shop@77",
        url="http://10.1.2.3:8080/cb",
        who="li",
        events=("payment.*", "refund.done"),
        ack="200-204 exact:success",
        method="put",
        content_type="application/json; charset=utf-8",
        timeout_s=7.5,
        schedules={"*": "60,300", "refund.*": Schedule(delays_s=(1, 2), jitter_ratio=0)},
        terminal_statuses=[404, 403],
        rate_per_s=2.5,
        in_flight_cap=7,
        allowed=Allowed(http=True, ports=(8080,), networks=("10.1.0.0/16",)),
    )
    found = endpoints.find("acme.cn-1")
    assert found.merchant == "shop@77"
    assert found.events == ("payment.*", "refund.done")
    assert found.ack == AckRule(statuses=((200, 204),), body=BodyRule.EXACT, expected="success")
    assert found.method == "PUT"
    assert found.content_type == "application/json; charset=utf-8"
    assert found.timeout_s == 7.5
    assert found.schedules == (
        ("refund.*", Schedule(delays_s=(1, 2), jitter_ratio=0)),
        ("*", Schedule(delays_s=(60, 300))),
    )
    assert found.terminal_statuses == (403, 404)
    assert found.allowed == Allowed(http=True, ports=(8080,), networks=("10.1.0.0/16",))
    assert (found.rate_per_s, found.in_flight_cap, found.config_no) == (2.5, 7, 1)
    assert found.secrets == ()
    assert made.secrets[0].value.startswith("whsec_")
    assert endpoints.get(made.id) == found
    assert endpoints.of_merchant("shop@77") == (found,)
    assert endpoints.list() == (found,)


def test_an_endpoint_is_born_with_its_lane(engine: Engine, endpoints: Endpoints) -> None:
    made = _add(endpoints, rate_per_s=3, in_flight_cap=9)
    (lane,) = _lanes(engine, made.id)
    assert (lane.host, lane.held, lane.in_flight_cap, lane.rate_per_s) == ("", False, 9, 3)
    assert lane.config_no == made.config_no


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("name", {"name": "Acme"}),
        ("name", {"name": "a" * 65}),
        ("merchant", {"merchant": "m 1"}),
        ("merchant", {"merchant": "m" * 65}),
        ("url", {"url": "https://127.0.0.1/"}),
        ("url", {"url": "http://pay.example.com/"}),
        ("events", {"events": ()}),
        ("events[1]", {"events": ("payment.*", "pay*")}),
        ("ack", {"ack": "3xx"}),
        ("ack", {"ack": "2xx perhaps"}),
        ("method", {"method": "DELETE"}),
        ("content_type", {"content_type": "json\r\nX: 1"}),
        ("timeout_s", {"timeout_s": 0.5}),
        ("timeout_s", {"timeout_s": float("nan")}),
        ("schedules[*]", {"schedules": "60,soon"}),
        ("schedules[*]", {"schedules": "0"}),
        ("schedules[pay*]", {"schedules": {"pay*": "60"}}),
        ("terminal_statuses", {"terminal_statuses": (200,)}),
        ("rate_per_s", {"rate_per_s": 0.01}),
        ("in_flight_cap", {"in_flight_cap": 0}),
        ("in_flight_cap", {"in_flight_cap": True}),
        ("allowed.ports[0]", {"allowed": Allowed(ports=(0,))}),
        ("allowed.networks[0]", {"allowed": Allowed(networks=("0.0.0.0/0",))}),
        ("ca_pem", {"ca_pem": "no certificate"}),
        ("client_pem", {"client_pem": "no key"}),
        ("ca_pem", {"ca_pem": f"# Prüfstelle\n{CERTIFICATE.certificate_pem}"}),
        ("client_pem", {"client_pem": f"# Prüfstelle\n{CERTIFICATE.pem}"}),
        ("ca_pem", {"ca_pem": "\ud800"}),
        ("scheme", {"scheme": "rot13"}),
        ("secret", {"secret": "short"}),
        ("who", {"who": " "}),
        ("tmeout_s", {"tmeout_s": 3}),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_written(
    engine: Engine, endpoints: Endpoints, field: str, given: dict[str, Any]
) -> None:
    with pytest.raises(BadFieldError) as caught:
        _add(endpoints, **({"name": "acme"} | given))
    assert caught.value.field == field
    assert endpoints.list() == ()
    assert _audit(engine) == []


def test_a_name_is_taken_for_ever(endpoints: Endpoints) -> None:
    _add(endpoints)
    endpoints.delete("acme", who="li", why="contract ended")
    with pytest.raises(BadFieldError, match="taken"):
        _add(endpoints)


def test_an_update_reaches_every_lane_in_the_same_breath(
    engine: Engine, endpoints: Endpoints
) -> None:
    made = _add(endpoints)
    with engine.begin() as connection:
        connection.execute(
            insert(tables.lane).values(endpoint_id=made.id, host="https://o.example.com:443")
        )
    after = endpoints.update("acme", who="wang", why="slow", in_flight_cap=3, rate_per_s=1)
    assert after.config_no == 2
    assert after.url == URL
    lanes = _lanes(engine, made.id)
    assert [(lane.in_flight_cap, lane.rate_per_s, lane.config_no) for lane in lanes] == [
        (3, 1, 2)
    ] * 2


def test_an_update_that_is_refused_changes_nothing(engine: Engine, endpoints: Endpoints) -> None:
    made = _add(endpoints)
    with pytest.raises(UrlRefusedError):
        endpoints.update("acme", who="li", why="move", url="https://10.0.0.1/", in_flight_cap=3)
    assert endpoints.find("acme").in_flight_cap == made.in_flight_cap
    assert len(_audit(engine)) == 1


def test_an_encoding_that_cannot_carry_the_fields_is_refused(endpoints: Endpoints) -> None:
    names = {"amount": "payload.a", "amount.total": "payload.b"}
    _add(endpoints, scheme="plain-hmac", encoding="form", fields=names)
    with pytest.raises(BadFieldError, match=r"fields\.amount\.total"):
        endpoints.update("acme", who="li", why="w", encoding="json")


def test_taking_an_exception_away_is_refused_while_the_url_needs_it(endpoints: Endpoints) -> None:
    _add(endpoints, url="http://pay.example.com/", allowed=Allowed(http=True))
    with pytest.raises(UrlRefusedError) as caught:
        endpoints.update("acme", who="li", why="tidy", allowed=Allowed())
    assert caught.value.field == "url"


def test_pause_holds_all_lanes_and_resume_lets_go(engine: Engine, endpoints: Endpoints) -> None:
    made = _add(endpoints)
    paused = endpoints.pause("acme", who="li", why="merchant moves house")
    assert (paused.state, paused.state_reason) == (EndpointState.PAUSED, "merchant moves house")
    assert _lanes(engine, made.id)[0].held
    endpoints.resume("acme", who="li", why="moved")
    assert not _lanes(engine, made.id)[0].held
    assert endpoints.find("acme").state_reason == ""
    assert endpoints.find("acme").config_no == 3


@pytest.mark.parametrize("verb", ["pause", "resume", "delete"])
def test_who_and_why_are_required(endpoints: Endpoints, verb: str) -> None:
    _add(endpoints)
    with pytest.raises(BadFieldError) as caught:
        getattr(endpoints, verb)("acme", who="li", why="")
    assert caught.value.field == "why"


def test_a_deleted_endpoint_stays_deleted(engine: Engine, endpoints: Endpoints) -> None:
    made = _add(endpoints)
    endpoints.delete("acme", who="li", why="contract ended")
    assert _lanes(engine, made.id)[0].held
    assert endpoints.list() == ()
    assert [e.name for e in endpoints.list(with_deleted=True)] == ["acme"]
    assert endpoints.of_merchant("m-1") == ()
    with pytest.raises(WrongStateError):
        endpoints.resume("acme", who="li", why="sorry")
    with pytest.raises(WrongStateError):
        endpoints.update("acme", who="li", why="sorry", in_flight_cap=2)
    with pytest.raises(WrongStateError):
        endpoints.rotate_secret("acme", who="li", why="sorry")


def test_gone_holds_once_and_only_a_person_resumes(engine: Engine, endpoints: Endpoints) -> None:
    made = _add(endpoints)
    assert endpoints.mark_gone(made.id) is True
    assert endpoints.mark_gone(made.id) is False
    assert endpoints.find("acme").state is EndpointState.GONE
    assert _lanes(engine, made.id)[0].held
    assert endpoints.resume("acme", who="li", why="URL fixed").state is EndpointState.ACTIVE
    assert [row.action for row in _audit(engine)] == [
        "endpoint.register",
        "endpoint.gone",
        "endpoint.resume",
    ]


def test_gone_does_not_overrule_a_pause(endpoints: Endpoints) -> None:
    made = _add(endpoints)
    endpoints.pause("acme", who="li", why="audit")
    assert endpoints.mark_gone(made.id) is False
    assert endpoints.find("acme").state is EndpointState.PAUSED


def test_an_unknown_name_is_answered_with_the_nearest(endpoints: Endpoints) -> None:
    _add(endpoints, name="acme-shop")
    with pytest.raises(NotFoundError, match="did you mean acme-shop"):
        endpoints.pause("acme-shp", who="li", why="x")
    with pytest.raises(NotFoundError, match="did you mean acme-shop"):
        endpoints.find("acme-shp")
    with pytest.raises(NotFoundError):
        endpoints.get(999)


def test_the_audit_log_keeps_facts_and_no_secret(engine: Engine, endpoints: Endpoints) -> None:
    made = _add(endpoints)
    endpoints.update("acme", who="wang", why="ticket 7", timeout_s=3)
    new = endpoints.rotate_secret("acme", who="wang", why="yearly")
    rows = _audit(engine)
    assert [(row.actor, row.why) for row in rows[1:]] == [("wang", "ticket 7"), ("wang", "yearly")]
    assert json.loads(rows[1].facts)["timeout_s"] == [15.0, 3.0]
    everything = repr(rows)
    assert new not in everything
    assert made.secrets[0].value not in everything
    assert "shop=1" not in everything


def test_no_secret_stands_in_the_database_in_the_clear(
    engine: Engine, endpoints: Endpoints
) -> None:
    value = _add(endpoints).secrets[0].value
    with engine.connect() as connection:
        for table in (tables.endpoint, tables.endpoint_secret, tables.audit):
            assert value not in repr(list(connection.execute(select(table))))
            assert value.encode() not in b"".join(
                cell
                for row in connection.execute(select(table))
                for cell in row
                if isinstance(cell, bytes)
            )


def test_a_rotation_keeps_two_secrets_alive_newest_first(
    engine: Engine, endpoints: Endpoints
) -> None:
    made = _add(endpoints)
    new = endpoints.rotate_secret("acme", who="li", why="yearly")
    live = EndpointBook(engine, SEALER).at(made.id, 2).secrets
    assert [(s.version, s.value) for s in live] == [(2, new), (1, made.secrets[0].value)]


def test_a_third_secret_retires_the_first_at_once(engine: Engine, endpoints: Endpoints) -> None:
    made = _add(endpoints)
    second = endpoints.rotate_secret("acme", who="li", why="a")
    third = endpoints.rotate_secret("acme", who="li", why="b")
    live = EndpointBook(engine, SEALER).at(made.id, 3).secrets
    assert [s.value for s in live] == [third, second]


def test_a_rotation_without_overlap_leaves_one(engine: Engine, endpoints: Endpoints) -> None:
    made = _add(endpoints)
    new = endpoints.rotate_secret("acme", who="li", why="leaked", overlap=timedelta(0))
    assert [s.value for s in EndpointBook(engine, SEALER).at(made.id, 2).secrets] == [new]


@pytest.mark.parametrize("overlap", [timedelta(hours=73), timedelta(seconds=-1)])
def test_an_overlap_beyond_72_hours_is_refused(endpoints: Endpoints, overlap: timedelta) -> None:
    _add(endpoints)
    with pytest.raises(BadFieldError):
        endpoints.rotate_secret("acme", who="li", why="x", overlap=overlap)


def test_a_secret_that_retired_is_not_read_any_more(engine: Engine, endpoints: Endpoints) -> None:
    made = _add(endpoints)
    new = endpoints.rotate_secret("acme", who="li", why="yearly")
    _retire_now(engine)
    assert [s.value for s in EndpointBook(engine, SEALER).at(made.id, 2).secrets] == [new]


def _retire_now(engine: Engine, in_: timedelta = timedelta(seconds=-1)) -> None:
    secret = tables.endpoint_secret
    with engine.begin() as connection:
        now = connection.execute(select(columns.database_now())).scalar_one()
        connection.execute(
            update(secret).where(secret.c.retires_at.is_not(None)).values(retires_at=now + in_)
        )


def test_a_remembered_secret_retires_on_time_without_a_change(
    engine: Engine, endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _add(endpoints)
    new = endpoints.rotate_secret("acme", who="li", why="yearly", overlap=timedelta(hours=1))
    book = EndpointBook(engine, SEALER)
    monkeypatch.setattr("worker.clock.monotonic_s", lambda: 1000.0)
    assert len(book.at(made.id, 2).secrets) == 2
    monkeypatch.setattr("worker.clock.monotonic_s", lambda: 1000.0 + 3590)
    assert len(book.at(made.id, 2).secrets) == 2
    monkeypatch.setattr("worker.clock.monotonic_s", lambda: 1000.0 + 3601)
    assert [s.value for s in book.at(made.id, 2).secrets] == [new]
    assert [s.value for s in book.many([(made.id, 2)])[made.id].secrets] == [new]


def test_the_book_asks_once_and_again_only_for_a_newer_number(
    engine: Engine, endpoints: Endpoints
) -> None:
    made = [_add(endpoints, name=f"e{n}") for n in range(5)]
    book = EndpointBook(engine, SEALER)
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    found = book.many([(e.id, 1) for e in made])
    assert {i: e.secrets[0].value for i, e in found.items()} == {
        e.id: e.secrets[0].value for e in made
    }
    loads = len(asked)
    book.many([(e.id, 1) for e in made])
    book.at(made[0].id, 1)
    assert len(asked) == loads
    endpoints.update("e0", who="li", why="x", timeout_s=9)
    del asked[:]
    assert book.at(made[0].id, 1).timeout_s == 15
    assert asked == []
    assert book.at(made[0].id, 2).timeout_s == 9
    assert book.at(made[0].id, 1).timeout_s == 9


def test_an_unreadable_secret_spoils_only_its_own_endpoint(
    engine: Engine, endpoints: Endpoints
) -> None:
    good = _add(endpoints, name="good")
    bad = Endpoints(engine, Sealer(b"x" * 32)).register(name="bad", merchant="m", url=URL, who="li")
    book = EndpointBook(engine, SEALER)
    assert set(book.many([(good.id, 1), (bad.id, 1), (999, 1)])) == {good.id}
    with pytest.raises(SecretError, match=f"endpoint/{bad.id}/secret/1"):
        book.at(bad.id, 1)
    with pytest.raises(NotFoundError):
        book.at(999, 1)


@pytest.mark.parametrize(
    "config", ['{"ack": {"statuses": [], "body": "xpath"}}', "7", "no json", '{"allowed": 7}']
)
def test_a_configuration_of_another_version_spoils_only_its_own_endpoint(
    engine: Engine, endpoints: Endpoints, caplog: pytest.LogCaptureFixture, config: str
) -> None:
    good, bad = _add(endpoints, name="good"), _add(endpoints, name="bad")
    with engine.begin() as connection:
        connection.execute(
            update(tables.endpoint).where(tables.endpoint.c.id == bad.id).values(config=config)
        )
    book = EndpointBook(engine, SEALER)
    assert set(book.many([(bad.id, 1), (good.id, 1)])) == {good.id}
    assert f"endpoint {bad.id} cannot be read" in caplog.text


def test_swapped_secrets_of_two_merchants_do_not_open(engine: Engine, endpoints: Endpoints) -> None:
    one, two = _add(endpoints, name="one"), _add(endpoints, name="two")
    secret = tables.endpoint_secret
    with engine.begin() as connection:
        rows = connection.execute(select(secret.c.endpoint_id, secret.c.sealed))
        sealed = {row.endpoint_id: row.sealed for row in rows}
        for mine, other in ((one.id, two.id), (two.id, one.id)):
            connection.execute(
                update(secret).where(secret.c.endpoint_id == mine).values(sealed=sealed[other])
            )
    with pytest.raises(SecretError):
        EndpointBook(engine, SEALER).at(one.id, 1)


def test_the_fields_are_those_of_an_endpoint() -> None:
    assert set(Fields.__annotations__) <= set(Endpoint.__dataclass_fields__)
