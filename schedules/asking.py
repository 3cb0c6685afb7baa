"""Asks the channels about many orders and refunds at once, outside any transaction.

Each channel has threads of its own, so that a slow one keeps only itself waiting. Must never
change anything here but what closing an expired order changes at its channel.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from schedules.channel_routes import Channel, Instant, Line
from schedules.checks import Check
from schedules.decisions import Policy, Ruling, decide
from schedules.ports import (
    ChannelPort,
    ChannelState,
    Finding,
    Order,
    Refund,
    RefundFinding,
)
from schedules.route_book import RouteBook
from worker import clock, telemetry

_NO_ROUTE = ""
# What comes this soon after the first answer is handed out with it: writing several down costs
# hardly more than one.
_TOGETHER_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about, as it was read.

    Attributes:
        refund: None asks about the order itself.
        policy: of the order's merchant; says when an order is closed at the channel.
    """

    check: Check
    order: Order
    refund: Refund | None = None
    policy: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a channel said; exactly one of ``finding`` and ``refund_finding`` is there.

    Attributes:
        route: over which it was asked; empty when there was none to ask.
        before_close: what it said before it was asked to close the order; None: it was not asked.
        on_close: what it said to that; None when that could not be asked.
    """

    question: Question
    finding: Finding | None = None
    refund_finding: RefundFinding | None = None
    route: str = _NO_ROUTE
    before_close: Finding | None = None
    on_close: Finding | None = None


class Asker:
    """Asks; one per process is enough.

    Args:
        channels: what is configured, by name.
        book: health and pace of their routes.
        threads: questions at once, per channel.
        budget_s: seconds after which no further question goes out in one call; what follows on a
            close may take as long again.
        wait: blocks a thread for so many seconds.
    """

    def __init__(
        self,
        channels: Mapping[str, Channel],
        book: RouteBook,
        *,
        threads: int = 8,
        budget_s: float = 10.0,
        wait: Callable[[float], None] = clock.sleep,
    ) -> None:
        self._channels, self._book = channels, book
        self._threads, self._budget_s, self._wait = threads, budget_s, wait

    def ask(
        self, questions: Mapping[str, Sequence[Question]], instant: Instant
    ) -> Iterator[list[Answered]]:
        """Ask all of them; hands the answers out as they come, together what came together.

        Args:
            questions: by channel.
            instant: the database's time.

        Yields:
            Answers. What could not be asked is left out: its channel's routes are open, or there
            was no room.
        """
        by = instant.now() + timedelta(seconds=self._budget_s)
        with ExitStack() as pools:
            waiting: set[Future[Answered | None]] = set()
            lines: list[Line] = []
            for name, asked in questions.items():
                channel = self._channels.get(name)
                if channel is None:
                    yield list(map(_of_no_channel, asked))
                    continue
                line = Line(channel, self._book, instant, expected=len(asked), wait=self._wait)
                lines.append(line)
                threads = max(1, min(self._threads, len(asked)))
                pool = pools.enter_context(ThreadPoolExecutor(threads, "paynotify-channel"))
                asking = _One(line, instant, by, close_by=by + timedelta(seconds=self._budget_s))
                waiting |= {pool.submit(asking.ask, question) for question in asked}
            while waiting:
                wait(waiting, return_when=FIRST_COMPLETED)
                done, waiting = wait(waiting, timeout=_TOGETHER_S)
                yield [answered for one in done if (answered := one.result()) is not None]
            for line in lines:
                line.close()


class _One:
    """Asks one question after the other over one line."""

    def __init__(self, line: Line, instant: Instant, by: datetime, *, close_by: datetime) -> None:
        self._line, self._instant = line, instant
        self._by, self._close_by = by, close_by

    def ask(self, question: Question) -> Answered | None:
        """Ask; None when it could not be asked."""
        if question.refund is not None:
            return self._about_refund(question, question.refund)
        order = question.order
        said = self._line.ask(lambda port: _query(port, order), by=self._by)
        if said is None:
            return None
        finding = self._with_currency(said.finding)
        answered = Answered(question=question, finding=finding, route=said.route)
        ruling = decide(order, finding, now=self._instant.now(), policy=question.policy).ruling
        return self._closing(answered, order) if ruling is Ruling.CLOSE else answered

    def _closing(self, first: Answered, order: Order) -> Answered | None:
        """Close at the channel, then ask again: what counts is what it says after that."""
        # Later than a first question may go out, or a slow channel would never close anything.
        closed = self._line.ask(lambda port: _close(port, order), by=self._close_by)
        said = self._line.ask(lambda port: _query(port, order), by=self._close_by)
        if said is None:
            return None
        return replace(
            first,
            finding=self._with_currency(said.finding),
            route=said.route,
            before_close=first.finding,
            on_close=None if closed is None else closed.finding,
        )

    def _about_refund(self, question: Question, refund: Refund) -> Answered | None:
        said = self._line.ask(lambda port: _query_refund(port, question.order, refund), by=self._by)
        if said is None:
            return None
        return Answered(question=question, refund_finding=said.finding, route=said.route)

    def _with_currency(self, finding: Finding) -> Finding:
        if finding.amount_minor is None or finding.currency is not None:
            return finding
        return replace(finding, currency=self._line.channel.currency)


def _of_no_channel(question: Question) -> Answered:
    detail = f"no channel {question.check.channel!r} in channels.toml"[:500]
    if question.refund is not None:
        return Answered(question=question, refund_finding=RefundFinding(state=None, detail=detail))
    return Answered(question=question, finding=Finding(state=ChannelState.UNKNOWN, detail=detail))


def _query(port: ChannelPort, order: Order) -> Finding:
    try:
        return port.query(order)
    except Exception as error:  # noqa: BLE001 - a faulty adapter says nothing; the sweep goes on
        return Finding(state=ChannelState.UNKNOWN, detail=_fault(error, order), route_failed=True)


def _close(port: ChannelPort, order: Order) -> Finding:
    try:
        return port.close(order)
    except Exception as error:  # noqa: BLE001 - as above
        return Finding(state=ChannelState.UNKNOWN, detail=_fault(error, order), route_failed=True)


def _query_refund(port: ChannelPort, order: Order, refund: Refund) -> RefundFinding:
    try:
        return port.query_refund(order, refund)
    except Exception as error:  # noqa: BLE001 - as above
        return RefundFinding(state=None, detail=_fault(error, order), route_failed=True)


def _fault(error: Exception, order: Order) -> str:
    kind = type(error).__name__
    telemetry.log(
        telemetry.Event.CHANNEL_FAULT,
        level="error",
        channel=order.channel,
        order_no=order.order_no,
        error=kind,
    )
    return f"the adapter raised {kind}"
