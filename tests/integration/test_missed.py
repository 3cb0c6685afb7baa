"""What a merchant missed: page by page, whatever settles meanwhile, and provably ours."""

import csv
import io
import json
import signal
import stat
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, update
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.office import MASTER_KEY
from tests.seeding import DEAD, RETRY, settle, store_on
from tests.terminal import Terminal
from worker import missed, missed_file, missed_proof, tables
from worker.bootstrap import ROOT
from worker.client import Enqueue, Notifier
from worker.endpoints import Endpoints
from worker.errors import BadFieldError, NotFoundError
from worker.missed import Page
from worker.missed_file import Form, Sink, Wanted
from worker.models import Pool
from worker.sealing import Sealer

_HOUR = timedelta(hours=1)
_SEALER = Sealer(bytes(32))
_CARD = "4111111111111111"


@pytest.fixture
def secret(engine: Engine) -> str:
    """Of the endpoint ``acme``, which is registered."""
    return _register(engine, "acme")


def _register(engine: Engine, name: str) -> str:
    made = Endpoints(engine, _SEALER).register(
        name=name, merchant=name, url="https://acme.example.com/pay?key=k", who="li"
    )
    return made.secrets[0].value


def _enqueue(engine: Engine, count: int, name: str = "acme", **fields: Any) -> list[int]:
    payload = fields.pop("payload", {"order_no": "A1", "amount": 12900, "card": _CARD})
    with engine.begin() as tx:
        first = tx.execute(select(tables.notification.c.id)).all()
        events = [
            Enqueue(
                endpoint=name,
                event_type="payment.succeeded",
                event_key=f"{name}-{len(first)}-{number}",
                payload=payload,
                **fields,
            )
            for number in range(count)
        ]
        return [id_ for [id_] in Notifier(None).enqueue_many(tx, events)]


def _pages(engine: Engine, **wanted: Any) -> list[Page]:
    found = [missed.page(engine, _SEALER, endpoint="acme", **wanted)]
    while found[-1].cursor:
        limit = {"limit": wanted["limit"]} if "limit" in wanted else {}
        found.append(
            missed.page(engine, _SEALER, endpoint="acme", cursor=found[-1].cursor, **limit)
        )
    return found


def _since(engine: Engine) -> datetime:
    return store_on(engine).now() - _HOUR


@pytest.mark.usefixtures("secret")
def test_every_state_but_delivered_and_cancelled_is_named(engine: Engine) -> None:
    store = store_on(engine)
    ids = _enqueue(engine, 5)
    rows = {row.id: row for row in store.claim(Pool.FAST, limit=4, worker="w").rows}
    first, second, third, fourth = sorted(rows)
    settle(store, [rows[first]])
    settle(store, [rows[second]], DEAD)
    settle(store, [rows[third]], RETRY)
    [page] = _pages(engine, since=_since(engine))
    assert [row.standing.value for row in page.rows] == ["dead", "waiting", "in_flight", "waiting"]
    dead, again, flying, due = page.rows
    assert (dead.reason, dead.attempts, dead.last_status, dead.next_at) == (
        "exhausted",
        1,
        200,
        None,
    )
    assert again.next_at is not None
    assert (flying.attempts, flying.last_status) == (1, 0)
    assert due.attempts == 0
    assert fourth in ids
    Endpoints(engine, _SEALER).pause("acme", who="li", why="w")
    [held] = _pages(engine, since=_since(engine))
    assert Counter(row.standing.value for row in held.rows) == {
        "dead": 1,
        "held": 2,
        "in_flight": 1,
    }


@pytest.mark.usefixtures("secret")
def test_the_payload_is_the_frozen_one_with_cards_masked(engine: Engine) -> None:
    _enqueue(engine, 1)
    [page] = _pages(engine, since=_since(engine))
    [row] = page.rows
    with engine.connect() as connection:
        frozen = bytes(connection.execute(select(tables.notification.c.payload)).scalar_one())
    assert row.payload == frozen.decode().replace(_CARD, "411111******1111")
    assert '"amount":12900' in row.payload
    assert row.payload_sha256 == sha256(frozen).hexdigest()


@pytest.mark.usefixtures("secret")
def test_nothing_is_left_out_or_comes_twice_while_rows_settle(engine: Engine) -> None:
    _register(engine, "other")
    ids = set(_enqueue(engine, 20))
    _enqueue(engine, 20, "other")
    ids |= set(_enqueue(engine, 21))
    store, seen = store_on(engine), Counter[str]()
    page = missed.page(engine, _SEALER, endpoint="acme", since=_since(engine), limit=7)
    late = _enqueue(engine, 5)
    settled = 0
    while True:
        seen.update(row.message_id for row in page.rows)
        if not page.cursor:
            break
        # What is acknowledged meanwhile may be left out, never what is not.
        rows = store.claim(Pool.FAST, limit=2, worker="w").rows
        settled += len(rows)
        settle(store, rows)
        page = missed.page(engine, _SEALER, endpoint="acme", cursor=page.cursor, limit=7)
    assert set(seen.values()) == {1}
    with engine.connect() as connection:
        unsettled = connection.execute(
            select(tables.notification.c.message_id, tables.delivery.c.state)
            .join(tables.delivery, tables.delivery.c.id == tables.notification.c.id)
            .where(tables.notification.c.id.in_(ids), tables.delivery.c.state == "pending")
        ).all()
    assert {row.message_id for row in unsettled} <= seen.keys()
    assert len(seen) <= 41
    assert late


