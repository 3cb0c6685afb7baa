"""Running due ticks: one job's mistake is its own, leases are kept, what is lost comes back."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from threading import Event, Thread

import pytest
from sqlalchemy import Engine, select, update

from schedules import rows, tick_book
from schedules.cron import Cron
from schedules.crontable import Line
from schedules.deadline import Deadline
from schedules.runner import Run, Runner
from schedules.ticks import Ticks
from tests.office import until
from worker import telemetry
from worker.tables_schedules import tick

_LEASE_S = 60.0


def _line(name: str, *, time_limit_s: int = 60) -> Line:
    cron = Cron(expression="0 0 1 1 *")
    return Line(line_no=1, name=name, cron=cron, job=name, time_limit_s=time_limit_s)


def _order(engine: Engine, name: str, *, time_limit_s: int = 60) -> None:
    line = _line(name, time_limit_s=time_limit_s)
    tick_book.order(engine, line, who="test", why="now")


def _states(engine: Engine) -> list[tuple[str, str, int]]:
    found = tick_book.history(engine)
    return sorted((past.name, past.state, past.runs) for past in found)


def _expire(engine: Engine) -> None:
    with engine.begin() as tx:
        tx.execute(update(tick).values(lease_until=rows.now(tx) - timedelta(seconds=1)))


Make = Callable[..., Runner]


@pytest.fixture
def make(engine: Engine) -> Iterator[Make]:
    """Make runners; they are closed at the end."""
    with ExitStack() as stack:

        def made(run: Run, name: str = "one", most: int = 2) -> Runner:
            runner = Runner(ticks=Ticks(engine), run=run, name=name, lease_s=_LEASE_S, most=most)
            stack.callback(runner.close)
            return runner

        yield made


def _fine(name: str, arguments: dict[str, object], deadline: Deadline) -> str:
    return f"{name} is fine"


def test_due_ticks_are_run_until_there_is_none(engine: Engine, make: Make) -> None:
    for name in ("a", "b"):
        _order(engine, name)
    assert [line.partition(": ")[2] for line in make(_fine).run_due()] == ["a is fine", "b is fine"]
    assert make(_fine).run_due() == []
    assert _states(engine) == [("a", "done", 1), ("b", "done", 1)]


def test_a_job_that_fails_is_told_masked_and_stops_nothing(engine: Engine, make: Make) -> None:
    def run(name: str, arguments: dict[str, object], deadline: Deadline) -> str:
        if name == "a":
            raise ValueError("cannot, token=s3cret")
        return "fine"

    for name in ("a", "b"):
        _order(engine, name)
    make(run).run_due()
    assert _states(engine) == [("a", "failed", 1), ("b", "done", 1)]
    failed = next(past for past in tick_book.history(engine) if past.name == "a")
    assert failed.result == "ValueError: cannot, token=***"


def test_a_job_that_ends_its_process_fails_once_like_any_other(engine: Engine, make: Make) -> None:
    def run(name: str, arguments: dict[str, object], deadline: Deadline) -> str:
        sys.exit("no config")

    _order(engine, "a")
    make(run).run_due()
    assert _states(engine) == [("a", "failed", 1)]
    assert tick_book.history(engine)[0].result == "SystemExit: no config"


def test_a_job_learns_its_time_limit(engine: Engine, make: Make) -> None:
    left: list[float] = []

    def run(name: str, arguments: dict[str, object], deadline: Deadline) -> str:
        left.append(deadline.left_s)
        return ""

    _order(engine, "a", time_limit_s=7)
    make(run).run_due()
    assert 0 < left[0] <= 7


def test_a_process_that_ends_hands_its_tick_back_for_another_to_go_on(
    engine: Engine, make: Make
) -> None:
    def run(name: str, arguments: dict[str, object], deadline: Deadline) -> str:
        ending.stop()
        assert deadline.over
        return "half done"

    ending = make(run, "ending")
    _order(engine, "a")
    assert "handed back" in ending.run_due()[0]
    assert _states(engine) == [("a", "due", 0)]
    assert ending.run_due() == []
    make(_fine, "other").run_due()
    assert _states(engine) == [("a", "done", 1)]


def test_a_job_that_is_through_when_its_process_ends_is_done(engine: Engine, make: Make) -> None:
    def run(name: str, arguments: dict[str, object], deadline: Deadline) -> str:
        ending.stop()
        return "all of it"

    ending = make(run)
    _order(engine, "a")
    ending.run_due()
    assert _states(engine) == [("a", "done", 1)]


def test_a_runner_that_lost_its_tick_tells_the_job_and_writes_nothing(
    engine: Engine, make: Make
) -> None:
    def run(name: str, arguments: dict[str, object], deadline: Deadline) -> str:
        with engine.begin() as tx:
            over = rows.now(tx) - timedelta(seconds=1)
            tx.execute(update(tick).values(lease_until=over))
        other.once()
        other.run_due()
        sleeper.once()
        assert deadline.over
        return "late"

    other, sleeper = make(_fine, "other"), make(run, "sleeper")
    _order(engine, "a")
    assert "somebody else has the tick" in sleeper.run_due()[0]
    [past] = tick_book.history(engine)
    assert (past.state, past.runner, past.result, past.runs) == ("done", "other", "a is fine", 2)


def test_a_lease_is_kept_while_the_job_runs_and_let_go_when_it_does_not_stop(
    engine: Engine, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr("schedules.runner.clock.monotonic_s", lambda: now_s)

    def lease_left_s() -> float:
        with engine.connect() as connection:
            until_at = connection.execute(select(tick.c.lease_until)).scalar_one()
            return float((until_at - rows.now(connection)).total_seconds())

    def run(name: str, arguments: dict[str, object], deadline: Deadline) -> str:
        nonlocal now_s
        for now_s, kept in ((21.0, True), (60.0, True), (95.0, False), (300.0, False)):
            with engine.begin() as tx:
                nearly = rows.now(tx) + timedelta(seconds=5)
                tx.execute(update(tick).values(lease_until=nearly))
            runner.once()
            assert (lease_left_s() > 30) is kept, now_s
        return ""

    runner = make(run)
    _order(engine, "a", time_limit_s=60)
    runner.run_due()
    assert tick_book.history(engine)[0].state == "done"


def test_a_job_that_hangs_gives_its_slot_back_and_is_not_begun_beside_itself(
    engine: Engine, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    hangs, ends = Event(), Event()

    def run(name: str, arguments: dict[str, object], deadline: Deadline) -> str:
        begun.append(name)
        if name == "hangs":
            hangs.set()
            assert ends.wait(60)
        return ""

    stream = io.StringIO()
    telemetry.configure("info", "json", stream)
    now_s = 0.0
    monkeypatch.setattr("schedules.runner.clock.monotonic_s", lambda: now_s)
    runner = make(run, most=1)
    _order(engine, "hangs", time_limit_s=60)
    thread = Thread(target=runner.run_due)
    thread.start()
    try:
        assert hangs.wait(10)
        _order(engine, "good")
        assert runner.run_due() == []
        now_s = 91.0
        _expire(engine)
        runner.once()
        assert "job.hangs" in stream.getvalue()
        assert len(runner.run_due()) == 1
        assert _states(engine) == [("good", "done", 1), ("hangs", "due", 1)]
    finally:
        ends.set()
        thread.join(10)
        telemetry.configure("info", "json", io.StringIO())
    # It came to its end after all: its line may run here again, and no slot is lost or won.
    runner.run_due()
    assert begun == ["hangs", "good", "hangs"]
    assert _states(engine) == [("good", "done", 1), ("hangs", "done", 2)]


def test_no_more_jobs_than_allowed_run_in_one_process(engine: Engine, make: Make) -> None:
    inner: list[list[str]] = []

    def run(name: str, arguments: dict[str, object], deadline: Deadline) -> str:
        inner.append(runner.run_due())
        return ""

    runner = make(run, most=1)
    for name in ("a", "b"):
        _order(engine, name)
    runner.run_due()
    assert inner == [[], []]
    assert _states(engine) == [("a", "done", 1), ("b", "done", 1)]


def test_a_tick_that_no_bell_rang_for_is_run_by_the_thread(engine: Engine, make: Make) -> None:
    ran = Event()

    def run(name: str, arguments: dict[str, object], deadline: Deadline) -> str:
        ran.set()
        return ""

    _order(engine, "a")
    with engine.begin() as tx:
        tx.execute(update(tick).values(decided_at=rows.now(tx) - timedelta(minutes=1)))
    make(run).start()
    assert ran.wait(10)
    until(lambda: _states(engine) == [("a", "done", 1)])
