"""The sweep that finds paid and refunded orders nobody was told of, and tells the merchant.

Part of compensation: a host that died between its order and our row, or merchants whose endpoints
were missing then. Must never tell what was told already, under whatever key the host told it, nor
tell "paid" of an order whose money went back in full.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, select

from schedules import cases, notices, rows
from schedules.decisions import (
    PAYMENT_SUCCEEDED,
    REFUND_FAILED,
    REFUND_SUCCEEDED,
    CaseReason,
    Policy,
)
from schedules.order_desk import open_orders
from schedules.order_states import WAS_PAID
from schedules.ports import Order, OrderPort, OrderState, RefundState
from schedules.sweep import Step
from schedules.windows import Kind
from worker import settings
from worker.client import Notifier
from worker.clock import from_us, to_us
from worker.drafts import Enqueue, draft
from worker.errors import BadFieldError, EventKeyConflictError, PaynotifyError
from worker.runtime import Desk
from worker.tables import endpoint, notification

_REFUND_EVENTS = {RefundState.SUCCESS: REFUND_SUCCEEDED, RefundState.FAILED: REFUND_FAILED}
# Whose endpoint, which order, and the key or type of an event that is there.
_Told = tuple[str, str, str]
_WHOLE_EVERY = timedelta(hours=1)
_WITH_REFUNDS = WAS_PAID - {OrderState.PAID}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """An event that should be there, and what it is about.

    Attributes:
        given_back: the order, when all of its money went back: then a person tells its merchant.
    """

    kind: Kind
    subject_no: str
    order_no: str
    merchant: str
    event: Enqueue
    given_back: Order | None = None


class OrderNotifications:
    """Finds and enqueues; a :class:`schedules.sweep.Sweep`.

    Args:
        engine: of the database with our tables and the orders.
        orders: the host's.
        notifier: enqueues in our transaction.
        policy_of: the policy of a merchant.
        look_back_s: how long ago an order may have ended. So far back a round looks once an hour;
            the others look at what changed since the round before.
        grace_s: seconds a host has for its own notification.
        page: orders looked at in one step.
        read_now: the database's time; a test brings its own.
    """

    name = "order_notifications"

    def __init__(
        self,
        engine: Engine,
        orders: OrderPort,
        notifier: Notifier,
        *,
        policy_of: Callable[[str], Policy] = lambda _: Policy(),
        look_back_s: float = 86_400.0,
        grace_s: float = 300.0,
        page: int = 50,
        read_now: Callable[[Connection], datetime] = rows.now,
    ) -> None:
        self._engine, self._orders, self._notifier = engine, orders, notifier
        self._policy_of, self._page, self._read_now = policy_of, page, read_now
        self._look_back = timedelta(seconds=look_back_s)
        self._grace = timedelta(seconds=grace_s)
        self._round: tuple[datetime, bool] | None = None
        self._seen_until: datetime | None = None
        self._whole_at: datetime | None = None

    def step(self, cursor: str) -> Step:
        """Look at one page of orders, the longest ended first; again is harmless."""
        with self._engine.begin() as tx:
            now = self._read_now(tx)
            since, after = _place(cursor) or (self._begin(now), "")
            found = self._orders.ended(tx, since=since, after=after, limit=self._page)
            latest = now - self._grace
            old = [one for one in found if one.changed_at and one.changed_at <= latest]
            counts = self._tell(tx, self._untold(tx, old), now)
        if old:
            counts["orders"] = len(old)
        last = old[-1] if old else None
        # What follows is younger still, or there is nothing more.
        if last is None or last.changed_at is None or len(old) < self._page:
            self._end()
            return Step(counts=counts)
        return Step(cursor=f"{to_us(last.changed_at)}|{last.order_no}", counts=counts)

    def _begin(self, now: datetime) -> datetime:
        """Say from when on the round looks; a whole one when this process has no recent one."""
        whole = self._whole_at is None or now - self._whole_at >= _WHOLE_EVERY
        self._round = (now, whole)
        if whole or self._seen_until is None:
            return now - self._look_back
        # Once more what was too young then, and what was committed late.
        return self._seen_until - 2 * self._grace

    def _end(self) -> None:
        # A round that another process began says nothing here.
        if self._round is not None:
            now, whole = self._round
            self._seen_until = now
            self._whole_at = now if whole else self._whole_at
            self._round = None

    def _untold(self, tx: Connection, orders: Sequence[Order]) -> list[_Wanted]:
        """Write the events that should be there, without those that are."""
        wanted: list[_Wanted] = []
        for order in orders:
            events = self._policy_of(order.merchant).events
            if PAYMENT_SUCCEEDED in events:
                event = notices.of_order(order, PAYMENT_SUCCEEDED)
                wanted.append(_wanted(Kind.ORDER, order.order_no, order, event))
            if order.state in _WITH_REFUNDS:
                wanted += self._refund_events(tx, order, events)
        told = _told(tx, sorted({one.order_no for one in wanted}))
        return [one for one in wanted if not _is_told(one, told)]

    def _refund_events(self, tx: Connection, order: Order, events: frozenset[str]) -> list[_Wanted]:
        found = []
        for refund in self._orders.refunds_of(tx, order.order_no) or ():
            name = _REFUND_EVENTS.get(refund.state)
            if name is not None and name in events:
                event = notices.of_refund(order, refund, name)
                found.append(_wanted(Kind.REFUND, refund.refund_no, order, event))
        return found

    def _tell(self, tx: Connection, untold: Sequence[_Wanted], now: datetime) -> dict[str, int]:
        counts: dict[str, int] = {}
        drafts, whose = [], []
        for one in untold:
            if one.given_back is not None:
                cases.see(tx, _given_back(one.given_back, one.event.event_type), now=now)
                _add(counts, "given_back")
                continue
            try:
                drafts.append(draft(one.event))
                whose.append(one)
            except BadFieldError:
                _add(counts, "refused")
        told: list[_Wanted] = []
        for one, outcome in zip(whose, self._notifier.take(tx, drafts), strict=True):
            if isinstance(outcome, EventKeyConflictError):
                _add(counts, "told_before")
            elif isinstance(outcome, PaynotifyError):
                _add(counts, "refused")
            elif not outcome:
                _add(counts, "unwanted")
            else:
                _add(counts, "told")
                told.append(one)
        _heal(tx, told, now)
        return counts


def _heal(tx: Connection, told: Sequence[_Wanted], now: datetime) -> None:
    for kind in Kind:
        subjects = [one.subject_no for one in told if one.kind is kind]
        cases.heal(tx, kind, subjects, (CaseReason.NOT_NOTIFIED,), now=now)


def sweep(desk: Desk) -> OrderNotifications:
    """Make the sweep of what ``orders.toml`` says.

    Raises:
        SettingsError: the file is wrong; with all of its problems.
    """
    at = open_orders(desk.engine, settings.folder())
    chosen = at.options.compensation
    return OrderNotifications(
        desk.engine,
        at.orders,
        desk.notifier,
        policy_of=at.policy_of,
        look_back_s=chosen.look_back_s,
        grace_s=chosen.grace_s,
    )


def _wanted(kind: Kind, subject_no: str, order: Order, event: Enqueue) -> _Wanted:
    return _Wanted(
        kind=kind,
        subject_no=subject_no,
        order_no=order.order_no,
        merchant=order.merchant,
        event=event,
        given_back=order if kind is Kind.ORDER and _all_went_back(order) else None,
    )


def _all_went_back(order: Order) -> bool:
    return order.state is OrderState.REFUNDED or order.refunded_minor >= order.amount_minor


def _given_back(order: Order, event: str) -> cases.Disagreement:
    # Told "paid" now, the merchant could deliver what nobody pays for.
    return cases.Disagreement(
        reason=CaseReason.NOT_NOTIFIED,
        kind=Kind.ORDER,
        subject_no=order.order_no,
        order_no=order.order_no,
        channel=order.channel,
        merchant=order.merchant,
        amount_minor=order.amount_minor,
        currency=order.currency,
        suggestion=(
            "It was paid and refunded in full before the merchant was told of the payment, and is "
            "not told now: ask the merchant whether it has delivered."
        ),
        facts={"event": event, "state": order.state.value, "refunded_minor": order.refunded_minor},
    )


def _told(tx: Connection, numbers: Sequence[str]) -> set[_Told]:
    if not numbers:
        return set()
    query = (
        select(
            endpoint.c.merchant,
            notification.c.order_no,
            notification.c.event_key,
            notification.c.event_type,
        )
        .join(endpoint, endpoint.c.id == notification.c.endpoint_id)
        .where(notification.c.order_no.in_(numbers))
    )
    told: set[_Told] = set()
    for merchant, order_no, key, name in tx.execute(query):
        told |= {(merchant, order_no, key), (merchant, order_no, name)}
    return told


def _is_told(wanted: _Wanted, told: set[_Told]) -> bool:
    whose = (wanted.merchant, wanted.order_no)
    if (*whose, wanted.event.event_key) in told:
        return True
    # A host's own words for the same event. Refunds of an order may be several.
    return wanted.kind is Kind.ORDER and (*whose, wanted.event.event_type) in told


def _add(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _place(cursor: str) -> tuple[datetime, str] | None:
    us, _, order_no = cursor.partition("|")
    return (from_us(int(us)), order_no) if us else None
