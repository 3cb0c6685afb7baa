"""What a host supplies: its orders, and the payment channels that know the truth about them.

Everything here is a value or a promise. Must never hold money in anything but whole minor units,
and a channel that cannot say clearly is ``UNKNOWN``, never "unpaid".
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from sqlalchemy import Connection


class OrderState(StrEnum):
    """The states an order goes through; a host's own names are mapped to these."""

    CREATED = "created"
    PENDING = "pending"
    PAID = "paid"
    FAILED = "failed"
    CLOSED = "closed"
    PARTIAL_REFUND = "partial_refund"
    REFUNDED = "refunded"


class RefundState(StrEnum):
    """The states a refund goes through."""

    CREATED = "created"
    PROCESSING = "processing"
    SUCCESS = "success"
    FAILED = "failed"
    ABNORMAL = "abnormal"


class ChannelState(StrEnum):
    """What a channel says of an order.

    ``FINISHED`` is paid and past its refund window; ``REFUNDED`` and ``PARTIAL_REFUND`` were paid.
    A channel that says "refunded" without saying how much is ``PARTIAL_REFUND`` with an unknown
    ``refunded_minor``; ``REFUNDED`` only when all of it went back.
    ``UNKNOWN`` is everything that is no clear answer: timeout, 5xx, bad signature, unreadable,
    an answer about another order.
    """

    PAID = "paid"
    FINISHED = "finished"
    PARTIAL_REFUND = "partial_refund"
    REFUNDED = "refunded"
    UNPAID = "unpaid"
    NOT_FOUND = "not_found"
    CLOSED = "closed"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order as its host has it.

    Attributes:
        amount_minor: whole minor units of ``currency`` (ISO 4217, upper case).
        placed_at: aware; windows are measured from here.
        expires_at: after which an unpaid order is closed; None never.
        notify_url: where the merchant wants to hear of this order; None is its endpoint's URL.
        changed_at: when its row was last written, as far as its host keeps that.
    """

    order_no: str
    merchant: str
    channel: str
    amount_minor: int
    currency: str
    state: OrderState
    placed_at: datetime
    expires_at: datetime | None = None
    paid_at: datetime | None = None
    channel_txn_no: str = ""
    refunded_minor: int = 0
    notify_url: str | None = None
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """One refund as its host has it."""

    refund_no: str
    order_no: str
    amount_minor: int
    state: RefundState
    placed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a channel said of one order or refund.

    Attributes:
        amount_minor, currency: as the channel has them; None when it does not say.
        detail: for people, at most 500 characters: the channel's own code and words, or why the
            answer is unknown. Never a secret.
        reply_sha256: of the reply's bytes, hex; empty when none came.
        route_failed: ``UNKNOWN`` because the route gave no answer that counts (timeout, 5xx, bad
            signature, unreadable); what a route's breaker counts. False when the channel itself
            said that it does not know yet.
    """

    state: ChannelState
    amount_minor: int | None = None
    currency: str | None = None
    channel_txn_no: str = ""
    paid_at: datetime | None = None
    refunded_minor: int | None = None
    detail: str = ""
    reply_sha256: str = ""
    route_failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundFinding:
    """What a channel said of one refund; state None is unknown. The rest as in :class:`Finding`."""

    state: RefundState | None
    amount_minor: int | None = None
    currency: str | None = None
    detail: str = ""
    reply_sha256: str = ""
    route_failed: bool = False


class ChannelPort(Protocol):
    """One route to one payment channel. What a channel does is a value, never an exception."""

    def query(self, order: Order) -> Finding:
        """Ask what became of an order."""
        ...

    def close(self, order: Order) -> Finding:
        """Ask the channel to close an unpaid order; the answer may be that it was paid meanwhile.

        ``UNKNOWN`` when the channel cannot close or did not say; the caller asks again by query.
        """
        ...

    def query_refund(self, order: Order, refund: Refund) -> RefundFinding:
        """Ask what became of a refund."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """An order as it was read, where it goes, and what the channel said."""

    order: Order
    to: OrderState
    finding: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundMove:
    """A refund as it was read, and where it goes."""

    refund: Refund
    to: RefundState


class OrderPort(Protocol):
    """A host's orders; every method runs in the caller's transaction.

    A port that also has the methods of :class:`ManyOrders` is asked about whole pages at once.
    """

    def get(self, tx: Connection, order_no: str) -> Order | None:
        """Read one order."""
        ...

    def unsettled(self, tx: Connection, *, after: str, limit: int) -> Sequence[Order]:
        """Read orders that are neither paid nor over, by order number after ``after``."""
        ...

    def ended(self, tx: Connection, *, since: datetime, after: str, limit: int) -> Sequence[Order]:
        """Read orders that were paid or refunded, by ``changed_at`` and then order number.

        Begins behind (``since``, ``after``); the last order of a page says where the next begins.
        """
        ...

    def move(self, tx: Connection, order: Order, to: OrderState, finding: Finding) -> bool:
        """Move an order on if it still is as ``order`` says (compare and set); False if not.

        Raises:
            WrongStateError: no order may go this way; see ``schedules/order_states.py``.
        """
        ...

    def refunds(self, tx: Connection, *, after: str, limit: int) -> Sequence[Refund]:
        """Read refunds that are not over, by refund number after ``after``."""
        ...

    def refund(self, tx: Connection, refund_no: str) -> Refund | None:
        """Read one refund."""
        ...

    def refunds_of(self, tx: Connection, order_no: str) -> Sequence[Refund] | None:
        """Read all refunds of an order; None when the host keeps none, nor what was refunded."""
        ...

    def move_refund(self, tx: Connection, refund: Refund, to: RefundState) -> bool:
        """Move a refund on if it still is as ``refund`` says; False if not."""
        ...


@runtime_checkable
class ManyOrders(Protocol):
    """What a port may do for many orders in a few statements; again in the caller's transaction.

    No two of one call belong to one order.
    """

    def get_many(
        self, tx: Connection, order_nos: Collection[str]
    ) -> Mapping[str, Order | Exception]:
        """Read orders; one that cannot be read is its error, one that is gone is left out."""
        ...

    def get_refunds(
        self, tx: Connection, refund_nos: Collection[str]
    ) -> Mapping[str, Refund | Exception]:
        """Read refunds, likewise."""
        ...

    def refunds_of_many(
        self, tx: Connection, order_nos: Collection[str]
    ) -> Mapping[str, Sequence[Refund]] | None:
        """Read all refunds of orders; see :meth:`OrderPort.refunds_of`."""
        ...

    def move_many(self, tx: Connection, moves: Sequence[Move], *, wait: bool) -> set[str]:
        """Move orders on; returns the numbers of those that still were as they had been read.

        Args:
            tx: the caller's.
            moves: of as many orders.
            wait: for a row that somebody else holds; otherwise that is an error at once.

        Raises:
            WrongStateError: an order may not go its way; nothing was written.
        """
        ...

    def move_refunds(self, tx: Connection, moves: Sequence[RefundMove], *, wait: bool) -> set[str]:
        """Move refunds on, likewise."""
        ...
