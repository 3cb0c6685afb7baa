"""The life of notifications as a machine: any order of events, on both databases.

A model that fits in one's head runs beside the store; after every step both must agree.
"""

from dataclasses import dataclass, field
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
    HOLD,
    RETRY,
    RULES,
    add_due,
    add_lane,
    age,
    attempts_of,
    change_lane,
    letters_of,
    row_of,
    settle,
    store_on,
)
from worker import columns, tables
from worker.models import Claimed, Pool, State
from worker.retry import DELIVERED
from worker.states import may_move
from worker.store import LOST_MAX
from worker.tables import SUSPECT_AFTER

_VERDICTS = {
    DELIVERED: State.DELIVERED,
    RETRY: State.WAITING,
    DEAD: State.DEAD,
    HOLD: State.PENDING,
}


@dataclass
class Row:
    """What the model believes of one notification."""

    state: State = State.PENDING
    attempts: int = 0
    abandoned: int = 0
    lease_over: bool = False
    due: bool = True
    outcomes: list[str | None] = field(default_factory=list)
    acked_by: list[int] = field(default_factory=list)


def machine(engine: Engine) -> type[RuleBasedStateMachine]:  # noqa: C901 - a class, not a flow
    """A machine on this engine, whose tables it empties for each run."""

    class Life(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            with engine.begin() as tx:
                for table in reversed(columns.metadata.sorted_tables):
                    tx.execute(delete(table))
            self.store = store_on(engine)
            self.rows: dict[int, Row] = {}
            self.claims: list[Claimed] = []
            self.held = False
            self.alone: set[int] = set()

        @initialize()
        def begin(self) -> None:
            self.lane = add_lane(engine)
            self.enqueue(later=False)

        @rule(later=st.booleans())
        def enqueue(self, later: bool) -> None:
            state, due_in_s = ("waiting", 1000.0) if later else ("pending", -1.0)
            [row_id] = add_due(
                engine, self.lane, 1, state=state, due_in_s=due_in_s, order_no=str(len(self.rows))
            )
            self.rows[row_id] = Row(state=State(state), due=not later)

        @rule()
        def claim(self) -> None:
            found = self.store.claim(Pool.FAST, limit=100, worker="w").rows
            expected = set() if self.held else self._claimable(suspect=False)
            assert {row.id for row in found} == expected
            self._take(found)

        @rule()
        def claim_suspect(self) -> None:
            expected = set() if self.held else self._claimable(suspect=True)
            assert self.store.suspects() == bool(expected)
            found = self.store.claim_suspect(worker="alone").rows
            self.alone |= {row.id for row in found}
            assert {row.id for row in found} <= expected
            assert bool(found) == bool(expected)
            self._take(found)

        @precondition(lambda self: self.claims)
        @rule(data=st.data(), verdict=st.sampled_from(list(_VERDICTS)))
        def settle(self, data: Any, verdict: Any) -> None:
            claimed = data.draw(st.sampled_from(self.claims))
            row = self.rows[claimed.id]
            ours = row.state is State.SENDING and claimed.claim_no == row.attempts
            already = row.outcomes[claimed.claim_no - 1] not in (None, "abandoned")
            stale = settle(self.store, [claimed], verdict)
            assert stale == (() if ours or already else (claimed.id,))
            if ours:
                assert may_move(row.state, _VERDICTS[verdict])
                row.state = _VERDICTS[verdict]
                row.outcomes[-1] = verdict.outcome.value
                row.abandoned = 0
                row.due = verdict is not RETRY
                if verdict is DELIVERED:
                    row.acked_by.append(claimed.claim_no)

        @rule(seconds=st.sampled_from([61, 1001]))
        def time_passes(self, seconds: int) -> None:
            age(engine, seconds)
            for row in self.rows.values():
                row.lease_over = True
                row.due = row.due or row.attempts > 0 or seconds > 1000

        @rule()
        def stage(self) -> None:
            due = [r for r in self.rows.values() if r.state is State.WAITING and r.due]
            assert self.store.stage(limit=100) == len(due)
            for row in due:
                row.state = State.PENDING

        @rule()
        def release(self) -> None:
            lost = [r for r in self.rows.values() if r.state is State.SENDING and r.lease_over]
            released = self.store.release(limit=100)
            assert released.again + released.poisoned == len(lost)
            for row in lost:
                row.abandoned += 1
                row.outcomes[-1] = "abandoned"
                poisoned = row.abandoned >= LOST_MAX
                row.state = State.DEAD if poisoned else State.PENDING

        @rule()
        def die_alone(self) -> None:
            lost = [
                row
                for row_id, row in self.rows.items()
                if row_id in self.alone and row.state is State.SENDING
            ]
            taken = self.store.condemn(worker="alone", why="killed")
            assert taken.again + taken.poisoned == len(lost)
            for row in lost:
                row.abandoned += 1
                row.outcomes[-1] = "abandoned"
                poisoned = row.abandoned >= RULES.poison_after
                row.state = State.DEAD if poisoned else State.PENDING

        @rule()
        def hold_or_resume(self) -> None:
            self.held = not self.held
            change_lane(engine, self.lane, held=self.held)

        @precondition(lambda self: self._of(State.WAITING, State.PENDING))
        @rule(data=st.data())
        def cancel(self, data: Any) -> None:
            row_id = data.draw(st.sampled_from(self._of(State.WAITING, State.PENDING)))
            with engine.begin() as tx:
                tx.execute(
                    update(tables.delivery)
                    .where(tables.delivery.c.id == row_id)
                    .where(tables.delivery.c.state.in_(["waiting", "pending"]))
                    .values(state="cancelled")
                )
            self.rows[row_id].state = State.CANCELLED

        @precondition(lambda self: self._of(State.DEAD))
        @rule(data=st.data(), discard=st.booleans())
        def operator(self, data: Any, discard: bool) -> None:
            row_id = data.draw(st.sampled_from(self._of(State.DEAD)))
            letter = letters_of(engine, row_id)[-1].id
            row = self.rows[row_id]
            assert may_move(row.state, State.CANCELLED if discard else State.PENDING)
            if discard:
                assert self.store.discard([letter], who="kim", why="test") == [letter]
                row.state = State.CANCELLED
            else:
                assert self.store.redrive([letter], who="kim", why="test", over_s=0) == [letter]
                row.state, row.abandoned, row.due = State.PENDING, 0, True

        @invariant()
        def model_and_database_agree(self) -> None:
            for row_id, row in self.rows.items():
                stored = row_of(engine, row_id)
                assert stored.state == row.state, row_id
                assert stored.attempt_no == stored.claim_no == row.attempts
                assert stored.abandoned == row.abandoned
                assert (stored.lease_until is not None) == (row.state is State.SENDING)
                attempts = attempts_of(engine, row_id)
                assert [a.attempt_no for a in attempts] == list(range(1, row.attempts + 1))
                assert [a.outcome for a in attempts] == row.outcomes
                # Exactly one open attempt, and only while sending.
                assert row.outcomes.count(None) == (row.state is State.SENDING)
                assert (row.state is State.DELIVERED) == bool(row.acked_by)
                assert len(row.acked_by) <= 1

        def teardown(self) -> None:
            """Without more faults, everything accepted comes to an end."""
            if self.held:
                self.hold_or_resume()
            for _ in range(RULES.poison_after + 2):
                self.time_passes(1001)
                self.release()
                self.stage()
                for found in (
                    self.store.claim(Pool.FAST, limit=100, worker="w"),
                    *(self.store.claim_suspect(worker="w") for _ in self.rows),
                ):
                    self._take(found.rows)
                    assert settle(self.store, found.rows) == () if found.rows else True
                    for claimed in found.rows:
                        row = self.rows[claimed.id]
                        row.state, row.abandoned = State.DELIVERED, 0
                        row.outcomes[-1] = "acked"
                        row.acked_by.append(claimed.claim_no)
            ended = {State.DELIVERED, State.DEAD, State.CANCELLED}
            assert {row.state for row in self.rows.values()} <= ended

        def _take(self, found: tuple[Claimed, ...]) -> None:
            for claimed in found:
                row = self.rows[claimed.id]
                if row.abandoned < SUSPECT_AFTER:
                    self.alone.discard(claimed.id)
                assert may_move(row.state, State.SENDING)
                row.attempts += 1
                assert (claimed.attempt_no, claimed.claim_no) == (row.attempts, row.attempts)
                row.state, row.lease_over = State.SENDING, False
                row.outcomes.append(None)
                self.claims.append(claimed)

        def _claimable(self, *, suspect: bool) -> set[int]:
            return {
                row_id
                for row_id, row in self.rows.items()
                if row.state is State.PENDING and (row.abandoned >= SUSPECT_AFTER) == suspect
            }

        def _of(self, *states: State) -> list[int]:
            return [row_id for row_id, row in self.rows.items() if row.state in states]

    return Life


@pytest.mark.timeout(300)
def test_any_order_of_events_keeps_every_promise(engine: Engine) -> None:
    examples = 25 if engine.dialect.name == "sqlite" else 12
    run_state_machine_as_test(
        machine(engine),
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
