"""Celery beat's scheduler: decides ticks from the cron table and rings for them.

Each look reads the table if it was edited, writes the ticks whose time has come and rings. Run
two or five beats: a tick is a unique row, so it comes once. Must never keep in memory what a
restart would miss, nor stop because the database or the broker is away.

    celery -A worker.app beat -S schedules.beat:Scheduler
"""

import logging
import os
import signal
from collections.abc import Callable
from threading import current_thread, main_thread
from typing import Any

from celery import beat
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from schedules import jobs, tick_book
from schedules.bell import Bell
from schedules.crontable import CronTable
from schedules.tasks import QUEUE, TASK
from schedules.ticks import Ticks
from worker import clock, database, lifeline, schema, settings, telemetry
from worker.errors import PaynotifyError
from worker.settings import Settings

# Between two looks; so late is a tick at most.
LOOK_S = 1.0
# Between two signs of life, and two complaints about the same thing.
_SIGN_S, _COMPLAIN_S = 5.0, 30.0


class Beat:
    """One beat; looks when it is told to.

    Args:
        engine: of the database.
        table: the cron table.
        ring: tells the workers of so many due ticks.
        name: of this process, for people.
    """

    def __init__(
        self, *, engine: Engine, table: CronTable, ring: Callable[[int], None], name: str
    ) -> None:
        self._engine = engine
        self._ticks = Ticks(engine)
        self._table = table
        self._ring = ring
        self._name = name
        self._sign_at_s = 0.0

    def look(self) -> int:
        """Decide what has come due since the last look; returns how many ticks are to be run.

        Raises:
            SQLAlchemyError: the database is away; nothing is lost, the next look decides.
        """
        found, changed = self._table.look()
        if changed:
            self._tell(found.problems, len(found.lines))
        due = self._ticks.decide(found.lines)
        if due:
            self._ring(due)
        now_s = clock.monotonic_s()
        if now_s >= self._sign_at_s:
            tick_book.show_beat(self._engine, self._name)
            self._sign_at_s = now_s + _SIGN_S
        return due

    def _tell(self, problems: tuple[str, ...], lines: int) -> None:
        where = str(self._table.path)
        for why in problems:
            refused = telemetry.Event.SCHEDULES_REFUSED
            telemetry.log(refused, level="error", file=where, why=why)
        telemetry.log(telemetry.Event.SCHEDULES_READ, file=where, lines=lines)


class Scheduler(beat.Scheduler):  # type: ignore[misc]
    """What Celery beat calls; Celery's own entries are not used.

    Args:
        args, kwargs: Celery's.
    """

    max_interval = LOOK_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._beat: Beat | None = None
        self._asked_to_end = False
        self._complain_at_s = 0.0
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Celery's entries stay empty: the lines are in our own table."""

    def tick(self, *_: object, **__: object) -> float:
        """Look once; returns the seconds until the next look.

        Raises:
            SystemExit: a signal asked this process to end.
        """
        began_s = clock.monotonic_s()
        try:
            if self._beat is None:
                self._listen()
                self._beat = self._open(settings.load(host=True))
            self._beat.look()
        except (PaynotifyError, SQLAlchemyError) as error:
            known = database.unavailable(error) if isinstance(error, DBAPIError) else error
            self._complain(str(known), level="warning")
        except Exception as error:  # noqa: BLE001 - beat outlives any single mistake
            self._complain(f"{type(error).__name__}: {error}", level="error")
        if self._asked_to_end:
            raise SystemExit
        return max(0.05, LOOK_S - (clock.monotonic_s() - began_s))

    @property
    def info(self) -> str:
        """What Celery's banner says of us."""
        return "    . cron table -> config/schedules.toml"

    def _listen(self) -> None:
        """Remember to be asked to end: the exit that Celery raises can be caught on its way up.

        A host's module that is being imported may do so, and what imports it must.
        """

        def end(*_: object) -> None:
            self._asked_to_end = True
            raise SystemExit

        if current_thread() is main_thread():
            signal.signal(signal.SIGTERM, end)
            signal.signal(signal.SIGINT, end)

    def _open(self, chosen: Settings) -> Beat:
        # Celery has set up a handler of its own: every line would come twice.
        logging.getLogger().handlers.clear()
        telemetry.configure(chosen.log_level, chosen.log_format)
        engine = database.connect(chosen.database_dsn, pool_size=1)
        try:
            schema.require_current(engine)
        except PaynotifyError:
            engine.dispose()
            raise
        name = lifeline.process_name(os.getpid())
        telemetry.log(telemetry.Event.BEAT_STARTED, name=name, file=str(chosen.cron_table))
        return Beat(
            engine=engine,
            table=CronTable(chosen.cron_table, check_job=jobs.check),
            ring=Bell(self._send).ring,
            name=name,
        )

    def _send(self) -> None:
        self.app.send_task(TASK, queue=QUEUE, retry=False, ignore_result=True, expires=60)

    def _complain(self, why: str, *, level: telemetry.Level) -> None:
        now_s = clock.monotonic_s()
        if now_s >= self._complain_at_s:
            self._complain_at_s = now_s + _COMPLAIN_S
            telemetry.log(telemetry.Event.BEAT_FAILED, level=level, why=why)
