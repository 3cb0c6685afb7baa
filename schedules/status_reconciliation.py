"""The sweep that asks the channels about unsettled orders and puts right what is wrong.

A round: enrol what is unsettled, then ask about what is due, all channels side by side. Killed
anywhere it loses only questions, which are asked again. Must never hold a transaction open while
a channel is asked.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from sqlalchemy import Connection, Engine

from schedules import rows
from schedules.answer_groups import AnswerGroups
from schedules.asking import Asker, Question
from schedules.channel_routes import Channel, Instant
from schedules.channels import registry
from schedules.checks import Checks, Subject
from schedules.corrections import Corrector
from schedules.decisions import Policy
from schedules.order_desk import open_orders
from schedules.order_pages import pages_of
from schedules.ports import Order, OrderPort, Refund
from schedules.questions import Questions
from schedules.route_book import RouteBook
from schedules.sweep import Step
from schedules.windows import Kind
from worker import clock, settings, telemetry
from worker.client import Notifier
from worker.runtime import Desk

_ORDERS, _REFUNDS, _ASK = "orders", "refunds", "ask"
# Names of channels come from the host's rows: nobody knows how many there are.
_CHANNELS = 25
# Reading, asking and writing them down is some 60 ms: in a slow moment of the database nobody
# waits for as long as one would notice.
_QUESTIONS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """How far the asking of a round has come.

    Attributes:
        after: channels up to this name had their turn.
        again: of those, the ones that have more to ask; at most :data:`_CHANNELS`.
    """

    after: str = ""
    again: tuple[str, ...] = ()

    @classmethod
    def read(cls, written: str) -> "_Place":
        """Read it from a cursor; what cannot be read is the beginning."""
        try:
            after, *again = json.loads(written)
        except (TypeError, ValueError):
            return cls()
        return cls(after=str(after), again=tuple(map(str, again[:_CHANNELS])))

    @property
    def written(self) -> str:
        """Write it as JSON: a name may hold any character."""
        return json.dumps([self.after, *self.again])


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
        most: questions in one step, over all channels; at least as many as :data:`_CHANNELS`.
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
        page: int = 100,
        share: int = 25,
        most: int = _QUESTIONS,
        read_now: Callable[[Connection], datetime] = rows.now,
        luck: Callable[[], float] = random.random,
        budget_s: float = 10.0,
        wait: Callable[[float], None] = clock.sleep,
    ) -> None:
        self._engine, self._orders, self._pages = engine, orders, pages_of(orders)
        self._page, self._share, self._most = page, share, most
        self._read_now = read_now
        self._checks = Checks(luck)
        corrector = Corrector(orders, self._checks, notifier)
        self._questions = Questions(orders, self._checks, corrector, policy_of)
        self._answers = AnswerGroups(engine, corrector, read_now, most=most)
        self._asker = Asker(channels, RouteBook(engine), budget_s=budget_s, wait=wait)

    def step(self, cursor: str) -> Step:
        """Enrol one page, or ask a few channels one share of questions each."""
        phase, _, rest = (cursor or f"{_ORDERS}:").partition(":")
        if phase == _ORDERS:
            return self._enrol_orders(rest)
        if phase == _REFUNDS:
            return self._enrol_refunds(rest)
        return self._ask(_Place.read(rest))

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
            subjects = self._subjects(tx, [one for one in found if one.refund_no in new])
            enrolled = self._checks.enrol(tx, subjects)
        last = len(found) < self._page
        cursor = f"{_ASK}:" if last else f"{_REFUNDS}:{found[-1].refund_no}"
        return Step(cursor=cursor, counts=_counted({"refunds_enrolled": enrolled}))

    def _subjects(self, tx: Connection, refunds: Sequence[Refund]) -> list[Subject]:
        order_nos = {refund.order_no for refund in refunds}
        orders = self._pages.get_many(tx, order_nos) if order_nos else {}
        subjects = []
        for refund in refunds:
            order = orders.get(refund.order_no)
            if isinstance(order, Exception):
                telemetry.log(telemetry.Event.ORDER_UNREADABLE, level="warning", problem=str(order))
            elif order is not None:
                subjects.append(_of_refund(order, refund))
        return subjects

    def _ask(self, place: _Place) -> Step:
        counts: Counter[str] = Counter()
        with self._engine.begin() as tx:
            instant = Instant(self._read_now(tx))
            room = _CHANNELS - len(place.again)
            new = self._checks.channels(tx, after=place.after, limit=room)
            names = list(dict.fromkeys((*place.again, *new)))
            share = min(self._share, max(1, self._most // max(1, len(names))))
            due = {
                name: self._checks.due(tx, name, now=instant.now(), limit=share) for name in names
            }
            read = self._questions.read(
                tx, [*chain.from_iterable(due.values())], now=instant.now(), counts=counts
            )
        asked = {name: [one for one in read if one.check.channel == name] for name in names}
        unasked = self._carry_out(asked, instant, counts)
        # Another share only where this one was whole and everything could be asked.
        again = tuple(name for name in names if len(due[name]) == share and not unasked[name])
        counts["unasked"] = unasked.total()
        if not again and len(new) < room:
            return Step(counts=_counted(counts))
        then = _Place(after=new[-1] if new else place.after, again=again)
        return Step(cursor=f"{_ASK}:{then.written}", counts=_counted(counts))

    def _carry_out(
        self, asked: Mapping[str, Sequence[Question]], instant: Instant, counts: Counter[str]
    ) -> Counter[str]:
        """Ask and carry the answers out; returns how many did not come, by channel."""
        unasked = Counter({name: len(questions) for name, questions in asked.items()})
        wanted = {name: questions for name, questions in asked.items() if questions}
        for answers in self._asker.ask(wanted, instant):
            unasked.subtract(one.question.check.channel for one in answers)
            counts += self._answers.carry_out(answers)
        return unasked


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
