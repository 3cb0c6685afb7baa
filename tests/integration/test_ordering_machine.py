"""Lines of ordered notifications as a machine: any order of events, on both databases.

A model that fits in one's head runs beside the store; after every step both must agree, and first
successes of a key come in the order of ids unless a turn lasted too long.
"""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, delete, update

from tests.seeding import (
    DEAD,
    RETRY,
    add_lane,
    age,
    change_lane,
    letters_of,
    row_of,
    settle,
    store_on,
)
from worker import columns, tables
from worker.client import Notifier
from worker.models import Claimed, Pool, State
from worker.retry import DELIVERED
from worker.states import may_move

_WAIT_S = 500
_VERDICTS = {DELIVERED: State.DELIVERED, RETRY: State.WAITING, DEAD: State.DEAD}
_IN_LINE = (State.BLOCKED, State.WAITING, State.PENDING, State.SENDING)
_QUIET = (State.BLOCKED, State.WAITING, State.PENDING)


@dataclass
class Row:
    """What the model believes of one notification; ``turn_s`` is how long its turn lasts."""

    id: int
    key: str
    state: State = State.BLOCKED
    turn_s: int = 0
    due: bool = True
    lease_over: bool = False
    superseded_by: int | None = None


def machine(engine: Engine) -> type[RuleBasedStateMachine]:  # noqa: C901 - a class, not a flow
    """A machine on this engine, whose tables it empties for each run."""

    class Lines(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            with engine.begin() as tx:
                for table in reversed(columns.metadata.sorted_tables):
                    tx.execute(delete(table))
            self.store = store_on(engine)
            self.notifier = Notifier()
            self.rows: dict[int, Row] = {}
            self.claims: dict[int, Claimed] = {}
            self.marks: dict[str, int] = {}
            self.delivered: list[int] = []
            self.hurried: set[str] = set()
            self.held = False

        @initialize()
        def begin(self) -> None:
            self.lane = add_lane(engine)
            self.enqueue("a", supersede=False)

        @rule(key=st.sampled_from("ab"), supersede=st.sampled_from([False, False, False, True]))
        def enqueue(self, key: str, supersede: bool) -> None:
            with engine.begin() as tx:
                [row_id] = self.notifier.enqueue(
                    tx,
                    endpoint="acme",
                    event_type="order.moved",
                    event_key=f"e{len(self.rows)}",
                    payload={},
                    ordering_key=key,
                    ordering_wait_s=_WAIT_S,
                    supersede=supersede,
                )
            row = self.rows[row_id] = Row(row_id, key)
            if not self._in_front(row):
                self._go(row)
            if supersede:
                self.marks[key] = row_id
                self._follow(key)

        @rule()
        def claim(self) -> None:
            found = self.store.claim(Pool.FAST, limit=100, worker="w").rows
            pending = {row.id for row in self._of(State.PENDING)}
            assert {claimed.id for claimed in found} == (set() if self.held else pending)
            for claimed in found:
                self._move(self.rows[claimed.id], State.SENDING)
                self.rows[claimed.id].lease_over = False
                self.claims[claimed.id] = claimed

        @precondition(lambda self: self._of(State.SENDING))
        @rule(data=st.data(), verdict=st.sampled_from(list(_VERDICTS)))
        def settle(self, data: Any, verdict: Any) -> None:
            row = self.rows[data.draw(st.sampled_from([r.id for r in self._of(State.SENDING)]))]
            assert settle(self.store, [self.claims[row.id]], verdict) == ()
            self._move(row, _VERDICTS[verdict])
            row.due = verdict is not RETRY
            if verdict is DELIVERED:
                self.delivered.append(row.id)
            self._follow(row.key)

        @rule(seconds=st.sampled_from([61, 501]))
        def time_passes(self, seconds: int) -> None:
            age(engine, seconds)
            for row in self.rows.values():
                row.lease_over = row.due = True
                row.turn_s += seconds

        @rule()
        def stage(self) -> None:
            due = [row for row in self._of(State.WAITING) if row.due]
            assert self.store.stage(limit=100) == len(due)
            for row in due:
                self._move(row, State.PENDING)

        @rule()
        def look(self) -> None:
            now = self.store.now()
            with engine.begin() as tx:
                delivery = tables.delivery
                tx.execute(update(delivery).where(delivery.c.state == "blocked").values(due_at=now))
            lines = {row.key for row in self._of(State.BLOCKED)}
            assert self.store.look(limit=100) == sum(self._follow(key) for key in sorted(lines))

        @rule()
        def release(self) -> None:
            lost = [row for row in self._of(State.SENDING) if row.lease_over]
            self.store.release(limit=100)
            for row in lost:
                # Twice in a row would send it alone; that is another machine's subject.
                self._forgive(row.id)
                self._move(row, State.PENDING)
            for key in {row.key for row in lost}:
                self._follow(key)

        @precondition(lambda self: self._of(*_QUIET))
        @rule(data=st.data())
        def cancel(self, data: Any) -> None:
            row = self.rows[data.draw(st.sampled_from([row.id for row in self._of(*_QUIET)]))]
            with engine.begin() as tx:
                assert self.notifier.cancel(tx, row.id)
            self._move(row, State.CANCELLED)
            self._follow(row.key)

        @precondition(lambda self: self._of(State.DEAD))
        @rule(data=st.data(), discard=st.booleans())
        def operator(self, data: Any, discard: bool) -> None:
            row = self.rows[data.draw(st.sampled_from([row.id for row in self._of(State.DEAD)]))]
            letter = letters_of(engine, row.id)[-1].id
            if discard:
                assert self.store.discard([letter], who="kim", why="test") == [letter]
                self._move(row, State.CANCELLED)
                return
            sent = [
                other.id
                for other in self.rows.values()
                if other.key == row.key
                and other.state not in (State.BLOCKED, State.DEAD, State.CANCELLED)
            ]
            left_behind = row.id < max([*sent, self.marks.get(row.key, 0)], default=0)
            done = self.store.redrive([letter], who="kim", why="test", over_s=0)
            assert done == ([] if left_behind else [letter])
            if not left_behind:
                self._move(row, State.BLOCKED)
                row.due = True

        @rule()
        def hold_or_resume(self) -> None:
            self.held = not self.held
            change_lane(engine, self.lane, held=self.held)

        @invariant()
        def model_and_database_agree(self) -> None:
            for row in self.rows.values():
                stored = row_of(engine, row.id)
                assert stored.state == row.state, row
                assert stored.superseded_by == row.superseded_by
                blocked_or_new = row.state in (State.BLOCKED, State.CANCELLED)
                assert blocked_or_new or stored.turn_at is not None

        @invariant()
        def first_successes_come_in_order(self) -> None:
            for key in {"a", "b"} - self.hurried:
                ids = [id_ for id_ in self.delivered if self.rows[id_].key == key]
                assert ids == sorted(ids)
                # One at a time, the first of those that are left.
                line = [row for row in self.rows.values() if row.key == key and self._left(row)]
                assert all(row.state is State.BLOCKED for row in line[1:])

        def teardown(self) -> None:
            """Without more faults, everything accepted comes to an end."""
            if self.held:
                self.hold_or_resume()
            for _ in range(len(self.rows) + 2):
                self.time_passes(501)
                self.release()
                self.stage()
                self.look()
                self.claim()
                for row in self._of(State.SENDING):
                    settle(self.store, [self.claims[row.id]])
                    self._move(row, State.DELIVERED)
                    self.delivered.append(row.id)
                    self._follow(row.key)
                self.model_and_database_agree()
                self.first_successes_come_in_order()
            assert not [row for row in self.rows.values() if self._left(row)]

        def _follow(self, key: str) -> int:
            """Drop what is superseded and let the first blocked one go, if it may; how many go."""
            mark = self.marks.get(key, 0)
            for row in self.rows.values():
                if row.key == key and row.id < mark and row.state in _QUIET:
                    self._move(row, State.CANCELLED)
                    row.superseded_by = mark
            blocked = [row for row in self._of(State.BLOCKED) if row.key == key]
            if not blocked or any(not self._gives_way(row) for row in self._in_front(blocked[0])):
                return 0
            if self._in_front(blocked[0]):
                self.hurried.add(key)
            self._go(blocked[0])
            return 1

        def _gives_way(self, row: Row) -> bool:
            tired = row.state is State.WAITING and not row.due and row.turn_s >= _WAIT_S
            return tired and not self.held

        def _go(self, row: Row) -> None:
            self._move(row, State.PENDING)
            row.turn_s = 0

        def _move(self, row: Row, state: State) -> None:
            assert may_move(row.state, state), (row, state)
            row.state = state

        def _in_front(self, row: Row) -> list[Row]:
            return [
                other
                for other in self.rows.values()
                if other.key == row.key and other.id < row.id and self._left(other)
            ]

        def _forgive(self, row_id: int) -> None:
            delivery = tables.delivery
            with engine.begin() as tx:
                tx.execute(update(delivery).where(delivery.c.id == row_id).values(abandoned=0))

        def _left(self, row: Row) -> bool:
            return row.state in _IN_LINE

        def _of(self, *states: State) -> list[Row]:
            return [row for row in self.rows.values() if row.state in states]

    return Lines


@pytest.mark.timeout(300)
def test_any_order_of_events_keeps_every_line_in_order(engine: Engine) -> None:
    examples = 25 if engine.dialect.name == "sqlite" else 12
    run_state_machine_as_test(
        machine(engine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
