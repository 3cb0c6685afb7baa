"""``paynotify schedule …`` as an operator types it."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import Engine, select

from schedules import jobs, tick_book
from schedules.crontable import CronTable
from schedules.runner import Runner
from schedules.ticks import Ticks
from tests.terminal import Terminal
from worker import database, schema
from worker.tables import audit

_TABLE = """
[[schedule]]
name = "nightly"
cron = "30 2 * * *"
zone = "Europe/Berlin"
job = "json:dumps"

[[schedule]]
name = "off"
cron = "* * * * *"
job = "json:dumps"
enabled = false

[[schedule]]
name = "bad"
cron = "* * * *"
job = "json:dumps"
"""


@pytest.fixture
def terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Terminal:
    monkeypatch.setenv("PAYNOTIFY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PAYNOTIFY_SCHEDULES_FILE", str(tmp_path / "schedules.toml"))
    (tmp_path / "schedules.toml").write_text(_TABLE)
    return Terminal(capsys)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The database of the terminal."""
    (tmp_path / "data").mkdir()
    made = database.connect(f"sqlite:///{tmp_path / 'data' / 'paynotify.db'}")
    schema.migrate(made)
    yield made
    made.dispose()


def _look(engine: Engine, tmp_path: Path) -> None:
    table = CronTable(tmp_path / "schedules.toml", check_job=jobs.check).look()[0]
    Ticks(engine).decide(table.lines)
    tick_book.show_beat(engine, "here:1")


def test_list_shows_each_line_its_state_and_what_was_refused(
    terminal: Terminal, engine: Engine, tmp_path: Path
) -> None:
    said = terminal("schedule", "list")
    assert said.code == 1
    assert "nightly" in said.out
    assert "line 16: cron: '* * * *' is no cron expression" in said.err
    assert "No beat is running" in said.err
    _look(engine, tmp_path)
    said = terminal("schedule", "list", "--json")
    assert "No beat" not in said.err
    nightly, off = said.lines
    assert (nightly["state"], nightly["zone"], nightly["due"]) == ("on", "Europe/Berlin", 0)
    assert nightly["next_at"].endswith(("T00:30:00.000000Z", "T01:30:00.000000Z"))
    assert (off["state"], off["next_at"]) == ("off", None)


def test_next_says_local_time_and_utc(terminal: Terminal) -> None:
    found = terminal.ok("schedule", "next", "nightly", "-n", "3", "--json").lines
    assert len(found) == 3
    assert all(line["local"][11:16] in ("02:30", "03:00") for line in found)
    assert len(terminal.ok("schedule", "next", "nightly").out.splitlines()) == 5


def test_a_schedule_is_paused_and_resumed_with_who_and_why(
    terminal: Terminal, engine: Engine, tmp_path: Path
) -> None:
    _look(engine, tmp_path)
    terminal.ok("schedule", "pause", "nightly", "--why", "maintenance", "--who", "li")
    assert terminal("schedule", "list", "--json").lines[0]["state"] == "paused"
    assert "paused already" in terminal("schedule", "pause", "nightly", "--why", "x").err
    terminal.ok("schedule", "resume", "nightly", "--why", "over", "--who", "li")
    assert terminal("schedule", "list", "--json").lines[0]["state"] == "on"
    with engine.connect() as connection:
        found = connection.execute(select(audit.c.action, audit.c.actor, audit.c.why)).all()
    assert [tuple(row) for row in found] == [
        ("schedule.pause", "li", "maintenance"),
        ("schedule.resume", "li", "over"),
    ]


def test_a_run_by_hand_waits_for_its_end_and_stands_in_the_history(
    terminal: Terminal, engine: Engine
) -> None:
    runner = Runner(ticks=Ticks(engine), run=lambda *_: "did 3 things", name="here:1", lease_s=60)
    worker = Thread(target=_until_run, args=(runner,))
    worker.start()
    said = terminal.ok("schedule", "run", "nightly", "--why", "now", "--who", "li")
    worker.join()
    assert "nightly done: did 3 things" in said.out
    [past] = terminal.ok("schedule", "history", "nightly", "--json").lines
    assert (past["state"], past["runs"], past["note"]) == ("done", 1, "ordered by li: now")
    assert "did 3 things" in terminal.ok("schedule", "history").out


def _until_run(runner: Runner) -> None:
    while not runner.run_due():
        pass


def test_a_run_that_no_worker_takes_says_so_and_one_that_fails_is_an_error(
    terminal: Terminal, engine: Engine
) -> None:
    said = terminal.ok("schedule", "run", "nightly", "--why", "now", "--wait", "0")
    assert "no worker has taken it yet" in said.out

    def fail(*_: object) -> str:
        raise ValueError("no")

    runner = Runner(ticks=Ticks(engine), run=fail, name="here:1", lease_s=60)
    assert runner.run_due()
    worker = Thread(target=_until_run, args=(runner,))
    worker.start()
    said = terminal("schedule", "run", "nightly", "--why", "now")
    worker.join()
    assert said.code == 1
    assert "nightly failed: ValueError: no" in said.out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("next", "nigtly"), ("no schedule 'nigtly'", "did you mean nightly")),
        (("next", "nightly", "-n", "0"), ("--count", "1 to 1000")),
        (("run", "nightly"), ("--why", "audit log")),
        (("run", "nothing", "--why", "x"), ("no schedule 'nothing'",)),
        (("run", "nightly", "--why", "x", "--wait", "soon"), ("--wait", "no length of time")),
        (("pause", "nightly"), ("--why",)),
        (("pause", "bad", "--why", "x"), ("no schedule 'bad'",)),
        (("resume", "nightly", "--why", "x"), ("not paused",)),
        (("history", "nothing"), ("no schedule 'nothing'",)),
        (("history", "--limit", "0"), ("limit", "1 to 1000")),
        (("history", "--before", "soon"), ("--before", "is no time")),
    ],
)
def test_what_nobody_can_use_is_one_sentence(
    terminal: Terminal, engine: Engine, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    said = terminal("schedule", *words)
    assert said.code == 1
    assert len(said.err.splitlines()) == 1
    for part in parts:
        assert part in said.err
