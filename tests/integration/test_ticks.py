"""Ticks in the database: decided once, run one at a time, finished once, whoever is lost."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import Engine, func, select, update

from schedules import rows, tick_book
from schedules.catch_up import CatchUp, Policy
from schedules.cron import Cron
from schedules.crontable import Line
from schedules.ticks import LOST_MAX, Lost, Tick, Ticks
from worker.errors import WrongStateError
from worker.tables import audit
from worker.tables_schedules import schedule, tick

_LINE = Line(
    line_no=1,
    name="hourly",
    cron=Cron(expression="0 * * * *"),
    job="noop",
    arguments='{"days": 3}',
    policy=Policy(catch_up=CatchUp.ALL, limit=200),
    time_limit_s=60,
)


@pytest.fixture
def ticks(engine: Engine) -> Ticks:
    return Ticks(engine)


def _now(engine: Engine) -> datetime:
    with engine.connect() as connection:
        return rows.now(connection)


def _decided(engine: Engine, ago: timedelta, name: str = "hourly") -> datetime:
    """Let everything up to ``ago`` be decided, as if beat had stood still since."""
    with engine.begin() as tx:
        until = rows.now(tx) - ago
        first = {"fingerprint": _LINE.fingerprint, "decided_until": until}
        if not rows.insert_new(tx, schedule, {"name": name, **first}):
            tx.execute(update(schedule).where(schedule.c.name == name).values(decided_until=until))
    return until


def _states(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        query = select(tick.c.state, func.count()).group_by(tick.c.state)
        return {row[0]: row[1] for row in connection.execute(query)}


def _lose(engine: Engine) -> None:
    """Let every lease be over."""
    with engine.begin() as tx:
        over = rows.now(tx) - timedelta(seconds=1)
        tx.execute(update(tick).where(tick.c.state == "running").values(lease_until=over))


def _claim(ticks: Ticks, runner: str = "one") -> Tick:
    claimed = ticks.claim(runner, lease_s=60)
    assert claimed is not None
    return claimed


def test_a_line_that_is_new_begins_now(engine: Engine, ticks: Ticks) -> None:
    assert ticks.decide([_LINE]) == 0
    assert ticks.decide([_LINE]) == 0
    assert _states(engine) == {}
    assert _now(engine) - tick_book.standings(engine)["hourly"].decided_until < timedelta(minutes=1)


def test_each_tick_is_decided_once_however_many_beats_look_at_once(engine: Engine) -> None:
    _decided(engine, timedelta(hours=50))
    beats = [Ticks(engine) for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        due = sum(pool.map(lambda beat: sum(beat.decide([_LINE]) for _ in range(4)), beats))
    assert due in (50, 51)
    assert _states(engine) == {"due": due}
    with engine.connect() as connection:
        found = connection.scalars(select(tick.c.tick_at).order_by(tick.c.tick_at)).all()
    assert {b - a for a, b in pairwise(found)} == {timedelta(hours=1)}


@pytest.mark.parametrize(
    ("policy", "run"),
    [
        (Policy(catch_up=CatchUp.SKIP), 0),
        (Policy(catch_up=CatchUp.ONCE), 1),
        (Policy(catch_up=CatchUp.ALL, limit=5), 5),
    ],
    ids=["skip", "once", "all up to the limit"],
)
def test_after_a_day_without_beat_each_policy_does_what_it_says(
    engine: Engine, ticks: Ticks, policy: Policy, run: int
) -> None:
    now = _now(engine)
    # A quarter of an hour off the present, so that no tick is on time by chance.
    minute = (now.minute + 15) % 60
    line = replace(_LINE, cron=Cron(expression=f"{minute} * * * *"), policy=policy)
    _decided(engine, timedelta(days=1))
    with engine.begin() as tx:
        tx.execute(update(schedule).values(fingerprint=line.fingerprint))
    assert ticks.decide([line]) == run
    found = _states(engine)
    assert found.get("due", 0) == run
    assert found["skipped"] == 24 - run
    assert all(past.note for past in tick_book.history(engine) if past.state == "skipped")


def test_a_clock_that_is_set_back_brings_no_tick_a_second_time(
    engine: Engine, ticks: Ticks
) -> None:
    _decided(engine, timedelta(hours=6))
    due = ticks.decide([_LINE])
    # As it stands when the clock was a day ahead and is right again.
    _decided(engine, -timedelta(days=1))
    assert ticks.decide([_LINE]) == 0
    assert tick_book.standings(engine)["hourly"].decided_until <= _now(engine)
    _decided(engine, timedelta(hours=6))
    assert ticks.decide([_LINE]) == 0
    assert _states(engine) == {"due": due}


def test_a_clock_that_is_corrected_by_seconds_moves_nothing(engine: Engine, ticks: Ticks) -> None:
    ahead = _decided(engine, -timedelta(seconds=20))
    assert ticks.decide([_LINE]) == 0
    assert tick_book.standings(engine)["hourly"].decided_until == ahead


def test_a_changed_line_does_not_catch_up(engine: Engine, ticks: Ticks) -> None:
    _decided(engine, timedelta(hours=6))
    other = replace(_LINE, cron=Cron(expression="0 * * * *", zone="Asia/Kolkata"))
    assert ticks.decide([other]) <= 1
    assert sum(_states(engine).values()) <= 1


def test_a_line_that_was_switched_off_does_not_catch_up_either(
    engine: Engine, ticks: Ticks
) -> None:
    _decided(engine, timedelta(hours=6))
    assert ticks.decide([replace(_LINE, enabled=False)]) == 0
    assert ticks.decide([_LINE]) <= 1
    assert sum(_states(engine).values()) <= 1


def test_a_tick_carries_what_to_run_and_is_finished_once(engine: Engine, ticks: Ticks) -> None:
    _decided(engine, timedelta(hours=2))
    ticks.decide([_LINE])
    first = _claim(ticks)
    assert (first.job, first.arguments, first.time_limit_s) == ("noop", {"days": 3}, 60)
    assert ticks.finish(first, ok=True, result="did it, token=s3cret")
    assert not ticks.finish(first, ok=False, result="again")
    past = tick_book.outcome(engine, "hourly", first.tick_at)
    assert (past.state, past.runs, past.result) == ("done", 1, "did it, token=***")
    assert _claim(ticks).tick_at == first.tick_at + timedelta(hours=1)


def test_ticks_of_one_line_run_one_after_the_other_and_of_two_lines_side_by_side(
    engine: Engine, ticks: Ticks
) -> None:
    other = replace(_LINE, name="other")
    for name in ("hourly", "other"):
        _decided(engine, timedelta(hours=3), name)
    ticks.decide([_LINE, other])
    running = [_claim(ticks), _claim(ticks)]
    assert {each.name for each in running} == {"hourly", "other"}
    assert ticks.claim("three", lease_s=60) is None
    ticks.finish(running[0], ok=True, result="")
    assert _claim(ticks).name == running[0].name


def test_many_runners_at_once_run_each_tick_once(engine: Engine, ticks: Ticks) -> None:
    lines = [replace(_LINE, name=f"line-{number}") for number in range(4)]
    for line in lines:
        _decided(engine, timedelta(hours=10), line.name)
    due = ticks.decide(lines)

    def work(number: int) -> int:
        done = 0
        while (claimed := ticks.claim(f"runner-{number}", lease_s=60)) is not None:
            done += ticks.finish(claimed, ok=True, result="")
        return done

    while _states(engine).get("due"):
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
    assert _states(engine) == {"done": due}
    assert {past.runs for past in tick_book.history(engine, limit=1000)} == {1}


def test_a_lost_runner_is_followed_by_another_one_and_changes_nothing_any_more(
    engine: Engine, ticks: Ticks
) -> None:
    _decided(engine, timedelta(hours=1))
    ticks.decide([_LINE])
    first = _claim(ticks, "lost")
    assert ticks.release().again == 0
    _lose(engine)
    assert ticks.release().again == 1
    second = _claim(ticks, "second")
    assert (second.tick_at, second.runs) == (first.tick_at, 2)
    assert ticks.renew([first, second], lease_s=60) == [second]
    assert not ticks.finish(first, ok=True, result="late")
    assert not ticks.hand_back(first)
    assert ticks.finish(second, ok=True, result="in time")
    past = tick_book.outcome(engine, "hourly", first.tick_at)
    assert (past.runs, past.result, past.runner) == (2, "in time", "second")


def test_a_renewed_lease_is_not_lost(engine: Engine, ticks: Ticks) -> None:
    _decided(engine, timedelta(hours=1))
    ticks.decide([_LINE])
    claimed = _claim(ticks)
    _lose(engine)
    assert ticks.renew([claimed], lease_s=60) == [claimed]
    assert ticks.release().again == 0


def test_a_tick_that_takes_every_runner_with_it_is_given_up(engine: Engine, ticks: Ticks) -> None:
    _decided(engine, timedelta(hours=1))
    ticks.decide([_LINE])
    for _ in range(LOST_MAX):
        claimed = _claim(ticks)
        _lose(engine)
        ticks.release()
    assert ticks.claim("one", lease_s=60) is None
    past = tick_book.outcome(engine, "hourly", claimed.tick_at)
    assert past.state == "failed"
    assert "lost 3 times" in past.result


def test_a_tick_that_is_handed_back_is_taken_at_once(engine: Engine, ticks: Ticks) -> None:
    _decided(engine, timedelta(hours=1))
    ticks.decide([_LINE])
    first = _claim(ticks)
    assert ticks.hand_back(first)
    assert _claim(ticks, "two").runs == 1


def test_ticks_that_were_handed_back_are_not_nearer_to_being_given_up(
    engine: Engine, ticks: Ticks
) -> None:
    _decided(engine, timedelta(hours=1))
    ticks.decide([_LINE])
    for _ in range(LOST_MAX):
        assert ticks.hand_back(_claim(ticks))
    _claim(ticks)
    _lose(engine)
    assert ticks.release() == Lost(again=1, given_up=0)
    assert _claim(ticks, "two").runs == 2


def test_a_paused_line_neither_ticks_nor_runs_and_catches_nothing_up(
    engine: Engine, ticks: Ticks
) -> None:
    _decided(engine, timedelta(hours=1))
    ticks.decide([_LINE])
    tick_book.pause(engine, "hourly", who="li", why="maintenance")
    with pytest.raises(WrongStateError, match="paused already"):
        tick_book.pause(engine, "hourly", who="li", why="again")
    assert ticks.claim("one", lease_s=60) is None
    assert not ticks.unheard(after_s=0)
    _decided(engine, timedelta(hours=5))
    assert ticks.decide([_LINE]) == 0
    tick_book.resume(engine, "hourly", who="li", why="over")
    assert ticks.decide([_LINE]) == 0
    assert _claim(ticks).name == "hourly"
    with pytest.raises(WrongStateError, match="not paused"):
        tick_book.resume(engine, "hourly", who="li", why="over")
    with engine.connect() as connection:
        kept = connection.execute(select(audit.c.action, audit.c.actor, audit.c.why)).all()
    assert [tuple(row) for row in kept] == [
        ("schedule.pause", "li", "maintenance"),
        ("schedule.resume", "li", "over"),
    ]


def test_a_run_by_hand_is_a_tick_of_its_own(engine: Engine, ticks: Ticks) -> None:
    ticks.decide([_LINE])
    tick_at = tick_book.order(engine, _LINE, who="li", why="a merchant waits")
    claimed = _claim(ticks)
    assert claimed.tick_at == tick_at
    ticks.finish(claimed, ok=True, result="")
    assert tick_book.history(engine)[0].note == "ordered by li: a merchant waits"


@pytest.mark.parametrize(
    ("after_s", "found"), [(0.0, True), (3600.0, False)], ids=["decided long ago", "just now"]
)
def test_a_tick_that_nobody_took_is_found_without_a_bell(
    engine: Engine, ticks: Ticks, after_s: float, found: bool
) -> None:
    _decided(engine, timedelta(hours=1))
    ticks.decide([_LINE])
    assert ticks.unheard(after_s=after_s) is found
    _claim(ticks)
    assert not ticks.unheard(after_s=0)


def test_history_is_read_page_by_page(engine: Engine, ticks: Ticks) -> None:
    _decided(engine, timedelta(hours=30))
    due = ticks.decide([_LINE])
    ticks.finish(_claim(ticks), ok=True, result="")
    page = tick_book.history(engine, "hourly", limit=10)
    rest = tick_book.history(engine, "hourly", limit=1000, before=page[-1].tick_at)
    times = [past.tick_at for past in (*page, *rest)]
    assert len(times) == due
    assert times == sorted(times, reverse=True)
    assert [past.state for past in rest][-1] == "done"


def test_a_beat_is_seen(engine: Engine) -> None:
    assert tick_book.beat_age_s(engine) is None
    tick_book.show_beat(engine, "host:1")
    tick_book.show_beat(engine, "host:2")
    age_s = tick_book.beat_age_s(engine)
    assert age_s is not None
    assert age_s < 60


def test_what_is_asked_every_second_reads_only_what_is_open(postgres_engine: Engine) -> None:
    """With a hundred thousand ticks of the past no statement reads the table as a whole."""
    engine = postgres_engine
    ticks = Ticks(engine)
    _decided(engine, timedelta(hours=1))
    with engine.begin() as tx:
        tx.exec_driver_sql(
            "INSERT INTO paynotify_tick (name, tick_at, state) SELECT 'hourly',"
            " now() - n * interval '1 minute' - interval '3 hours', 'done'"
            " FROM generate_series(1, 100000) n"
        )
    with engine.begin() as tx:
        tx.exec_driver_sql("SELECT pg_stat_reset_single_table_counters('paynotify_tick'::regclass)")
    before = _rows_read(engine)
    ticks.decide([_LINE])
    ticks.unheard(after_s=0)
    ticks.release()
    claimed = _claim(ticks)
    ticks.renew([claimed], lease_s=60)
    ticks.finish(claimed, ok=True, result="")
    tick_book.history(engine, limit=10)
    tick_book.standings(engine)
    assert _rows_read(engine) - before < 200


def _rows_read(engine: Engine) -> int:
    """Rows that scans of the ticks have read so far, as PostgreSQL counts them."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        return int(
            connection.exec_driver_sql(
                "SELECT coalesce(sum(seq_tup_read), 0) + coalesce(sum(idx_tup_fetch), 0)"
                " FROM pg_stat_user_tables WHERE relname = 'paynotify_tick'"
            ).scalar_one()
        )
