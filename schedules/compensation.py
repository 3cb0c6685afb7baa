"""Compensation: what was lost on its way is found again, for the whole database.

Every worker's tick does the same for as long as one of them lives; this sweep does it besides, on
the schedule, with counts that are kept. One round: leases that ran out are released, what has come
due is staged, what nothing holds up any more is let go, the inbox is taken in (a host's SQL rings
no bell), orders that ended without a notification get theirs, and the bell rings for whatever is
due. Must never touch a lease that still holds, a row that is over or not yet due, and never sends
anything itself.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, cast

from sqlalchemy.exc import DBAPIError

from schedules.sweep import Step, Sweep
from worker import database, inbox, telemetry
from worker.doorbell import Doorbell
from worker.errors import PaynotifyError
from worker.inbox import Accepted
from worker.models import Pool
from worker.runtime import Desk
from worker.store import Store

# Rows one statement moves, and events one transaction takes in: each less than 100 ms.
_ROWS = 2000
_EVENTS = 100
# Longest a ring may wait for the broker; when it is away, the workers' ticks find the rows.
_RING_S = 1.0
_ORDERS = "schedules.order_notifications"


class Bell(Protocol):
    """Rings for the workers of a pool; False when nobody can hear it."""

    def ring(self, pool: Pool = ...) -> bool:
        """Ring unless a ring is pending."""
        ...


class Compensation:
    """A :class:`schedules.sweep.Sweep`; a batch done twice finds nothing the second time.

    Args:
        store: released, staged and asked what is due.
        take_in: accepts at most so many rows of the inbox.
        bell: rung for what is due.
        orders: one more sweep, for orders that ended without a notification; None is none.
        rows: most rows one statement moves.
    """

    name = "compensation"
    # In this order; the bell last, when everything there is to find is due.
    STAGES = ("release", "stage", "look", "inbox", "orders", "ring")

    def __init__(
        self,
        *,
        store: Store,
        take_in: Callable[[int], Accepted],
        bell: Bell,
        orders: Sweep | None = None,
        rows: int = _ROWS,
    ) -> None:
        self._store = store
        self._take_in = take_in
        self._bell = bell
        self._orders = orders
        self._rows = rows
        self._stages: dict[str, Callable[[str], Step]] = {
            "release": self._release,
            "stage": self._stage,
            "look": self._look,
            "inbox": self._inbox,
            "orders": self._order_notifications,
            "ring": self._ring,
        }

    def step(self, cursor: str) -> Step:
        """Do one batch of one stage; see :meth:`schedules.sweep.Sweep.step`."""
        named, _, after = cursor.partition(":")
        name, after = (named, after) if named in self.STAGES else (self.STAGES[0], "")
        step = self._stages[name](after)
        if step.cursor:
            return Step(cursor=f"{name}:{step.cursor}", counts=step.counts)
        following = self.STAGES[self.STAGES.index(name) + 1 :]
        return Step(cursor=following[0] if following else "", counts=step.counts)

    def _release(self, _after: str) -> Step:
        released = self._store.release(limit=self._rows)
        found = released.again + released.poisoned
        if found:
            telemetry.count_abandoned(found)
            telemetry.log(
                telemetry.Event.RELEASED,
                level="warning",
                again=released.again,
                poisoned=released.poisoned,
            )
        counts = {"released": released.again, "poisoned": released.poisoned}
        return _step(counts, more=found >= self._rows)

    def _stage(self, _after: str) -> Step:
        staged = self._store.stage(limit=self._rows)
        return _step({"staged": staged}, more=staged >= self._rows)

    def _look(self, _after: str) -> Step:
        # Whatever is not looked at now is looked at by the next round.
        return _step({"let_go": self._store.look(limit=self._rows)}, more=False)

    def _inbox(self, _after: str) -> Step:
        limit = min(self._rows, _EVENTS)
        taken = self._take_in(limit)
        counts = {"accepted": taken.accepted, "refused": taken.refused}
        return _step(counts, more=taken.accepted + taken.refused >= limit)

    def _order_notifications(self, after: str) -> Step:
        if self._orders is None:
            return Step()
        try:
            return self._orders.step(after)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the orders' alone
            # A host's table that is not as it was said to be must not keep leases from being
            # released: the next round would begin with the same mistake.
            telemetry.log(telemetry.Event.ORDERS_FAILED, level="error", why=_why(error))
            return Step(counts={"orders_failed": 1})

    def _ring(self, _after: str) -> Step:
        rung = sum(self._bell.ring(pool) for pool in sorted(self._store.due_pools()))
        return _step({"rung": rung}, more=False)


def sweep(desk: Desk) -> Compensation:
    """Make the sweep of a process."""

    def take_in(limit: int) -> Accepted:
        try:
            return inbox.accept(desk.engine, desk.notifier, limit=limit)
        except DBAPIError as error:
            raise database.unavailable(error) from error

    return Compensation(
        store=desk.store,
        take_in=take_in,
        bell=Doorbell(desk.broker_url, timeout_s=_RING_S),
        orders=_Orders(desk) if find_spec(_ORDERS) else None,
    )


class _Orders:
    """The sweep of :data:`_ORDERS`, made when a round comes to it: its settings may be wrong."""

    name = "order_notifications"

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._made: Sweep | None = None

    def step(self, cursor: str) -> Step:
        if self._made is None:
            make = cast("Callable[[Desk], Sweep]", import_module(_ORDERS).sweep)
            self._made = make(self._desk)
        return self._made.step(cursor)


def _why(error: Exception) -> str:
    if isinstance(error, DBAPIError):
        return str(database.unavailable(error))
    return str(error) if isinstance(error, PaynotifyError) else f"{type(error).__name__}: {error}"


def _step(counts: dict[str, int], *, more: bool) -> Step:
    kept = {name: count for name, count in counts.items() if count}
    return Step(cursor="more" if more else "", counts=kept)
