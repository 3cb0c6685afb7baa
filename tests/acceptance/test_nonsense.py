"""Whatever nonsense a command is given: one clear sentence, a failing exit code, no traceback."""

import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from tests.seeding import add_due, store_on
from tests.services import free_port
from tests.terminal import ROOT, Said, paynotify
from worker import database, schema, tables

KEY = b64encode(b"k" * 32).decode()
URL = ("--url", "https://acme.com/cb")
ADD = ("endpoint", "add", "new", "--merchant", "m")
WHO = ("--who", "li", "--why", "x")
ENQUEUE = ("enqueue", "--type", "payment.paid", "--key", "k", "--endpoint", "acme")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one endpoint called acme."""
    made = tmp_path_factory.mktemp("nonsense")
    said = paynotify("endpoint", "add", "acme", "--merchant", "m", *URL, folder=made)
    assert said.code == 0, said
    return made


def _check(said: Said, code: int, *parts: str) -> None:
    assert said.code == code, said
    assert "Traceback" not in said.out + said.err
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("paynotify: ")
    for part in parts:
        assert part in said.err
    assert "whsec_" not in said.out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("endpoint", "show", "acne"), ("no endpoint 'acne'", "did you mean acme")),
        (("endpoint", "test", "acne"), ("no endpoint 'acne'",)),
        (("endpoint", "pause", "acme"), ("why",)),
        (("endpoint", "update", "acme", "--why", "x"), ("name what is to change",)),
        ((*ADD, "--url", "http://acme.com/"), ("url", "https", "--allow-http")),
        ((*ADD, *URL, "--rate", "-5"), ("rate_per_s", "-5")),
        ((*ADD, *URL, "--ca", "/nowhere/ca.pem"), ("--ca", "cannot be read")),
        (("show", "4711"), ("no notification '4711'",)),
        (("show", "A-unknown"), ("no notification or order",)),
        (("list", "--since", "yesterday"), ("--since", "2h")),
        (("reseal",), ("--why",)),
        (("export-missed", "--endpoint", "acme", *WHO), ("since", "is missing")),
        (
            ("export-missed", "--endpoint", "acme", "--since", "1d", "--out", "/no/x", *WHO),
            ("--out: /no/x cannot be written (No such file",),
        ),
        (("export-missed", "--endpoint", "acme", "--cursor", "x", *WHO), ("cursor", "begin again")),
        (("cancel", "4711", "--why", "x"), ("no notification '4711'",)),
        ((*ENQUEUE,), ("--payload",)),
        (("dead", "explain", "4711"), ("no dead letter '4711'",)),
        (("dead", "redrive", "4711", *WHO), ("no dead letter '4711'",)),
        (("dead", "redrive", "--all", "--rate", "-1", *WHO), ("rate",)),
        (("dead", "discard", "--all", "--who", "li"), ("--why",)),
        (("dead", "list", "--until", "31.12.2026"), ("--until",)),
        ((b"show", b"\xff\xfe"), ("UTF-8",)),
    ],
    ids=lambda value: " ".join(map(str, value))[:60] if isinstance(value, tuple) else None,
)
def test_a_value_nobody_can_use_is_named(
    folder: Path, words: tuple[str | bytes, ...], parts: tuple[str, ...]
) -> None:
    _check(paynotify(*words, folder=folder), 1, *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("nonsense",), ("nonsense", "paynotify --help")),
        (("status", "--nonsense"), ("--nonsense", "paynotify status --help")),
        (("endpoint", "add"), ("endpoint add --help",)),
        (("endpoint", "nonsense"), ("nonsense",)),
        (("endpoint", "add", "x", "--merchant", "m", *URL, "--rate", "fast"), ("--rate",)),
        (("list", "--state", "lost"), ("'--state': 'lost'",)),
        (("dead", "explain", "x"), ("paynotify dead explain --help",)),
        (("dead", "explain", "9" * 30), ("paynotify dead explain --help",)),
        (("dead", "list", "--reason", "bad luck"), ("--reason",)),
        (("status", "--watch", "0"), ("--watch",)),
        (("worker", "--processes", "0"), ("--processes",)),
    ],
    ids=lambda value: " ".join(map(str, value))[:60] if isinstance(value, tuple) else None,
)
def test_a_command_that_is_not_understood_says_where_help_is(
    folder: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    _check(paynotify(*words, folder=folder), 2, *parts)


@pytest.mark.parametrize("words", [(), ("dead",)])
def test_no_command_shows_help_and_says_so(folder: Path, words: tuple[str, ...]) -> None:
    said = paynotify(*words, folder=folder)
    _check(said, 2, "say what to do; see `paynotify")
    assert "Commands" in said.out


@pytest.mark.parametrize("command", ["status", "worker", "up", "migrate"])
def test_a_configured_database_without_a_master_key_is_refused(
    tmp_path: Path, command: str
) -> None:
    said = paynotify(command, folder=tmp_path, database_url=f"sqlite:///{tmp_path}/x.db")
    _check(said, 1, "master_key (PAYNOTIFY_MASTER_KEY)", "openssl rand")


@pytest.mark.parametrize("command", ["status", "worker", "migrate", "list"])
def test_a_database_that_cannot_be_reached_is_named(tmp_path: Path, command: str) -> None:
    dsn = f"postgresql://app:s3cret@127.0.0.1:{free_port()}/pay"
    said = paynotify(command, folder=tmp_path, database_url=dsn, master_key=KEY)
    _check(said, 1, "database: ", "PAYNOTIFY_DATABASE_URL")
    assert "s3cret" not in said.err


def test_a_database_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"postgresql://app@127.0.0.1:{silent.getsockname()[1]}/pay"
        said = paynotify("status", folder=tmp_path, database_url=dsn, master_key=KEY)
    _check(said, 1, "database: ")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('slots = 6\nlog_level = "in', "not valid TOML"),
        ("slots = 0\n", "slots (PAYNOTIFY_SLOTS)"),
        ("sluts = 6\n", "did you mean slots"),
    ],
)
def test_a_bad_settings_file_is_named_with_its_problem(
    tmp_path: Path, text: str, part: str
) -> None:
    file = tmp_path / "paynotify.toml"
    file.write_text(text)
    _check(paynotify("status", folder=tmp_path, config=str(file)), 1, part)
    checked = paynotify("check-config", folder=tmp_path, config=str(file))
    assert (checked.code, part in checked.out + checked.err) == (1, True)
    # The cron table in force is ours, for none stands beside the file.
    assert "schedules.toml has 7 lines, all sound" in checked.out


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({"config": "/nowhere/paynotify.toml"}, "cannot be read"),
        ({"slotz": "6"}, "did you mean PAYNOTIFY_SLOTS"),
        ({"data_dir": "/dev/null/x"}, "/dev/null"),
        ({"database_url": "mysql://h/d", "master_key": KEY}, "'mysql' is not supported"),
        ({"database_url": "sqlite:", "master_key": KEY}, "database_url"),
        ({"master_key": "short"}, "master_key"),
        ({"broker_url": "redis://h:port/0"}, "broker_url"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(tmp_path: Path, environment: dict[str, str], part: str) -> None:
    _check(paynotify("status", folder=tmp_path, **environment), 1, part)


def test_a_bad_cron_expression_is_named_with_its_entry(tmp_path: Path) -> None:
    (tmp_path / "paynotify.toml").write_text("")
    (tmp_path / "schedules.toml").write_text(
        '[[schedule]]\nname = "compensation"\ncron = "every minute"\njob = "compensation"\n'
    )
    said = paynotify("check-config", folder=tmp_path, config=str(tmp_path / "paynotify.toml"))
    assert said.code == 1
    [sentence] = said.err.splitlines()
    assert "line 3: cron: 'every minute' is no cron expression" in sentence
    assert "minute hour day month weekday" in sentence


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    said = paynotify("status", folder=tmp_path, slots="0", lease_s="many", log_level="loud")
    assert said.code == 1
    assert "Traceback" not in said.err
    for name in ("slots", "lease_s", "log_level"):
        assert f"PAYNOTIFY_{name.upper()}" in said.err


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path) -> None:
    script = f"{sys.executable} -m worker list --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**os.environ, "PAYNOTIFY_DATA_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def _bury(path: Path, count: int) -> None:
    """Make ``count`` open dead letters of acme, as a settle would."""
    engine = database.connect(f"sqlite:///{path / 'paynotify.db'}")
    assert schema.is_current(engine)
    with engine.connect() as connection:
        lane = connection.execute(select(tables.lane.c.id)).scalar_one()
    ids = add_due(engine, lane, count, state="dead")
    with engine.begin() as tx:
        letters = [{"notification_id": i, "endpoint_id": lane, "reason": "exhausted"} for i in ids]
        tx.execute(insert(tables.dead_letter), letters)
    engine.dispose()


@contextmanager
def _redriving(folder: Path) -> Iterator[subprocess.Popen[str]]:
    words = ("dead", "redrive", "--endpoint", "acme", "--rate", "2", *WHO)
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", *words],
        cwd=ROOT,
        env={**os.environ, "PAYNOTIFY_DATA_DIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_redrive_stopped_by_ctrl_c_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    said = paynotify("endpoint", "add", "acme", "--merchant", "m", *URL, folder=tmp_path)
    assert said.code == 0
    _bury(tmp_path, 30)
    engine = database.connect(f"sqlite:///{tmp_path / 'paynotify.db'}")
    deadline = time.monotonic() + 60
    with _redriving(tmp_path) as process:
        while store_on(engine).backlog().dead == 30:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    engine.dispose()
    assert process.returncode == 130
    assert "Stopped after 10 of 30" in err
    assert "Run the same command again" in err
    assert "Traceback" not in err
    words = ("dead", "redrive", "--endpoint", "acme", "--json", *WHO)
    assert paynotify(*words, folder=tmp_path).json == {"done": "redriven", "count": 20}
