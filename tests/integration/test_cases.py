"""Cases and orders, from the terminal and from code."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select

from schedules import cases
from schedules.cases import Disagreement
from schedules.decisions import CaseReason
from tests.office import MASTER_KEY
from tests.terminal import Terminal
from worker import tables
from worker.errors import BadFieldError, NotFoundError, WrongStateError
from worker.tables_orders import evidence

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def disagreement(no: str = "A7", reason: str = "late_payment", **facts: object) -> Disagreement:
    return Disagreement(
        reason=reason,
        kind="order",
        subject_no=no,
        order_no=no,
        channel="alipay",
        merchant="m-1",
        amount_minor=1230,
        currency="CNY",
        suggestion="Look at it.",
        facts=facts or {"ours": {"state": "closed"}, "theirs": {"state": "paid"}},
    )


def see(engine: Engine, found: Disagreement, *, at: datetime = NOON) -> int:
    with engine.begin() as tx:
        return cases.see(tx, found, now=at)


def resolve(engine: Engine, case_id: int, **person: str) -> None:
    with engine.begin() as tx:
        cases.resolve(tx, case_id, **({"who": "li", "why": "done by hand"} | person))


def test_a_disagreement_is_one_case_however_often_it_is_seen(engine: Engine) -> None:
    assert see(engine, disagreement())
    assert not see(engine, disagreement(), at=NOON + timedelta(hours=1))
    assert see(engine, disagreement(reason="amount_mismatch"))
    assert see(engine, disagreement("B8"))
    first, *_ = found = cases.find(engine)
    assert len(found) == 3
    assert (first.times_seen, first.opened_at, first.seen_at) == (
        2,
        NOON,
        NOON + timedelta(hours=1),
    )


def test_what_a_person_resolved_stays_so_until_the_facts_change(engine: Engine) -> None:
    see(engine, disagreement())
    resolve(engine, cases.find(engine)[0].id)
    assert not see(engine, disagreement())
    assert cases.find(engine) == []
    assert see(engine, disagreement(theirs={"state": "refunded"}))
    with engine.begin() as tx:
        assert cases.heal(tx, "order", ("A7",), CaseReason, now=NOON) == 1
    assert see(engine, disagreement(theirs={"state": "refunded"})), "healed is not resolved"


def test_resolving_needs_a_person_and_a_reason_and_is_audited(engine: Engine) -> None:
    see(engine, disagreement())
    [case] = cases.find(engine)
    for person in ({"who": " "}, {"why": ""}):
        with pytest.raises(BadFieldError):
            resolve(engine, case.id, **person)
    with pytest.raises(NotFoundError):
        resolve(engine, 4711)
    resolve(engine, case.id)
    with pytest.raises(WrongStateError, match="resolved by li"):
        resolve(engine, case.id)
    with engine.connect() as connection:
        [row] = connection.execute(select(tables.audit)).all()
    assert (row.actor, row.action, row.subject, row.why) == (
        "li",
        "case.resolve",
        f"case/{case.id}",
        "done by hand",
    )


@pytest.fixture
def terminal(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Terminal:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "paynotify.toml").write_text("")
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(tmp_path / "config" / "paynotify.toml"))
    monkeypatch.setenv("PAYNOTIFY_DATABASE_URL", dsn)
    monkeypatch.setenv("PAYNOTIFY_MASTER_KEY", MASTER_KEY)
    return Terminal(capsys)


def test_an_operator_lists_shows_and_resolves(terminal: Terminal, engine: Engine) -> None:
    see(engine, disagreement())
    see(engine, disagreement("B8\x1b[2J", "too_old"))
    listed = terminal.ok("case", "list", "--json").lines
    assert [one["reason"] for one in listed] == ["late_payment", "too_old"]
    assert listed[0]["facts"]["theirs"] == {"state": "paid"}
    for_people = terminal.ok("case", "list").out
    assert "12.30 CNY" in for_people
    assert "\x1b" not in for_people
    assert "Look at it." in terminal.ok("case", "show", listed[0]["id"]).out
    refused = terminal("case", "resolve", listed[0]["id"])
    assert refused.code == 1
    assert "--why: is missing" in refused.err
    terminal.ok("case", "resolve", listed[0]["id"], "--who", "li", "--why", "refunded by hand")
    assert len(terminal.ok("case", "list", "--json").lines) == 1
    assert len(terminal.ok("case", "list", "--all", "--json").lines) == 2
    again = terminal("case", "resolve", listed[0]["id"], "--why", "x")
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "no case '4711'" in terminal("case", "show", "4711").err


def test_an_operator_adds_an_order_and_its_refund(terminal: Terminal) -> None:
    words = ("order", "add", "A7", "--merchant", "m-1", "--channel", "alipay")
    made = terminal.ok(*words, "--amount", "12.30", "--expires-in", "30m", "--json").json
    assert (made["amount_minor"], made["state"]) == (1230, "pending")
    assert "is pending" in terminal.ok(*words, "--amount", "12.3").out
    assert "amount_minor 1230, not 1231" in terminal(*words, "--amount", "12.31").err
    assert "digits with at most 2 decimal places" in terminal(*words, "--amount", "12.345").err
    assert terminal(*words, "--amount", "1e3").code == 1
    assert terminal.ok("order", "refund", "R1", "--order", "A7", "--amount", "2").out
    shown = terminal.ok("order", "show", "A7", "--json").json
    assert shown["refunds"][0]["amount_minor"] == 200
    assert "2.00 CNY, processing" in terminal.ok("order", "show", "A7").out
    assert "no order 'nobody'" in terminal("order", "show", "nobody").err
    assert "our own table" in terminal.ok("order", "check").out


def test_what_is_odd_about_a_new_order_is_said_and_it_is_written_all_the_same(
    terminal: Terminal, tmp_path: Path
) -> None:
    words = ("order", "add", "A7", "--merchant", "m-1", "--channel", "alipai", "--amount", "1")
    said = terminal.ok(*words).err
    assert "no channel 'alipai'" in said
    assert "merchant m-1 has no endpoint yet" in said
    (tmp_path / "config" / "channels.toml").write_text(
        '[alipai]\nadapter = "stripe"\ncurrency = "USD"\nsecret_key_env = "KEY"\n'
    )
    assert "channels.toml is wrong" in terminal.ok(*words).err
    terminal.ok("endpoint", "add", "e", "--merchant", "m-1", "--url", "https://m-1.com/")
    assert "no endpoint" not in terminal.ok(*words).err


def test_an_unknown_answer_is_shown_with_the_channels_words(
    terminal: Terminal, engine: Engine
) -> None:
    terminal.ok("order", "add", "A7", "--merchant", "m", "--channel", "gone", "--amount", "1")
    theirs = {"state": "unknown", "detail": "no channel 'gone' in channels.toml"}
    with engine.begin() as tx:
        tx.execute(
            insert(evidence).values(
                **dict.fromkeys(("ours", "route", "reply_sha256", "done"), ""),
                kind="order",
                subject_no="A7",
                order_no="A7",
                channel="gone",
                theirs=json.dumps(theirs),
                decision="unknown",
            )
        )
    assert "unknown: no channel 'gone'" in " ".join(terminal.ok("order", "show", "A7").out.split())


def test_a_wrong_orders_file_is_told_line_by_line(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "config" / "orders.toml").write_text(
        '[policy]\nlate_payment = "maybe"\nunanswered_after = 0\nfoo = 1\n'
    )
    said = terminal("order", "check")
    assert said.code == 1
    assert len(said.err.strip().splitlines()) == 3
    assert "orders.toml: policy.late_payment: must be one of 'human' or 'promote'" in said.err
    assert "orders.toml: policy.foo: no such option" in said.err