@pytest.mark.usefixtures("secret")
def test_only_what_was_created_in_between_is_named(engine: Engine) -> None:
    now = store_on(engine).now()
    for number, id_ in enumerate(_enqueue(engine, 4)):
        with engine.begin() as tx:
            tx.execute(
                update(tables.notification)
                .where(tables.notification.c.id == id_)
                .values(created_at=now - number * _HOUR)
            )
    [page] = _pages(engine, since=now - 2 * _HOUR, until=now)
    assert len(page.rows) == 2


@pytest.mark.usefixtures("secret")
def test_a_walk_begins_near_its_time_and_not_at_the_first_row(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missed, "_WINDOW", 3)
    now = store_on(engine).now()
    ids = sorted(_enqueue(engine, 80))
    with engine.begin() as tx:
        old = tables.notification.c.id <= ids[69]
        tx.execute(update(tables.notification).where(old).values(created_at=now - 9 * _HOUR))
    pages = _pages(engine, since=now - _HOUR)
    assert sum(len(page.rows) for page in pages) == 10
    # 80 numbers, less those that are surely too old.
    assert pages[0].of < 60


@pytest.mark.usefixtures("secret")
def test_a_cursor_that_was_changed_or_is_anothers_is_refused(engine: Engine) -> None:
    _register(engine, "other")
    _enqueue(engine, 4)
    since = _since(engine)
    cursor = missed.page(engine, _SEALER, endpoint="acme", since=since, limit=2).cursor
    for at in range(0, len(cursor) - 1, 7):
        bad = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
        with pytest.raises(BadFieldError, match="cursor"):
            missed.page(engine, _SEALER, endpoint="acme", cursor=bad)
    for bad in ("", "x", "成功", cursor + "AAAA", cursor[:-4]):
        with pytest.raises(BadFieldError):
            missed.page(engine, _SEALER, endpoint="acme", cursor=bad)
    with pytest.raises(BadFieldError, match="another endpoint"):
        missed.page(engine, _SEALER, endpoint="other", cursor=cursor)
    with pytest.raises(BadFieldError, match="another since"):
        missed.page(engine, _SEALER, endpoint="acme", cursor=cursor, since=since - _HOUR)
    with pytest.raises(BadFieldError, match="cursor"):
        missed.page(engine, Sealer(b"x" * 32), endpoint="acme", cursor=cursor)
    # After the master key was changed, a cursor of before still goes on.
    again = missed.page(engine, Sealer(b"x" * 32, bytes(32)), endpoint="acme", cursor=cursor)
    assert len(again.rows) == 2


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "since"),
        ({"since": datetime(2026, 1, 1)}, "since"),  # noqa: DTZ001 - that is the mistake
        ({"limit": 201}, "limit"),
        ({"limit": 0}, "limit"),
    ],
)
def test_what_is_wrong_is_named(engine: Engine, given: dict[str, Any], field: str) -> None:
    with pytest.raises(BadFieldError) as caught:
        missed.page(engine, _SEALER, endpoint="acme", **given)
    assert caught.value.field == field


def test_an_unknown_endpoint_is_named_with_the_nearest(engine: Engine, secret: str) -> None:
    assert secret
    with pytest.raises(NotFoundError, match="did you mean acme"):
        missed.page(engine, _SEALER, endpoint="acmee", since=_since(engine))


@pytest.mark.parametrize("form", Form)
def test_the_merchant_checks_an_export_with_what_checks_its_callbacks(
    engine: Engine, secret: str, form: Form
) -> None:
    _enqueue(engine, 3, payload={"note": "=1+1"})
    text: list[str] = []
    sink = Sink(text.append)
    wanted = Wanted(endpoint="acme", form=form, since=_since(engine))
    manifest = missed_file.export(engine, _SEALER, wanted, who="li", why="w", sink=sink)
    written = "".join(text)
    body = Webhook(secret).verify(manifest.body, manifest.headers)
    assert body["type"] == "paynotify.export"
    assert (body["rows"], body["sha256"]) == (3, sha256(written.encode()).hexdigest())
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(manifest.body.replace('"rows":3', '"rows":2'), manifest.headers)
    if form is Form.CSV:
        header, *rows = csv.reader(io.StringIO(written.removeprefix("\ufeff")))
        assert (len(header), [row[0][:4] for row in rows]) == (13, ["msg_"] * 3)
    else:
        assert [json.loads(line)["payload"] for line in written.splitlines()] == [
            '{"note":"=1+1"}'
        ] * 3
    with engine.connect() as connection:
        kept = connection.execute(select(tables.audit).order_by(tables.audit.c.id)).all()
    assert [row.action for row in kept[-2:]] == ["export.missed", "export.missed-done"]
    assert json.loads(kept[-1].facts)["rows"] == 3
    assert secret not in written + manifest.body


