"""Redrive: dead letters of an endpoint that has recovered are sent again, slowly, by themselves.

Only letters whose tries ran out, of active endpoints that want it, whose lane is spotless (breaker
closed, no ramp, no failure since its last success), and that died before a minute in which the
endpoint acknowledged something. Each one is kept in the audit log as ordered by ``revival``.

Must never revive more than the endpoint can be seen to bear, nor the same notification more often
than the settings say: what dies again and again is left to people.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, Engine

from schedules import redrive_rows as rows
from schedules.redrive_rows import Candidate
from schedules.revival import WHO, Pace, next_size
from schedules.sweep import Step
from worker.models import Endpoint, EndpointState
from worker.runtime import Desk
from worker.settings import Settings
from worker.store import Store

# Letters one batch looks at, and endpoints it passes by.
_PAGE = 200
_ENDPOINTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What one batch is going to do; ``cursor`` is where the next one begins."""

    endpoint: Endpoint | None = None
    letters: tuple[Candidate, ...] = ()
    cursor: str = ""


class Redrive:
    """A :class:`schedules.sweep.Sweep`; a letter that is no longer open is left alone.

    Args:
        engine: of the database with our tables.
        store: the only writer of delivery state.
        pace: how fast.
    """

    name = "redrive"

    def __init__(self, engine: Engine, store: Store, pace: Pace) -> None:
        self._engine = engine
        self._store = store
        self._pace = pace

    def step(self, cursor: str) -> Step:
        """Revive a batch of one endpoint; see :meth:`schedules.sweep.Sweep.step`.

        The batch is written down first: whoever dies in between has it waited for all the same.
        """
        if not self._pace.times_max:
            return Step()
        endpoint_id, _, letter_id = cursor.partition(":")
        with self._engine.begin() as tx:
            plan = self._plan(tx, int(endpoint_id or 0), int(letter_id or 0))
        if plan.endpoint is None or not plan.letters:
            return Step(cursor=plan.cursor)
        rate = plan.endpoint.rate_per_s
        revived = self._store.redrive(
            [letter.id for letter in plan.letters],
            who=WHO,
            why=f"endpoint {plan.endpoint.name} acknowledges again",
            over_s=0.0 if rate is None else len(plan.letters) / rate,
        )
        return Step(cursor=plan.cursor, counts={"revived": len(revived)} if revived else {})

    def _plan(self, tx: Connection, endpoint_id: int, letter_id: int) -> _Plan:
        """Choose a batch and write it down.

        Args:
            tx: a transaction.
            endpoint_id: go on behind it, or within it when ``letter_id`` is given.
            letter_id: the last letter that was looked at; 0 is none.
        """
        if letter_id:
            endpoint = rows.endpoint(tx, endpoint_id)
            return self._of_endpoint(tx, endpoint, letter_id) if endpoint else _go_on(endpoint_id)
        for _ in range(_ENDPOINTS):
            endpoint_id = rows.next_endpoint(tx, endpoint_id)
            if not endpoint_id:
                return _Plan()
            endpoint = rows.endpoint(tx, endpoint_id)
            if endpoint is not None:
                plan = self._of_endpoint(tx, endpoint, 0)
                if plan.letters or ":" in plan.cursor:
                    return plan
        return _go_on(endpoint_id)

    def _of_endpoint(self, tx: Connection, endpoint: Endpoint, letter_id: int) -> _Plan:
        size = self._size(tx, endpoint)
        if not size:
            return _go_on(endpoint.id)
        acked_at = rows.acked_at(tx, endpoint.id)
        if acked_at is None:
            return _go_on(endpoint.id)
        oldest = rows.now(tx) - timedelta(seconds=self._pace.within_s)
        page = rows.open_letters(tx, endpoint.id, after=letter_id, limit=_PAGE)
        fit = rows.fit(
            tx, page, died=(oldest, acked_at), times_max=self._pace.times_max, limit=size
        )
        if fit:
            rows.write_down(tx, endpoint.id, size, [letter.notification_id for letter in fit])
            return _Plan(endpoint=endpoint, letters=tuple(fit), cursor=str(endpoint.id))
        if len(page) < _PAGE:
            return _go_on(endpoint.id)
        return _Plan(cursor=f"{endpoint.id}:{page[-1].id}")

    def _size(self, tx: Connection, endpoint: Endpoint) -> int:
        if endpoint.state is not EndpointState.ACTIVE or not endpoint.revive:
            return 0
        last, fates = rows.last_batch(tx, endpoint.id)
        return next_size(
            last,
            fates,
            batch_max=self._pace.batch_max,
            in_flight_cap=endpoint.in_flight_cap,
            rate_per_s=endpoint.rate_per_s,
        )


def pace(chosen: Settings) -> Pace:
    """Take the pace from the settings."""
    return Pace(
        batch_max=chosen.revive_batch_max,
        times_max=chosen.revive_times_max,
        within_s=chosen.revive_within_days * 86_400.0,
    )


def sweep(desk: Desk) -> Redrive:
    """Make the sweep of a process."""
    return Redrive(desk.engine, desk.store, pace(desk.settings))


def _go_on(endpoint_id: int) -> _Plan:
    return _Plan(cursor=str(endpoint_id))
