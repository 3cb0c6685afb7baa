"""The sweep that asks the channels about unsettled orders and puts right what is wrong.

A round: enrol what is unsettled, then ask about what is due, all channels side by side. Killed
anywhere it loses only questions, which are asked again. Must never hold a transaction open while
a channel is asked.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from schedules import rows
from schedules.asking import Answered, Asker, Question
from schedules.channel_routes import Channel, Instant
from schedules.channels import registry
from schedules.checks import Check, Checks, Subject
from schedules.corrections import MOVED, Corrector
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
# Names of channels come from the host's rows: nobody knows how many there are.
_CHANNELS = 25


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
        most: int = 50,
        read_now: Callable[[Connection], datetime] = rows.now,
        luck: Callable[[], float] = random.random,
        budget_s: float = 10.0,
        wait: Callable[[float], None] = clock.sleep,
    ) -> None:
        self._engine, self._orders, self._policy_of = engine, orders, policy_of
        self._page, self._share, self._most = page, share, most
        self._read_now = read_now
        self._checks = Checks(luck)
        self._corrector = Corrector(orders, self._checks, notifier)
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
            subjects = []
            for refund in found:
                if refund.refund_no in new:
                    subjects += self._subject(tx, refund)
            enrolled = self._checks.enrol(tx, subjects)
        last = len(found) < self._page
        cursor = f"{_ASK}:" if last else f"{_REFUNDS}:{found[-1].refund_no}"
        return Step(cursor=cursor, counts=_counted({"refunds_enrolled": enrolled}))

    def _subject(self, tx: Connection, refund: Refund) -> list[Subject]:
        try:
            order = self._orders.get(tx, refund.order_no)
        except (PaynotifyError, ArithmeticError, ValueError) as error:
            telemetry.log(telemetry.Event.ORDER_UNREADABLE, level="warning", problem=str(error))
            return []
        return [] if order is None else [_of_refund(order, refund)]

    def _ask(self, place: _Place) -> Step:
        counts: dict[str, int] = {}
        questions: dict[str, list[Question]] = {}
        with self._engine.begin() as tx:
            instant = Instant(self._read_now(tx))
            room = _CHANNELS - len(place.again)
            new = self._checks.channels(tx, after=place.after, limit=room)
            names = list(dict.fromkeys((*place.again, *new)))
            share = min(self._share, max(1, self._most // max(1, len(names))))
            full = {
                name
                for name in names
                if self._due(tx, name, share, instant.now(), counts, questions) == share
            }
        answers = self._answers(questions, instant, counts)
        # Another share only where this one was whole and everything could be asked.
        again = tuple(
            name for name in names if name in full and answers[name] == len(questions[name])
        )
        counts["unasked"] = sum(map(len, questions.values())) - sum(answers.values())
        if not again and len(new) < room:
            return Step(counts=_counted(counts))
        then = _Place(after=new[-1] if new else place.after, again=again)
        return Step(cursor=f"{_ASK}:{then.written}", counts=_counted(counts))

    def _answers(
        self, questions: Mapping[str, list[Question]], instant: Instant, counts: dict[str, int]
    ) -> dict[str, int]:
        """Ask and carry the answers out; returns how many came, by channel."""
        answers = dict.fromkeys(questions, 0)
        asked = {name: found for name, found in questions.items() if found}
        for answered in self._asker.ask(asked, instant):
            answers[answered.question.check.channel] += 1
            done = self._apply(answered)
            counts[done] = counts.get(done, 0) + 1
        return answers

    def _due(
        self,
        tx: Connection,
        channel: str,
        share: int,
        now: datetime,
        counts: dict[str, int],
        questions: dict[str, list[Question]],
    ) -> int:
        """Add what is to be asked at a channel now; returns how many rows were looked at."""
        found = self._checks.due(tx, channel, now=now, limit=share)
        questions[channel] = []
        for seen in found:
            try:
                question = self._question(tx, seen)
            except (PaynotifyError, ArithmeticError, ValueError) as error:
                self._corrector.put_off(tx, seen, str(error), now=now)
                counts["unreadable"] = counts.get("unreadable", 0) + 1
                continue
            if question is None:
                self._checks.finish(tx, seen, now=now, because="gone")
            elif self._corrector.follow(tx, seen, question.order, question.refund, now=now):
                counts[MOVED] = counts.get(MOVED, 0) + 1
            else:
                questions[channel].append(question)
        return len(found)

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
        except (PaynotifyError, ArithmeticError, ValueError) as error:
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
