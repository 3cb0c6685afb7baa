"""Beat: reads the table, decides, rings; goes on when file, database or broker fail."""

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Event

import celery
import pytest
from sqlalchemy import Engine, select, update
from sqlalchemy.exc import SQLAlchemyError

from schedules import rows, tick_book
from schedules.beat import Beat, Scheduler
from schedules.bell import Bell
from schedules.crontable import CronTable
from tests.office import MASTER_KEY, until
from tests.services import free_port
from worker import database
from worker.tables_schedules import schedule, tick

_EVERY_SECOND = '[[schedule]]\nname = "{}"\ncron = "* * * * * *"\njob = "a"\n'


class Desk:
    """A beat with its file; ``rung`` counts."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine = engine
        self.path = path
        self.rung = 0
        self.table = CronTable(path, check_job=lambda _: None)
        self.beat = Beat(engine=engine, table=self.table, ring=self._ring, name="here:1")

    def _ring(self, count: int) -> None:
        self.rung += count

    def write(self, *names: str, more: str = "") -> None:
        self.path.write_text("".join(map(_EVERY_SECOND.format, names)) + more)

    def pass_time(self, seconds: float) -> None:
        """Let beat have looked for the last time so long ago."""
        with self.engine.begin() as tx:
            then = rows.now(tx) - timedelta(seconds=seconds)
            tx.execute(update(schedule).values(decided_until=then))


@pytest.fixture
def desk(engine: Engine, tmp_path: Path) -> Desk:
    return Desk(engine, tmp_path / "schedules.toml")


def test_due_ticks_are_rung_for_and_a_look_with_nothing_due_is_silent(desk: Desk) -> None:
    desk.write("a")
    desk.beat.look()
    desk.pass_time(5)
    due = desk.beat.look()
    assert due in (5, 6)
    assert desk.rung == due
    age_s = tick_book.beat_age_s(desk.engine)
    assert age_s is not None
    assert age_s < 60


def test_an_edit_is_picked_up_and_a_bad_line_stops_no_other(
    desk: Desk, capfd: pytest.CaptureFixture[str]
) -> None:
    desk.write("a")
    desk.beat.look()
    desk.write("a", "b", more='[[schedule]]\nname = "c"\ncron = "nonsense"\njob = "a"\n')
    desk.beat.look()
    assert {*tick_book.standings(desk.engine)} == {"a", "b"}
    table, changed = desk.table.look()
    assert not changed
    assert table.problems[0].startswith("line 11: cron: 'nonsense' is no cron expression")
    desk.pass_time(3)
    # A line that is new begins in the middle of a second.
    assert desk.beat.look() >= 5


def test_a_file_that_is_gone_or_unreadable_leaves_the_lines_in_force(desk: Desk) -> None:
    desk.write("a")
    desk.beat.look()
    for spoil in (desk.path.unlink, lambda: desk.path.write_bytes(b"\xff\xfe")):
        spoil()
        desk.beat.look()
        table, _ = desk.table.look()
        assert "cannot be read" in table.problems[0]
        assert [line.name for line in table.lines] == ["a"]
    desk.pass_time(3)
    assert desk.beat.look() >= 2
    desk.write("b")
    desk.beat.look()
    assert [line.name for line in desk.table.look()[0].lines] == ["b"]


def test_a_beat_that_dies_before_it_rings_has_written_its_ticks(engine: Engine, desk: Desk) -> None:
    class KilledError(BaseException):
        pass

    def die(_: int) -> None:
        raise KilledError

    desk.write("a")
    desk.beat.look()
    desk.pass_time(3)
    table = CronTable(desk.path, check_job=lambda _: None)
    with pytest.raises(KilledError):
        Beat(engine=engine, table=table, ring=die, name="dying").look()
    with engine.connect() as connection:
        assert len(connection.scalars(select(tick.c.state)).all()) >= 3
    assert desk.beat.look() <= 1


def test_a_bell_never_keeps_beat_waiting_and_is_forgotten_when_nobody_can_hear_it() -> None:
    entered, stuck, sent = Event(), Event(), list[int]()

    def send() -> None:
        entered.set()
        stuck.wait(10)
        sent.append(1)
        if len(sent) == 1:
            raise OSError("broker is away")

    bell = Bell(send)
    bell.ring(1)
    assert entered.wait(10)
    for _ in range(100):
        bell.ring(5)
    assert sent == []
    stuck.set()
    # A hundred rings while it was stuck are a few bells.
    until(lambda: len(sent) == 1 + 8)
    bell.ring(1)
    until(lambda: len(sent) == 1 + 8 + 1)


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Scheduler]:
    """As Celery makes one, with an app of its own; the broker is away."""
    # It takes logging over, in this process only as long as the test lasts.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def make(dsn: str) -> Scheduler:
        monkeypatch.setenv("PAYNOTIFY_DATABASE_URL", dsn)
        monkeypatch.setenv("PAYNOTIFY_MASTER_KEY", MASTER_KEY)
        monkeypatch.setenv("PAYNOTIFY_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
        monkeypatch.setenv("PAYNOTIFY_SCHEDULES_FILE", str(tmp_path / "schedules.toml"))
        (tmp_path / "schedules.toml").write_text(
            '[[schedule]]\nname = "a"\ncron = "* * * * * *"\njob = "json:dumps"\n'
        )
        app = celery.Celery("test", broker=f"redis://127.0.0.1:{free_port()}/0")
        return Scheduler(app=app)

    return make


def test_without_broker_ticks_are_decided_all_the_same(
    scheduler: Callable[[str], Scheduler], dsn: str, engine: Engine
) -> None:
    beating = scheduler(dsn)
    assert 0 < beating.tick() <= 1
    with engine.begin() as tx:
        tx.execute(update(schedule).values(decided_until=rows.now(tx) - timedelta(seconds=4)))
    assert 0 < beating.tick() <= 1
    assert len(tick_book.history(engine)) >= 4
    assert beating.schedule == {}
    assert beating._beat is not None
    beating._beat._engine.dispose()


def test_without_database_beat_goes_on_and_tries_again(
    scheduler: Callable[[str], Scheduler], tmp_path: Path
) -> None:
    beating = scheduler(f"sqlite:///{tmp_path / 'not-there' / 'x.db'}")
    for _ in range(3):
        assert 0 < beating.tick() <= 1


def test_a_database_that_goes_away_loses_no_tick(tmp_path: Path, sqlite_dsn: str) -> None:
    engine = database.connect(sqlite_dsn)
    desk = Desk(engine, tmp_path / "schedules.toml")
    desk.write("a")
    desk.beat.look()
    desk.pass_time(4)
    file = Path(sqlite_dsn.removeprefix("sqlite:///"))
    engine.dispose()
    file.rename(file.with_suffix(".gone"))
    with pytest.raises(SQLAlchemyError):
        desk.beat.look()
    engine.dispose()
    file.with_suffix(".gone").rename(file)
    assert desk.beat.look() >= 4
    engine.dispose()
