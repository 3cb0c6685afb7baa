"""Notices on their way out: sinks that are down, slow, gone or refuse; nothing lost or doubled."""

import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert

from schedules.alert_delivery import deliver_due
from schedules.alert_rules import Book
from tests.alarms import at, count_up, minutes, notices_of, now_of, webhook, written
from tests.post_office import PostOffice
from tests.receiver import Receiver
from worker import alert_post, telemetry
from worker.tables_alerts import alert_delivery

RULE = '[[rule]]\nname = "dead"\nmeasure = "dead_letters"\nthreshold = 1\nwindow_s = 60\n'


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("desk")) as running:
        yield running


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    telemetry.configure("info", "json", stream)
    yield stream
    telemetry.configure("info", "json", io.StringIO())


def desk(folder: Path, url: str, *others: str, timeout_s: float = 2) -> Book:
    """A rule that tells the desk, and what else is named."""
    names = ", ".join(f'"{name}"' for name in ("desk", *others))
    sinks = webhook("desk", url, folder, timeout_s=timeout_s)
    log_sink = '[[sink]]\nname = "log"\nkind = "log"\n'
    return written(folder, f"{sinks}{log_sink}{RULE}sinks = [{names}]\n")


def mail(folder: Path, office: PostOffice, monkeypatch: pytest.MonkeyPatch) -> Book:
    """A rule that writes a letter; the address holds a password."""
    monkeypatch.setenv(
        "ALERT_MAIL",
        f"mailto://127.0.0.1:{office.port}/?from=paynotify@shop.example&to=oncall@shop.example"
        "&name=paynotify&mode=insecure",
    )
    sink = '[[sink]]\nname = "mail"\nkind = "apprise"\nurl_env = "ALERT_MAIL"\n'
    return written(folder, f'{sink}{RULE}sinks = ["mail"]\n')


def states(engine: Engine) -> list[tuple[str, str, int]]:
    return [(row.occasion, row.state, row.tries) for row in notices_of(engine)]


def heard(receiver: Receiver, url: str) -> list[str]:
    return [
        json.loads(record.body or "{}")["type"].removeprefix("paynotify.alert.")
        for record in receiver.ledger()
        if url.endswith(record.target) and record.status == 200
    ]


def test_a_sink_that_is_down_gets_everything_later_once_and_in_order(
    engine: Engine, receiver: Receiver, tmp_path: Path
) -> None:
    name = f"desk-{engine.dialect.name}"
    url = receiver.url(f"/toggle/{name}")
    receiver.control(name, 503)
    book, now = desk(tmp_path, url, "log"), now_of(engine)
    count_up(engine, 1, now, dead=1)
    at(engine, book, now)
    assert str(deliver_due(engine, book.sinks, now=now)) == "1 sent, 1 to be tried again"
    at(engine, book, now + minutes(10))
    # The end of it is not told before its beginning.
    assert deliver_due(engine, book.sinks, now=now + minutes(10)).failed == 1
    due = [row for row in notices_of(engine) if row.sink == "desk" and row.state == "due"]
    assert [row.occasion for row in due] == ["raised", "resolved"]
    assert due[0].last_error == "it answered 503"
    assert due[0].tries == 2
    receiver.control(name, 200)
    assert deliver_due(engine, book.sinks, now=now + minutes(11)).sent == 2
    assert deliver_due(engine, book.sinks, now=now + minutes(60)).sent == 0
    assert heard(receiver, url) == ["raised", "resolved"]


def test_a_sink_is_asked_less_and_less_often(engine: Engine, tmp_path: Path) -> None:
    book, now = desk(tmp_path, "http://127.0.0.1:9/"), now_of(engine)
    count_up(engine, 1, now, dead=1)
    at(engine, book, now)
    waits = []
    moment = now
    for _ in range(4):
        assert deliver_due(engine, book.sinks, now=moment).failed == 1
        [row] = notices_of(engine)
        waits.append(round((row.due_at - moment).total_seconds()))
        assert deliver_due(engine, book.sinks, now=moment + minutes(0.1)).failed == 0
        moment = row.due_at
    assert waits == [10, 20, 40, 80]


