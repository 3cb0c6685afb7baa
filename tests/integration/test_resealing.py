"""Secrets move under a new master key while everybody works, and nobody is ever shut out."""

import signal
import subprocess
import sys
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select, update

from tests.seeding import add_lane
from tests.terminal import Terminal
from worker import resealing, tables
from worker.bootstrap import ROOT
from worker.endpoint_writes import client_row, secret_row
from worker.errors import BadFieldError, SecretError, SettingsError
from worker.resealing import Standing
from worker.sealing import Sealer, sealer_of
from worker.settings import alone

OLD, NEW = bytes(32), b"n" * 32
_OLD, _NEW = b64encode(OLD).decode(), b64encode(NEW).decode()
_ROWS = 450


def _seed(engine: Engine, count: int = _ROWS) -> None:
    """Secrets under the old key, and a client key."""
    endpoint_id, sealer = add_lane(engine), Sealer(OLD)
    with engine.begin() as tx:
        tx.execute(
            insert(tables.endpoint_secret),
            [
                {
                    "endpoint_id": endpoint_id,
                    "version": version,
                    "sealed": sealer.seal(f"s{version}", row=secret_row(endpoint_id, version)),
                }
                for version in range(1, count + 1)
            ],
        )
        client = sealer.seal("pem", row=client_row(endpoint_id))
        tx.execute(update(tables.endpoint).values(client_pem=client))


def _opened(engine: Engine, sealer: Sealer) -> list[str]:
    with engine.connect() as connection:
        rows = connection.execute(
            select(tables.endpoint_secret).order_by(tables.endpoint_secret.c.version)
        ).all()
        client = connection.execute(
            select(tables.endpoint.c.id, tables.endpoint.c.client_pem)
        ).one()
    found = [sealer.open(row.sealed, row=secret_row(row.endpoint_id, row.version)) for row in rows]
    return [*found, sealer.open(client.client_pem, row=client_row(client.id))]


def _reseal(engine: Engine, **more: Any) -> Standing:
    return resealing.reseal(engine, Sealer(NEW, OLD), who="li", why="yearly", **more)


def test_everything_moves_and_a_second_time_there_is_nothing_to_do(engine: Engine) -> None:
    _seed(engine)
    before = _opened(engine, Sealer(OLD))
    assert resealing.look(engine, Sealer(NEW, OLD)) == Standing(seen=_ROWS + 1, old=_ROWS + 1)
    assert _reseal(engine).old == _ROWS + 1
    assert _opened(engine, Sealer(NEW)) == before
    assert _reseal(engine).old == 0
    with engine.connect() as connection:
        kept = connection.execute(select(tables.audit)).all()
    assert [row.facts for row in kept] == [
        '{"rows":200}',
        '{"rows":200}',
        '{"rows":50}',
        '{"rows":1}',
    ]
    with pytest.raises(SecretError):
        _opened(engine, Sealer(OLD))


def test_nobody_is_shut_out_while_it_runs(engine: Engine) -> None:
    _seed(engine)
    done = threading.Event()
    shut: list[SecretError] = []
    rounds: list[int] = []

    def read(sealer: Sealer) -> None:
        over = False
        while not over:
            # Once more when it is done.
            over = done.is_set()
            try:
                rounds.append(len(_opened(engine, sealer)))
            except SecretError as error:
                shut.append(error)

    # Workers that know the new key as their own, and those that only got it to open with.
    readers = [
        threading.Thread(target=read, args=[sealer])
        for sealer in (Sealer(NEW, OLD), Sealer(OLD, NEW))
    ]
    for reader in readers:
        reader.start()
    _reseal(engine)
    done.set()
    for reader in readers:
        reader.join(20)
    assert shut == []
    assert len(rounds) >= 2


def test_killed_in_the_middle_it_goes_on_where_it_was(dsn: str, engine: Engine) -> None:
    _seed(engine)
    code = (
        "import os, signal, sys\n"
        "from worker import database, resealing\n"
        "from worker.sealing import Sealer\n"
        "resealing.reseal(database.connect(sys.argv[1]), Sealer(b'n' * 32, bytes(32)),\n"
        "    who='li', why='w', on_progress=lambda _: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, dsn], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert resealing.look(engine, Sealer(NEW, OLD)).old == _ROWS + 1 - 200
    assert len(_opened(engine, Sealer(OLD, NEW))) == _ROWS + 1
    assert _reseal(engine).old == _ROWS + 1 - 200
    assert len(_opened(engine, Sealer(NEW))) == _ROWS + 1


def test_a_secret_that_was_rotated_meanwhile_stays(engine: Engine) -> None:
    _seed(engine, 1)
    seen = Sealer(OLD).seal("s1", row=secret_row(1, 1))
    stale = resealing._Row(endpoint_id=1, version=1, sealed=seen)
    with engine.begin() as tx:
        # What is in the row is no longer what was read.
        assert resealing._replace(tx, stale, Sealer(NEW, OLD)) == 0
    assert _opened(engine, Sealer(OLD)) == ["s1", "pem"]


def test_what_no_key_opens_is_named_and_left_alone(engine: Engine) -> None:
    _seed(engine, 3)
    lost = Sealer(b"x" * 32).seal("s2", row=secret_row(1, 2))
    with engine.begin() as tx:
        mine = tables.endpoint_secret.c.version == 2
        tx.execute(update(tables.endpoint_secret).where(mine).values(sealed=lost))
    done = _reseal(engine)
    assert done == Standing(seen=4, old=3, unreadable=("endpoint/1/secret/2",), lost=1)
    with pytest.raises(BadFieldError, match="why"):
        resealing.reseal(engine, Sealer(NEW, OLD), who="li", why=" ")


def test_the_command_counts_first_and_check_config_says_what_is_left(
    sqlite_dsn: str,
    sqlite_engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PAYNOTIFY_DATABASE_URL", sqlite_dsn)
    monkeypatch.setenv("PAYNOTIFY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PAYNOTIFY_MASTER_KEY", _NEW)
    terminal = Terminal(capsys)
    _seed(sqlite_engine, 2)
    assert "does not open the secrets of 1 endpoints" in terminal("check-config").err
    monkeypatch.setenv("PAYNOTIFY_PREVIOUS_MASTER_KEYS", _OLD)
    assert "3 rows are still under an old key" in terminal.ok("check-config").out
    assert "3 of 3 sealed rows are under an old key" in terminal.ok("reseal", "--dry-run").out
    refused = terminal("reseal")
    assert (refused.code, "--why" in refused.err) == (1, True)
    assert "3 of 3 sealed rows were sealed anew" in terminal.ok("reseal", "--why", "yearly").out
    assert "old key" not in terminal.ok("check-config").out
    assert terminal.ok("reseal", "--why", "yearly", "--json").json["resealed"] == 0


def test_a_previous_key_that_is_none_is_named_by_its_place() -> None:
    bad = alone(master_key=_NEW, previous_master_keys=(_OLD, "c2hvcnQ="))
    with pytest.raises(SettingsError, match="number 2 is no key") as caught:
        sealer_of(bad)
    assert "c2hvcnQ" not in str(caught.value)
