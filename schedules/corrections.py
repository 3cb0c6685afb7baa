"""Carries channels' answers out: order, notification, evidence, case, next question, at once.

One transaction for a group of answers, each about another order. Killed before its commit nothing
has happened and the questions are asked again; after it everything has. Must never judge an answer
by an order that changed while the channel was asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection

from schedules import cases, proof, windows
from schedules.asking import Answered
from schedules.checks import TOO_OLD, Check, Checks
from schedules.decisions import decide
from schedules.order_pages import pages_of
from schedules.order_states import WAS_PAID
from schedules.ports import Order, OrderPort, Refund, RefundState
from schedules.refund_decisions import decide_refund, overdone
from schedules.sequels import Judged, Sequels
from worker.client import Notifier

OVERTAKEN = "overtaken"
CHANGED = "changed_meanwhile"
MOVED = "channel_changed"
GONE = "gone"

Row = TypeVar("Row", Order, Refund)


@dataclass(slots=True, kw_only=True)
class _Work:
    """One answer, what it is about as it is now, and what became of it.

    Attributes:
        done: for counting; empty for as long as it has to be judged.
    """

    answered: Answered
    order: Order | None = None
    refund: Refund | None = None
    done: str = ""

    @property
    def seen(self) -> Check:
        """What is asked about, as it was read."""
        return self.answered.question.check


class Corrector:
    """Applies answers.

    Args:
        orders: the host's.
        checks: what is asked about.
        notifier: enqueues in our transaction.
    """

    def __init__(self, orders: OrderPort, checks: Checks, notifier: Notifier) -> None:
        self._orders, self._checks = pages_of(orders), checks
        self._sequels = Sequels(self._orders, checks, notifier)

    def apply(self, tx: Connection, answers: Sequence[Answered], *, now: datetime) -> list[str]:
        """Carry answers out in this transaction; returns what was done with each, for counting.

        None waits for an order that somebody else holds: that is an error at once.

        Args:
            tx: of nobody else; committed by the caller, rolled back after any error.
            answers: about as many orders.
            now: the database's time.

        Raises:
            BadFieldError: a row of the host does not fit its description any more.
        """
        works = [_Work(answered=answered) for answered in answers]
        self._hold(tx, works)
        if not _open(works):
            return [work.done for work in works]
        self._read(tx, _open(works))
        self._sort_out(tx, _open(works), now)
        judged = self._judge(tx, _open(works), now)
        self._move(tx, judged)
        self._sequels.write(tx, judged, now=now)
        return [work.done for work in works]

    def follow(
        self, tx: Connection, seen: Check, order: Order, refund: Refund | None, *, now: datetime
    ) -> bool:
        """Move a question to the channel its order is at now; False when it is there already.

        The other channel's answer says nothing about an order that is not paid there any more.
        """
        if order.channel == seen.channel:
            return False
        placed_at = order.placed_at if refund is None else refund.placed_at
        self._checks.follow(tx, seen, channel=order.channel, placed_at=placed_at, now=now)
        return True

    def put_off(self, tx: Connection, seen: Check, problem: str, *, now: datetime) -> None:
        """Ask about what cannot be judged later and later, and make it a case."""
        if not self._checks.hold(tx, [seen]):
            return
        if windows.is_too_old(seen.kind, seen.placed_at, now=now):
            self._checks.finish(tx, [(seen, TOO_OLD)], now=now)
        else:
            self._checks.put_off(tx, [seen], now=now, unknown=True)
        cases.see(tx, proof.unreadable(seen, "", problem), now=now)

    def leave(self, tx: Connection, seen: Check, *, now: datetime) -> None:
        """Ask again soon about what somebody else holds."""
        if self._checks.hold(tx, [seen]):
            self._checks.leave(tx, seen, now=now)

    def _hold(self, tx: Connection, works: Sequence[_Work]) -> None:
        held = self._checks.hold(tx, [work.seen for work in works])
        for work in works:
            if work.seen.id not in held:
                work.done = OVERTAKEN

    def _read(self, tx: Connection, works: Sequence[_Work]) -> None:
        questions = [work.answered.question for work in works]
        orders = self._orders.get_many(tx, {one.order.order_no for one in questions})
        refund_nos = {one.refund.refund_no for one in questions if one.refund is not None}
        refunds = self._orders.get_refunds(tx, refund_nos) if refund_nos else {}
        for work, one in zip(works, questions, strict=True):
            work.order = _readable(orders.get(one.order.order_no))
            if one.refund is not None:
                work.refund = _readable(refunds.get(one.refund.refund_no))

    def _sort_out(self, tx: Connection, works: Sequence[_Work], now: datetime) -> None:
        """Put aside what is not what the channel was asked about any more."""
        gone: list[tuple[Check, str]] = []
        changed: list[Check] = []
        for work in works:
            one = work.answered.question
            if work.order is None or (one.refund is not None and work.refund is None):
                work.done = GONE
                gone.append((work.seen, GONE))
            elif self.follow(tx, work.seen, work.order, work.refund, now=now):
                work.done = MOVED
            elif _essence(work.order, work.refund) != _essence(one.order, one.refund):
                # A callback came in while we asked: the answer is older than what we have.
                work.done = CHANGED
                changed.append(work.seen)
        self._checks.finish(tx, gone, now=now)
        self._checks.put_off(tx, changed, now=now)

    def _judge(self, tx: Connection, works: Sequence[_Work], now: datetime) -> list[Judged]:
        refunds = self._refunds(tx, works)
        judged = []
        for work in works:
            assert work.order is not None  # noqa: S101 - sorted out before
            if work.refund is None:
                of_order = None if refunds is None else refunds.get(work.order.order_no, ())
                one = _judged_order(work.answered, work.order, of_order, now)
            else:
                one = _judged_refund(work.answered, work.order, work.refund, now)
            work.done = one.decision.ruling.value
            judged.append(one)
        return judged

    def _refunds(
        self, tx: Connection, works: Sequence[_Work]
    ) -> Mapping[str, Sequence[Refund]] | None:
        """Read the refunds of orders that are asked about; one that was never paid has none."""
        paid = {
            work.order.order_no
            for work in works
            if work.order is not None and work.refund is None and work.order.state in WAS_PAID
        }
        return self._orders.refunds_of_many(tx, paid) if paid else {}

    def _move(self, tx: Connection, judged: Sequence[Judged]) -> None:
        orders = [(one, move) for one in judged if (move := one.order_move) is not None]
        if orders:
            moved = self._orders.move_many(tx, [move for _, move in orders], wait=False)
            for one, move in orders:
                one.moved = f"{move.order.state} -> {move.to}"
                one.lost = move.order.order_no not in moved
        refunds = [(one, back) for one in judged if (back := one.refund_move) is not None]
        if refunds:
            moved = self._orders.move_refunds(tx, [back for _, back in refunds], wait=False)
            for one, back in refunds:
                one.moved = f"{back.refund.state} -> {back.to}"
                one.lost = back.refund.refund_no not in moved
            self._weigh(tx, [one for one, _ in refunds if not one.lost])

    def _weigh(self, tx: Connection, judged: Sequence[Judged]) -> None:
        """Find orders of which more went back now than was paid."""
        done = [one for one in judged if one.decision.refund_to is RefundState.SUCCESS]
        if not done:
            return
        known = self._orders.refunds_of_many(tx, {one.order.order_no for one in done}) or {}
        for one in done:
            if _too_much(one, known.get(one.order.order_no, ())):
                one.decision = overdone(one.decision)


def _open(works: Sequence[_Work]) -> list[_Work]:
    return [work for work in works if not work.done]


def _readable(found: Row | Exception | None) -> Row | None:
    if isinstance(found, Exception):
        raise found
    return found


def _judged_order(
    answered: Answered, order: Order, refunds: Sequence[Refund] | None, now: datetime
) -> Judged:
    finding = answered.finding
    assert finding is not None  # noqa: S101 - for the type checker
    decision = decide(
        order,
        finding,
        now=now,
        policy=answered.question.policy,
        refunds=refunds,
        close_asked=answered.before_close is not None,
        unknowns=answered.question.check.unknowns,
    )
    shown = proof.of_order(answered, finding, order)
    return Judged(decision=decision, proof=shown, order=order, finding=finding)


def _judged_refund(answered: Answered, order: Order, refund: Refund, now: datetime) -> Judged:
    finding = answered.refund_finding
    assert finding is not None  # noqa: S101 - for the type checker
    decision = decide_refund(
        refund,
        finding,
        currency=order.currency,
        now=now,
        policy=answered.question.policy,
        unknowns=answered.question.check.unknowns,
    )
    shown = proof.of_refund(answered, finding, order, refund)
    return Judged(decision=decision, proof=shown, order=order, refund=refund)


def _too_much(judged: Judged, known: Sequence[Refund]) -> bool:
    """Tell whether more went back than was paid; the order stands as it was before."""
    order, refund = judged.order, judged.refund
    assert refund is not None  # noqa: S101 - for the type checker
    done = sum(one.amount_minor for one in known if one.state is RefundState.SUCCESS)
    return max(done, order.refunded_minor + refund.amount_minor) > order.amount_minor


def _essence(order: Order, refund: Refund | None) -> tuple[object, ...]:
    if refund is not None:
        return refund, order.channel
    return order.state, order.amount_minor, order.currency, order.channel
