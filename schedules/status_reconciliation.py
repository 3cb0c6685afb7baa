"""The sweep that asks the channels about unsettled orders and puts right what is wrong.

A round: enrol what is unsettled, then ask about what is due, all channels side by side. Killed
anywhere it loses only questions, which are asked again. Must never hold a transaction open while
a channel is asked.
"""

import random
from collections.abc import Callable, Mapping
from datetime import datetime

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from schedules import rows
from schedules.asking import Answered, Asker, Question
from schedules.channel_routes import Channel, Instant
from schedules.channels import registry
from schedules.checks import Check, Checks, Subject
from schedules.corrections import Corrector
from schedules.decisions import Policy
from schedules.order_desk import open_orders
from schedules.ports import Order, OrderPort, Refund
from schedules.route_book import RouteBook
from schedules.sweep import Step
from schedules.windows import Kind
from worker import clock, settings, telemetry
from worker.client import Notifier
from worker.errors import PaynotifyError
from worker.runtime import Desk

_ORDERS, _REFUNDS, _ASK = "orders", "refunds", "ask"


class StatusReconciliation:
    """Asks and corrects; a :class:`schedules.sweep.Sweep`.

    Args:
        engine: of the database with our tables and the orders.
        orders: the host's.
        channels: what is configured, by name.
        notifier: enqueues in our transaction.
        policy_of: the policy of a merchant.
        page: orders enrolled in one step.
        share: questions per channel in one step.
        read_now: the database's time; a test brings its own.
        luck: returns 0 to 1; how much jitter is added.
        budget_s: seconds after which a step asks nothing more.
        wait: blocks a thread for so many seconds.
    """

    name = "status_reconciliation"

    def __init__(
        self,
        engine: Engine,
        orders: OrderPort,
        channels: Mapping[str, Channel],
        notifier: Notifier,
        *,
        policy_of: Callable[[str], Policy] = lambda _: Policy(),
        page: int = 200,
        share: int = 25,
        read_now: Callable[[Connection], datetime] = rows.now,
        luck: Callable[[], float] = random.random,
        budget_s: float = 10.0,
        wait: Callable[[float], None] = clock.sleep,
    ) -> None:
        self._engine, self._orders, self._policy_of = engine, orders, policy_of
        self._page, self._share, self._read_now = page, share, read_now
        self._checks = Checks(luck)
        self._corrector = Corrector(orders, self._checks, notifier)
        self._asker = Asker(channels, RouteBook(engine), budget_s=budget_s, wait=wait)

    def step(self, cursor: str) -> Step:
        """Enrol one page, or ask each channel one share of questions."""
        phase, _, rest = (cursor or f"{_ORDERS}:").partition(":")
        if phase == _ORDERS:
            return self._enrol_orders(rest)
        if phase == _REFUNDS:
            return self._enrol_refunds(rest)
        return self._ask(set(rest.split(",")) - {""})

    def _enrol_orders(self, after: str) -> Step:
        with self._engine.begin() as tx:
            found = self._orders.unsettled(tx, after=after, limit=self._page)
            new = self._checks.missing(tx, Kind.ORDER, [order.order_no for order in found])
            enrolled = self._checks.enrol(
                tx, [_of_order(order) for order in found if order.order_no in new]
            )
        cursor = f"{_ORDERS}:{found[-1].order_no}" if len(found) == self._page else f"{_REFUNDS}:"
        return Step(cursor=cursor, counts=_counted({"enrolled": enrolled}))

    def _enrol_refunds(self, after: str) -> Step:
        with self._engine.begin() as tx:
            found = self._orders.refunds(tx, after=after, limit=self._page)
            new = self._checks.missing(tx, Kind.REFUND, [one.refund_no for one in found])
            subjects = []
            for refund in found:
                if refund.refund_no in new:
                    order = self._orders.get(tx, refund.order_no)
                    subjects += [] if order is None else [_of_refund(order, refund)]
            enrolled = self._checks.enrol(tx, subjects)
        last = len(found) < self._page
        cursor = f"{_ASK}:" if last else f"{_REFUNDS}:{found[-1].refund_no}"
        return Step(cursor=cursor, counts=_counted({"refunds_enrolled": enrolled}))

    def _ask(self, done_with: set[str]) -> Step:
        counts: dict[str, int] = {}
        with self._engine.begin() as tx:
            instant = Instant(self._read_now(tx))
            questions = {
                channel: found
                for channel in self._checks.channels(tx)
                if channel not in done_with
                and (found := self._due(tx, channel, instant.now(), counts))
            }
        answers = dict.fromkeys(questions, 0)
        for answered in self._asker.ask(questions, instant):
            answers[answered.question.check.channel] += 1
            done = self._apply(answered)
            counts[done] = counts.get(done, 0) + 1
        # Another share only where this one was whole and everything could be asked.
        going_on = [
            channel
            for channel, asked in questions.items()
            if len(asked) == self._share == answers[channel]
        ]
        counts["unasked"] = sum(map(len, questions.values())) - sum(answers.values())
        if not going_on:
            return Step(counts=_counted(counts))
        over = sorted(done_with | (questions.keys() - set(going_on)))
        return Step(cursor=f"{_ASK}:{','.join(over)}", counts=_counted(counts))

    def _due(
        self, tx: Connection, channel: str, now: datetime, counts: dict[str, int]
    ) -> list[Question]:
        questions = []
        for seen in self._checks.due(tx, channel, now=now, limit=self._share):
            try:
                question = self._question(tx, seen)
            except (PaynotifyError, ValueError) as error:
                self._corrector.put_off(tx, seen, str(error), now=now)
                counts["unreadable"] = counts.get("unreadable", 0) + 1
                continue
            if question is None:
                self._checks.finish(tx, seen, now=now, because="gone")
            else:
                questions.append(question)
        return questions

    def _question(self, tx: Connection, seen: Check) -> Question | None:
        refund = None
        order_no = seen.subject_no
        if seen.kind is Kind.REFUND:
            refund = self._orders.refund(tx, seen.subject_no)
            if refund is None:
                return None
            order_no = refund.order_no
        order = self._orders.get(tx, order_no)
        if order is None:
            return None
        policy = self._policy_of(order.merchant)
        return Question(check=seen, order=order, refund=refund, policy=policy)

    def _apply(self, answered: Answered) -> str:
        seen = answered.question.check
        try:
            with self._engine.begin() as tx:
                return self._corrector.apply(tx, answered, now=self._read_now(tx))
        except DBAPIError:
            raise  # the database is away, or our own mistake: the sweep's runner tells
        except (PaynotifyError, ValueError) as error:
            telemetry.log(
                telemetry.Event.ORDER_FAULT,
                level="error",
                kind=seen.kind.value,
                subject_no=seen.subject_no,
                problem=str(error),
            )
            with self._engine.begin() as tx:
                self._corrector.put_off(tx, seen, str(error), now=self._read_now(tx))
            return "unreadable"


def sweep(desk: Desk) -> StatusReconciliation:
    """Make the sweep of what ``orders.toml`` and ``channels.toml`` say.

    Raises:
        SettingsError: one of the files is wrong; with all of its problems.
    """
    folder = settings.folder()
    at = open_orders(desk.engine, folder)
    channels = registry.load(folder / "channels.toml")
    return StatusReconciliation(
        desk.engine, at.orders, channels, desk.notifier, policy_of=at.policy_of
    )


def _of_order(order: Order) -> Subject:
    return Subject(
        kind=Kind.ORDER,
        no=order.order_no,
        order_no=order.order_no,
        channel=order.channel,
        placed_at=order.placed_at,
    )


def _of_refund(order: Order, refund: Refund) -> Subject:
    return Subject(
        kind=Kind.REFUND,
        no=refund.refund_no,
        order_no=refund.order_no,
        channel=order.channel,
        placed_at=refund.placed_at,
    )


def _counted(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}
