"""The loop of the sweeps: one runner, a cursor that survives, a budget, a heartbeat."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from schedules import rows, sweep
from schedules.deadline import Deadline
from schedules.sweep import Step, Summary
from worker.tables_schedules import sweep as sweep_row


class KilledError(BaseException):
    """Stands for kill -9: nothing that is written after it can be written."""


@dataclass
class Counting:
    """A sweep over the numbers 1 to ``last``; remembers what it was asked for."""

    name: str = "counting"
    last: int = 5
    before: Callable[[int], object] = lambda _: None
    seen: list[int] = field(default_factory=list)

    def step(self, cursor: str) -> Step:
        number = int(cursor or 0) + 1
        self.before(number)
        self.seen.append(number)
        return Step(cursor="" if number == self.last else str(number), counts={"seen": 1})


def _run(engine: Engine, counting: Counting, **fields: Any) -> Summary:
    values: dict[str, Any] = {"runner": "one", "budget_s": 60, **fields}
    return sweep.run(engine, counting, **values)


def _forget_lease(engine: Engine) -> None:
    """Let the lease of a killed runner be over."""
    with engine.begin() as tx:
        over = rows.now(tx) - timedelta(seconds=1)
        tx.execute(update(sweep_row).values(lease_until=over))


def _killed_at(number: int) -> Callable[[int], None]:
    def kill(reached: int) -> None:
        if reached == number:
            raise KilledError

    return kill


def test_a_round_goes_from_the_beginning_to_the_end_and_keeps_its_counts(engine: Engine) -> None:
    counting = Counting()
    done = _run(engine, counting)
    assert done == Summary(name="counting", steps=5, counts={"seen": 5}, whole=True)
    [state] = sweep.states(engine)
    assert (state.cursor, state.last_counts, state.last_error) == ("", {"seen": 5}, "")
    assert state.round_started_at
    assert state.round_finished_at
    assert state.beat_at
    assert state.round_started_at <= state.beat_at <= state.round_finished_at
    assert _run(engine, counting).whole
    assert counting.seen == [1, 2, 3, 4, 5] * 2
    assert sweep.states(engine)[0].last_counts == {"seen": 5}


def test_every_batch_leaves_a_heartbeat_with_the_counts_so_far(engine: Engine) -> None:
    found = []

    def look(number: int) -> None:
        with engine.connect() as connection:
            row = connection.execute(select(sweep_row)).one()
        found.append((row.cursor, json.loads(row.counts), row.beat_at, row.runner))

    _run(engine, Counting(last=3, before=look))
    assert [(cursor, counts) for cursor, counts, *_ in found] == [
        ("", {}),
        ("1", {"seen": 1}),
        ("2", {"seen": 2}),
    ]
    beats = [beat_at for *_, beat_at, _ in found]
    assert beats == sorted(beats)
    assert {runner for *_, runner in found} == {"one"}


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_killed_runner_is_followed_by_one_that_goes_on_at_its_cursor(
    engine: Engine, number: int
) -> None:
    first, second = Counting(before=_killed_at(number)), Counting()
    with pytest.raises(KilledError):
        _run(engine, first)
    assert _run(engine, second, runner="two").busy == "one"
    _forget_lease(engine)
    assert _run(engine, second, runner="two").whole
    assert first.seen + second.seen == [1, 2, 3, 4, 5]
    assert sweep.states(engine)[0].last_counts == {"seen": 5}


def test_only_one_runs_at_a_time(engine: Engine) -> None:
    inner: list[Summary] = []
    second = Counting()

    def intrude(_: int) -> None:
        inner.append(_run(engine, second, runner="two"))

    assert _run(engine, Counting(last=2, before=intrude)).whole
    assert inner == [Summary(name="counting", busy="one")] * 2
    assert second.seen == []


def test_two_sweeps_do_not_wait_for_each_other(engine: Engine) -> None:
    other = Counting(name="other", last=1)
    assert _run(engine, Counting(last=1, before=lambda _: _run(engine, other))).whole
    assert other.seen == [1]


def test_who_slept_through_its_lease_stops_and_changes_nothing(engine: Engine) -> None:
    second = Counting(last=9, before=_killed_at(4))

    def oversleep(number: int) -> None:
        if number == 2:
            _forget_lease(engine)
            with pytest.raises(KilledError):
                _run(engine, second, runner="two")

    done = _run(engine, Counting(before=oversleep))
    assert (done.busy, done.steps, done.whole) == ("two", 2, False)
    [state] = sweep.states(engine)
    assert (state.runner, state.cursor, state.counts) == ("two", "3", {"seen": 3})


def test_when_the_budget_is_used_up_the_next_run_goes_on(engine: Engine) -> None:
    counting = Counting()
    now_s = 0.0

    def take_time(_: int) -> None:
        nonlocal now_s
        now_s += 1

    counting.before = take_time
    far = Deadline(1000, monotonic_s=lambda: now_s)
    done = _run(engine, counting, deadline=far, budget_s=2)
    assert (done.steps, done.whole, done.counts) == (2, False, {"seen": 2})
    assert done.line == "counting: 2 batches, seen 2, goes on next time"
    assert _run(engine, counting).counts == {"seen": 3}
    assert counting.seen == [1, 2, 3, 4, 5]
    assert sweep.states(engine)[0].last_counts == {"seen": 5}


def test_the_deadline_of_the_job_ends_a_run_before_its_budget(engine: Engine) -> None:
    counting = Counting()
    stop = Deadline(60, cut=lambda: len(counting.seen) >= 3)
    assert _run(engine, counting, deadline=stop).steps == 3
    assert _run(engine, counting, deadline=Deadline(0)).steps == 0
    assert _run(engine, counting).whole


def test_a_batch_that_fails_is_told_kept_and_begun_again(engine: Engine) -> None:
    def fail(number: int) -> None:
        if number == 3:
            raise ValueError("bad row, token=s3cret")

    with pytest.raises(ValueError, match="bad row"):
        _run(engine, Counting(before=fail))
    [state] = sweep.states(engine)
    assert state.last_error == "ValueError: bad row, token=***"
    assert state.cursor == "2"
    counting = Counting()
    assert _run(engine, counting).whole
    assert counting.seen == [3, 4, 5]
    assert sweep.states(engine)[0].last_error == ""