def test_a_page_for_a_pull_api_is_signed_and_kept(engine: Engine, secret: str) -> None:
    _enqueue(engine, 5)
    since, cursor, seen = _since(engine), "", 0
    while True:
        first = None if cursor else since
        proof = missed_proof.signed_page(
            engine, _SEALER, endpoint="acme", who="acme", why="api", since=first, cursor=cursor,
            limit=3,
        )  # fmt: skip
        body = Webhook(secret).verify(proof.body, proof.headers)
        assert _CARD not in proof.body
        assert {row["standing"] for row in body["rows"]} == {"waiting"}
        seen += len(body["rows"])
        cursor = body["cursor"]
        if not cursor:
            break
    with engine.connect() as connection:
        kept = connection.execute(
            select(tables.audit).where(tables.audit.c.action == "export.missed-page")
        ).all()
    assert (seen, [json.loads(row.facts)["rows"] for row in kept]) == (5, [3, 2])
    assert not any("cursor" in row.facts for row in kept)


def test_killed_in_the_middle_the_same_call_goes_on(
    sqlite_dsn: str, sqlite_engine: Engine, tmp_path: Path
) -> None:
    _register(sqlite_engine, "acme")
    _enqueue(sqlite_engine, 450)
    out = tmp_path / "acme.jsonl"
    code = (
        "import os, signal, sys\n"
        "from datetime import datetime\n"
        "from pathlib import Path\n"
        "from worker import database, missed_file\n"
        "from worker.sealing import Sealer\n"
        "wanted = missed_file.Wanted(endpoint='acme', form=missed_file.Form.JSON,\n"
        "    since=datetime.fromisoformat(sys.argv[2]))\n"
        "kill = lambda page: os.kill(os.getpid(), signal.SIGKILL) if page.seen >= 400 else None\n"
        "missed_file.export(database.connect(sys.argv[1]), Sealer(bytes(32)), wanted, who='li',\n"
        "    why='w', sink=missed_file.FileSink(Path(sys.argv[3]), wanted), on_page=kill)\n"
    )
    since = _since(sqlite_engine)
    command = [sys.executable, "-c", code, sqlite_dsn, since.isoformat(), str(out)]
    done = subprocess.run(command, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    part = tmp_path / "acme.jsonl.part"
    with part.open("a") as half:
        half.write('{"half of a li')
    (tmp_path / "acme.jsonl.manifest.json").write_text("of a call that was killed at its end")
    # Another export does not go on with it.
    other = Wanted(endpoint="acme", form=Form.CSV, since=since)
    with pytest.raises(BadFieldError, match="another export"):
        missed_file.FileSink(out, other)
    wanted = Wanted(endpoint="acme", form=Form.JSON, since=since)
    sink = missed_file.FileSink(out, wanted)
    assert sink.rows == 400
    manifest = missed_file.export(sqlite_engine, _SEALER, wanted, who="li", why="w", sink=sink)
    written = out.read_bytes()
    ids = [json.loads(line)["message_id"] for line in written.decode().splitlines()]
    assert (len(ids), len(set(ids)), manifest.rows) == (450, 450, 450)
    assert json.loads(manifest.body)["sha256"] == sha256(written).hexdigest()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.glob("acme*")) == [
        "acme.jsonl",
        "acme.jsonl.manifest.json",
    ]
    with pytest.raises(BadFieldError, match="there already"):
        missed_file.FileSink(out, wanted)


def test_the_command_writes_a_file_and_its_proof(
    sqlite_dsn: str,
    sqlite_engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PAYNOTIFY_DATABASE_URL", sqlite_dsn)
    monkeypatch.setenv("PAYNOTIFY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PAYNOTIFY_MASTER_KEY", MASTER_KEY)
    secret = _register(sqlite_engine, "acme")
    _enqueue(sqlite_engine, 2)
    terminal, out = Terminal(capsys), tmp_path / "acme.csv"
    words = ("export-missed", "--endpoint", "acme", "--since", "1h", "--why", "mail")
    assert "2 notifications" in terminal.ok(*words, "--csv", "--out", out).out
    proof = json.loads((tmp_path / "acme.csv.manifest.json").read_text())
    body = Webhook(secret).verify(proof["body"], proof["headers"])
    assert body["sha256"] == sha256(out.read_bytes()).hexdigest()
    said = terminal.ok(*words)
    assert len(said.lines) == 2
    assert _CARD not in said.out
    shown = json.loads(said.err)
    assert Webhook(secret).verify(shown["body"], shown["headers"])["rows"] == 2
    for more, named in ((("--cursor", "x"), "cursor"), (("--out", out), "there already")):
        refused = terminal(*words, *more)
        assert (refused.code, named in refused.err) == (1, True)
    assert "--why" in terminal(*words[:-2]).err