def test_a_letter_arrives_by_real_mail_and_waits_while_the_office_is_closed(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PostOffice() as office:
        book, now = mail(tmp_path, office, monkeypatch), now_of(engine)
        assert book.refused == ()
        count_up(engine, 1, now, dead=1)
        at(engine, book, now)
        office.closed = True
        assert deliver_due(engine, book.sinks, now=now).failed == 1
        assert "oncall@shop.example" not in notices_of(engine)[0].last_error
        office.closed = False
        assert deliver_due(engine, book.sinks, now=now + minutes(1)).sent == 1
        at(engine, book, now + minutes(10))
        assert deliver_due(engine, book.sinks, now=now + minutes(11)).sent == 1
    subjects = [letter["Subject"] for letter in office.letters]
    assert subjects == ["paynotify: dead raised", "paynotify: dead resolved"]
    assert "1 notifications were given up" in office.letters[0].as_string()


@pytest.mark.parametrize("path", ["/hang", "/drip-head"])
def test_a_sink_that_hangs_is_cut_at_its_deadline_and_the_others_get_theirs(
    path: str, engine: Engine, receiver: Receiver, tmp_path: Path
) -> None:
    book, now = desk(tmp_path, receiver.url(path), "log", timeout_s=1), now_of(engine)
    count_up(engine, 1, now, dead=1)
    at(engine, book, now)
    began = time.monotonic()
    done = deliver_due(engine, book.sinks, now=now)
    assert (done.sent, done.failed) == (1, 1)
    assert time.monotonic() - began < 3


def test_apprise_is_cut_at_its_deadline_even_while_bytes_still_drip(
    engine: Engine, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "tok3nthatmustnotshow"
    monkeypatch.setenv("ALERT_CHAT", f"json://127.0.0.1:{receiver.port}/drip-body?-X-Token={token}")
    sink = '[[sink]]\nname = "chat"\nkind = "apprise"\nurl_env = "ALERT_CHAT"\ntimeout_s = 2\n'
    book, now = written(tmp_path, f'{sink}{RULE}sinks = ["chat"]\n'), now_of(engine)
    count_up(engine, 1, now, dead=1)
    at(engine, book, now)
    began = time.monotonic()
    assert deliver_due(engine, book.sinks, now=now).failed == 1
    assert time.monotonic() - began < 4
    assert notices_of(engine)[0].last_error == "it took longer than 2 s"


def test_no_row_and_no_line_shows_an_address_with_its_token(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    token = "tok3nthatmustnotshow"
    monkeypatch.setenv("ALERT_CHAT", f"jsons://user:{token}@127.0.0.1:9/{token}/")
    sink = '[[sink]]\nname = "chat"\nkind = "apprise"\nurl_env = "ALERT_CHAT"\n'
    book, now = written(tmp_path, f'{sink}{RULE}sinks = ["chat"]\n'), now_of(engine)
    count_up(engine, 1, now, dead=1)
    at(engine, book, now)
    assert deliver_due(engine, book.sinks, now=now).failed == 1
    row = notices_of(engine)[0]
    assert row.last_error
    assert token not in f"{row} {log.getvalue()} {book}"


def test_two_senders_at_once_send_each_notice_once(
    engine: Engine, receiver: Receiver, tmp_path: Path
) -> None:
    url = receiver.url("/200", case=f"two-{engine.dialect.name}")
    sink = webhook("desk", url, tmp_path)
    rules = "".join(
        RULE.replace('"dead"', f'"dead-{number}"') + 'sinks = ["desk"]\n' for number in range(6)
    )
    book, now = written(tmp_path, sink + rules), now_of(engine)
    count_up(engine, 1, now, dead=1)
    assert at(engine, book, now).opened == 6
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: deliver_due(engine, book.sinks, now=now).sent, range(3)))
    assert sum(done) == 6
    ids = [r.message_id for r in receiver.ledger() if url.endswith(r.target)]
    assert (len(ids), len(set(ids))) == (6, 6)


def test_what_a_killed_sender_held_is_sent_when_its_lease_is_over(
    engine: Engine, receiver: Receiver, tmp_path: Path
) -> None:
    url = receiver.url("/200", case=f"killed-{engine.dialect.name}")
    book, now = desk(tmp_path, url), now_of(engine)
    count_up(engine, 1, now, dead=1)
    at(engine, book, now)
    held = alert_post.claim(engine, now=now, lease_s=90)
    assert held is not None
    assert deliver_due(engine, book.sinks, now=now + minutes(1)).sent == 0
    assert deliver_due(engine, book.sinks, now=now + minutes(2)).sent == 1
    # The one that only slept comes too late to say anything.
    assert not alert_post.failed(engine, held, "too late", now=now + minutes(3))
    assert states(engine) == [("raised", "sent", 2)]


def test_a_notice_nobody_takes_for_a_week_goes_to_the_log(
    engine: Engine, tmp_path: Path, log: io.StringIO
) -> None:
    book, now = desk(tmp_path, "http://127.0.0.1:9/"), now_of(engine)
    count_up(engine, 1, now, dead=1)
    at(engine, book, now)
    week = minutes(7 * 24 * 60)
    assert deliver_due(engine, book.sinks, now=now + week - minutes(1)).failed == 1
    assert deliver_due(engine, book.sinks, now=now + week + minutes(60)).given_up == 1
    assert "alert.given_up" in log.getvalue()
    assert "1 notifications were given up" in log.getvalue()


def test_a_notice_without_its_alert_is_given_up_and_keeps_nobody_waiting(
    engine: Engine, tmp_path: Path, log: io.StringIO
) -> None:
    now = now_of(engine)
    with engine.begin() as tx:
        tx.execute(
            insert(alert_delivery).values(
                alert_id=99,
                occasion="raised",
                sink="log",
                text="an old one",
                written_at=now,
                due_at=now - minutes(1),
            )
        )
    book = written(tmp_path, f'[[sink]]\nname = "log"\nkind = "log"\n{RULE}')
    count_up(engine, 1, now, dead=1)
    at(engine, book, now)
    assert deliver_due(engine, book.sinks, now=now).sent == 1
    assert [(row.alert_id, row.state) for row in notices_of(engine)] == [
        (99, "given_up"),
        (1, "sent"),
    ]
    assert "its alert is no more" in log.getvalue()
    assert "an old one" in log.getvalue()


def test_a_notice_for_a_sink_that_is_not_there_waits_for_it(
    engine: Engine, receiver: Receiver, tmp_path: Path
) -> None:
    url = receiver.url("/200", case=f"absent-{engine.dialect.name}")
    book, now = desk(tmp_path, url), now_of(engine)
    count_up(engine, 1, now, dead=1)
    at(engine, book, now)
    assert deliver_due(engine, {}, now=now).failed == 1
    assert "no sink 'desk'" in notices_of(engine)[0].last_error
    assert deliver_due(engine, book.sinks, now=now + minutes(1)).sent == 1
