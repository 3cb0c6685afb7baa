"""``paynotify enqueue|show|list|cancel|dead …`` and ``status`` on both databases."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from tests.office import MASTER_KEY
from tests.seeding import DEAD, RETRY, settle, store_on
from tests.terminal import Terminal
from worker import tables
from worker.cli_input import moment
from worker.errors import BadFieldError
from worker.models import Pool

CARD = "4111111111111111"


@pytest.fixture
def terminal(
    dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    monkeypatch.setenv("PAYNOTIFY_DATABASE_URL", dsn)
    monkeypatch.setenv("PAYNOTIFY_MASTER_KEY", MASTER_KEY)
    monkeypatch.setenv("PAYNOTIFY_DATA_DIR", str(tmp_path / "data"))
    made = Terminal(capsys)
    words = ("endpoint", "add", "acme", "--merchant", "m-1", "--url", "https://acme.com/cb")
    made.ok(*words, "--event", "payment.*")
    return made


def _enqueue(terminal: Terminal, key: str = "A7:paid", *more: object) -> int:
    said = terminal.ok(
        *("enqueue", "--merchant", "m-1", "--type", "payment.succeeded", "--key", key),
        *("--payload", json.dumps({"card": CARD, "sign": "abcdef"}), "--json", *more),
    )
    [row_id] = said.json["ids"]
    return int(row_id)


def _die(engine: Engine, *, evidence: str = "") -> None:
    """Let everything that is due die, with hostile last words."""
    store = store_on(engine)
    settle(store, store.claim(Pool.FAST, limit=200, worker="w").rows, DEAD)
    if evidence:
        with engine.begin() as tx:
            tx.execute(update(tables.attempt).values(evidence=evidence))
            tx.execute(update(tables.dead_letter).values(last_reply=evidence))


def test_an_enqueued_event_is_shown_by_id_message_and_order(terminal: Terminal) -> None:
    row_id = _enqueue(terminal, "A7:paid", "--order", "A-7")
    by_id = terminal.ok("show", row_id, "--json").json
    assert (by_id["id"], by_id["state"], by_id["order_no"]) == (row_id, "pending", "A-7")
    assert by_id["timeline"][0]["what"] == "enqueued"
    assert terminal.ok("show", by_id["message_id"], "--json").json == by_id
    assert terminal.ok("show", "A-7", "--json").json == by_id
    for_people = terminal.ok("show", "A-7").out
    assert "due, waits for a worker" in for_people
    assert "payment.succeeded" in for_people


def test_an_order_shows_all_its_notifications(terminal: Terminal) -> None:
    ids = [_enqueue(terminal, f"A7:{n}", "--order", "A-7") for n in range(2)]
    assert [line["id"] for line in terminal.ok("show", "A-7", "--json").lines] == ids


def test_an_order_number_of_digits_is_found_and_an_id_goes_before_it(terminal: Terminal) -> None:
    long_no = "20260131120000123456"
    first = _enqueue(terminal, "k1", "--order", long_no)
    assert terminal.ok("show", long_no, "--json").json["id"] == first
    second = _enqueue(terminal, "k2", "--order", first)
    both = terminal.ok("show", first, "--json")
    assert both.json["id"] == first
    assert "number of an order too" in both.err
    assert second != first


def test_times_in_json_are_iso_in_utc(terminal: Terminal) -> None:
    row_id = _enqueue(terminal)
    created = terminal.ok("show", row_id, "--json").json["created_at"]
    assert created.endswith("Z")
    assert datetime.fromisoformat(created).utcoffset() == timedelta(0)


def test_a_payload_is_masked_unless_it_is_asked_for(terminal: Terminal) -> None:
    row_id = _enqueue(terminal)
    for words in ((), ("--json",)):
        said = terminal.ok("show", row_id, *words)
        assert CARD not in said.out
        assert "abcdef" not in said.out
    assert CARD in terminal.ok("show", row_id, "--payload", "--json").json["payload"]


def test_what_a_merchant_wrote_cannot_steer_the_terminal(
    terminal: Terminal, engine: Engine
) -> None:
    row_id = _enqueue(terminal)
    _die(engine, evidence="[bold]x[/bold] \x1b[2J" + CARD)
    for words in (("show", row_id), ("dead", "list"), ("dead", "explain", 1)):
        said = terminal.ok(*words)
        assert "\x1b" not in said.out
        assert CARD not in said.out
    assert "[bold]x[/bold] \\x1b[2J" in terminal.ok("show", row_id).out


def test_enqueueing_again_changes_nothing_and_another_payload_is_refused(
    terminal: Terminal,
) -> None:
    row_id = _enqueue(terminal)
    assert _enqueue(terminal) == row_id
    words = ("enqueue", "--merchant", "m-1", "--type", "payment.succeeded", "--key", "A7:paid")
    said = terminal(*words, "--payload", "other")
    assert said.code == 1
    assert f"notification {row_id} has this key with another payload" in said.err


def test_an_event_nobody_wants_says_so(terminal: Terminal) -> None:
    words = ("enqueue", "--merchant", "m-1", "--type", "refund.done", "--key", "r")
    said = terminal.ok(*words, "--payload", "{}")
    assert "No endpoint of merchant m-1 wants refund.done" in said.err


def test_a_file_is_sent_byte_for_byte(terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "payload"
    file.write_bytes(b"\xff\x00raw")
    words = ("enqueue", "--endpoint", "acme", "--type", "t", "--key", "k", "--json")
    [row_id] = terminal.ok(*words, "--payload-file", file).json["ids"]
    shown = terminal.ok("show", row_id, "--payload", "--json").json
    assert (shown["payload"], shown["payload_bytes"]) == ("\\xff\\x00raw", 5)


def test_the_list_is_filtered_and_paged_newest_first(terminal: Terminal, engine: Engine) -> None:
    ids = [_enqueue(terminal, f"k{n}") for n in range(4)]
    _enqueue(terminal, "later", "--deliver-at", "2190-01-01T00:00:00Z")

    def listed(*words: object) -> list[int]:
        return [line["id"] for line in terminal.ok("list", "--json", *words).lines]

    assert listed("--state", "pending") == ids[::-1]
    page = listed("--state", "pending", "--limit", 2)
    assert page == ids[:1:-1]
    assert listed("--state", "pending", "--limit", 2, "--before", page[-1]) == ids[1::-1]
    assert len(listed("--state", "waiting", "--endpoint", "acme", "--merchant", "m-1")) == 1
    assert listed("--merchant", "nobody") == []
    with engine.begin() as tx:
        old = datetime(2026, 1, 1, tzinfo=UTC)
        row = tables.notification.c.id == ids[0]
        tx.execute(update(tables.notification).where(row).values(created_at=old))
    assert ids[0] not in listed("--since", "1h")
    assert ids[0] in listed("--since", "2026-01-01")
    assert f"--before {ids[3]}" in terminal.ok("list", "--limit", 2).err


def test_a_waiting_notification_is_cancelled_once_and_kept_in_the_audit_log(
    terminal: Terminal, engine: Engine
) -> None:
    row_id = _enqueue(terminal)
    assert terminal("cancel", row_id).code == 1
    words = ("cancel", row_id, "--who", "li", "--why", "a test")
    assert "is cancelled" in terminal.ok(*words).out
    again = terminal(*words)
    assert again.code == 1
    assert f"notification {row_id} is cancelled" in again.err
    with engine.connect() as connection:
        query = tables.audit.select().where(tables.audit.c.action == "notification.cancel")
        [entry] = connection.execute(query).all()
    assert (entry.actor, entry.why, entry.subject) == ("li", "a test", f"notification/{row_id}")
    story = terminal.ok("show", row_id, "--json").json["timeline"]
    assert [step["what"] for step in story] == ["enqueued", "cancelled"]


def test_dead_letters_are_listed_explained_and_redriven(terminal: Terminal, engine: Engine) -> None:
    row_id = _enqueue(terminal, "k", "--order", "A-7")
    _die(engine)
    [letter] = terminal.ok("dead", "list", "--endpoint", "acme", "--json").lines
    assert (letter["notification_id"], letter["reason"]) == (row_id, "exhausted")
    assert "A-7" in terminal.ok("dead", "list").out
    story = terminal.ok("dead", "explain", letter["id"], "--json").json
    assert [step["what"] for step in story["timeline"]] == ["enqueued", "attempt", "died"]
    words = ("dead", "redrive", letter["id"])
    assert "1 dead letter would be redriven" in terminal.ok(*words, "--dry-run").out
    person = ("--who", "li", "--why", "they are back")
    assert terminal.ok(*words, *person, "--json").json == {"done": "redriven", "count": 1}
    assert terminal.ok(*words, *person, "--json").json["count"] == 0
    assert terminal.ok("dead", "list", "--json").lines == []
    assert "redriven by li" in terminal.ok("dead", "list", "--all").out
    assert terminal.ok("show", row_id, "--json").json["state"] == "pending"


def test_dead_letters_are_discarded(terminal: Terminal, engine: Engine) -> None:
    row_id = _enqueue(terminal)
    _die(engine)
    words = ("dead", "discard", "--all", "--who", "li", "--why", "a test")
    assert terminal.ok(*words).out == "1 dead letter discarded\n"
    assert terminal.ok("show", row_id, "--json").json["state"] == "cancelled"


@pytest.mark.parametrize("verb", ["redrive", "discard"])
def test_who_why_and_which_are_needed(terminal: Terminal, engine: Engine, verb: str) -> None:
    _enqueue(terminal)
    _die(engine)
    for words, sentence in (
        (("--all", "--why", "x"), "--who: is missing"),
        (("--all", "--who", "li"), "--why: is missing"),
        (("--who", "li", "--why", "x"), "say which"),
        (("99", "--who", "li", "--why", "x"), "no dead letter '99'"),
        (("--endpoint", "acne", "--who", "li", "--why", "x"), "did you mean acme"),
    ):
        said = terminal("dead", verb, *words)
        assert said.code == 1
        assert sentence in said.err
    assert len(terminal.ok("dead", "list", "--json").lines) == 1


def test_order_and_what_took_whose_place_are_told(terminal: Terminal, engine: Engine) -> None:
    first = _enqueue(terminal, "A7:1", "--ordering-key", "A7", "--ordering-wait", 60)
    second = _enqueue(terminal, "A7:2", "--ordering-key", "A7")
    shown = terminal.ok("show", second, "--json").json
    assert (shown["state"], shown["waits_for"], shown["ordering_key"]) == ("blocked", first, "A7")
    assert terminal.ok("status", "--json").json["blocked"] == 1
    assert f"waits for {first}" in terminal.ok("show", second).out
    _die(engine)
    # The first is dead, the second is on its way: who was overtaken stays dead.
    [letter] = terminal.ok("dead", "list", "--json").lines
    assert f"overtaken by {second}" in " ".join(
        terminal.ok("dead", "explain", letter["id"]).out.split()
    )
    words = ("dead", "redrive", letter["id"], "--who", "li", "--why", "back")
    assert terminal.ok(*words, "--dry-run", "--json").json["overtaken"] == 1
    said = terminal.ok(*words)
    assert said.out == "0 dead letters redriven\n"
    assert "--out-of-order" in said.err
    third = _enqueue(terminal, "A7:3", "--ordering-key", "A7", "--supersede")
    assert terminal.ok("show", second, "--json").json["superseded_by"] == third
    told = " ".join(terminal.ok("show", second).out.split())
    assert f"state cancelled; superseded by {third}" in told
    assert terminal.ok(*words, "--out-of-order").out == "1 dead letter redriven\n"


def test_status_counts_what_is_there(terminal: Terminal, engine: Engine) -> None:
    for key in ("a", "b", "c"):
        _enqueue(terminal, key)
    store = store_on(engine)
    first, second = store.claim(Pool.FAST, limit=2, worker="w").rows
    settle(store, [first], RETRY)
    until = store.now() + timedelta(minutes=5)
    with engine.begin() as tx:
        tx.execute(update(tables.lane).values(open_until=until))
    now = terminal.ok("status", "--json").json
    counts = {name: now[name] for name in ("waiting", "pending", "sending", "dead", "held")}
    assert counts == {"waiting": 1, "pending": 1, "sending": 1, "dead": 0, "held": 0}
    assert now["open_breakers"] == 1
    assert now["lanes"][0]["endpoint"] == "acme"
    assert now["failed_per_s"] == pytest.approx(1 / 60, abs=0.01)
    assert "1 breakers open" in terminal.ok("status").out
    assert second.id != first.id


@pytest.mark.parametrize(
    "text",
    ["yesterday", "", "5 minutes", "-3h", "2026-13-01", "9999999d", "999999d", "1h30m", "0x1h"],
)
def test_a_time_nobody_can_read_is_refused(text: str) -> None:
    with pytest.raises(BadFieldError, match="--since"):
        moment(text, "--since", now=datetime(2026, 1, 1, tzinfo=UTC))
