"""``paynotify alert …`` on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from tests.alarms import alerts_of, at, count_up, minutes, notices_of, now_of, webhook, written
from tests.office import MASTER_KEY
from tests.receiver import Receiver
from tests.terminal import Terminal
from worker import tables

RULE = '[[rule]]\nname = "dead"\nmeasure = "dead_letters"\nthreshold = 1\nwindow_s = 60\n'
LOG = '[[sink]]\nname = "log"\nkind = "log"\n'


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("desk")) as running:
        yield running


@pytest.fixture
def terminal(
    dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    (tmp_path / "paynotify.toml").write_text("")
    (tmp_path / "alerts.toml").write_text(LOG + RULE)
    monkeypatch.setenv("PAYNOTIFY_CONFIG", str(tmp_path / "paynotify.toml"))
    monkeypatch.setenv("PAYNOTIFY_DATABASE_URL", dsn)
    monkeypatch.setenv("PAYNOTIFY_MASTER_KEY", MASTER_KEY)
    return Terminal(capsys)


@pytest.fixture
def alert_id(engine: Engine, tmp_path: Path) -> int:
    now = now_of(engine)
    count_up(engine, 1, now, dead=3)
    at(engine, written(tmp_path, LOG + RULE), now)
    return int(alerts_of(engine)[0].id)


def test_an_open_alert_is_listed_and_taken_up(
    terminal: Terminal, alert_id: int, engine: Engine
) -> None:
    said = terminal.ok("alert", "list")
    assert "3 notifications were given up within 60 s" in said.out
    [shown] = terminal.ok("alert", "list", "--json").lines
    assert (shown["id"], shown["rule"], shown["severity"]) == (alert_id, "dead", "warning")
    assert "li" in terminal.ok("alert", "ack", alert_id, "--who", "li").out
    assert "taken up by li" in terminal.ok("alert", "list").out
    with engine.connect() as connection:
        assert connection.scalar(select(tables.audit.c.actor)) == "li"


def test_an_alert_that_is_over_is_listed_only_when_asked_for(
    terminal: Terminal, alert_id: int, engine: Engine, tmp_path: Path
) -> None:
    at(engine, written(tmp_path, LOG + RULE), now_of(engine) + minutes(10))
    assert terminal.ok("alert", "list", "--json").lines == []
    [shown] = terminal.ok("alert", "list", "--all", "--json").lines
    assert shown["resolved_at"] is not None
    said = terminal("alert", "ack", alert_id)
    assert (said.code, said.err) == (
        1,
        f"paynotify: alert {alert_id} is over; there is nothing to take up\n",
    )


def test_a_silence_is_shown_kept_and_ended(
    terminal: Terminal, engine: Engine, tmp_path: Path
) -> None:
    terminal.ok("alert", "silence", "dead", "--for", "2h", "--who", "li", "--why", "moving")
    listed = terminal.ok("alert", "list")
    assert "rule dead, subject *, by li (moving)" in listed.err
    count_up(engine, 1, now_of(engine), dead=3)
    at(engine, written(tmp_path, LOG + RULE), now_of(engine))
    assert "silenced" in terminal.ok("alert", "list").out
    assert notices_of(engine) == []
    terminal.ok("alert", "silence", "--end", 1, "--who", "li")
    assert terminal.ok("alert", "list").err == ""


def test_a_test_notice_arrives_at_the_sink_or_says_why_not(
    terminal: Terminal, receiver: Receiver, tmp_path: Path
) -> None:
    good = webhook("desk", receiver.url("/200", case=tmp_path.name), tmp_path)
    bad = webhook("broken", receiver.url("/503"), tmp_path)
    (tmp_path / "alerts.toml").write_text(LOG + good + bad + RULE)
    assert terminal.ok("alert", "test", "desk").out == "sink desk took the test notice\n"
    assert any(f"case={tmp_path.name}" in record.target for record in receiver.ledger())
    said = terminal("alert", "test", "broken")
    assert (said.code, said.err) == (
        1,
        "paynotify: sink broken: not taken: it answered 503\n",
    )


def test_the_rules_are_listed_with_what_is_wrong_in_their_file(
    terminal: Terminal, tmp_path: Path
) -> None:
    assert "dead_letters" in terminal.ok("alert", "rules").out
    broken = RULE.replace('"dead"', '"other"').replace("threshold", "treshold")
    (tmp_path / "alerts.toml").write_text(LOG + RULE + broken)
    said = terminal("alert", "rules", "--json")
    assert said.code == 1
    assert [rule["name"] for rule in said.lines] == ["dead"]
    assert "line 12: treshold: no such field; did you mean threshold?" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("silence", "deda", "--for", "2h", "--why", "x"), "did you mean dead?"),
        (("silence", "dead", "--why", "x"), "--for: is missing"),
        (("silence", "dead", "--for", "2h"), "--why: is missing"),
        (("silence", "dead", "--for", "99d", "--why", "x"), "--for: must be more than 0"),
        (("silence", "dead", "--for", "soon", "--why", "x"), "is no length of time"),
        (("silence", "--end", "7"), "no silence in force '7'"),
        (("test", "lgo"), "no sink 'lgo'; did you mean log?"),
        (("ack", "7"), "no alert '7'"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], said: str, terminal: Terminal) -> None:
    answered = terminal("alert", *words)
    assert answered.code == 1
    assert said in answered.err
    assert len(answered.err.splitlines()) == 1
