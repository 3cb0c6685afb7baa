"""What a host platform uses: enqueue in its own transaction, cancel, look up.

Needs SQLAlchemy, and redis for the bell; no setting, no worker, no cryptography. Must never
commit, never send anything for a transaction that rolled back, and never fail or hold up a
commit that has succeeded.

The whole of it::

    notifier = Notifier.from_settings()
    with Session(engine) as session, session.begin():
        order.state = "paid"
        notifier.enqueue(
            session, merchant="shop-77", event_type="payment.succeeded",
            event_key=f"{order.no}:paid", order_no=order.no,
            payload={"order_no": order.no, "amount_minor": order.amount_minor},
        )
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Self

from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from worker import lookup
from worker.after_commit import ring_after_commit
from worker.doorbell import Doorbell
from worker.drafts import Draft, Enqueue, draft
from worker.errors import BadFieldError, PaynotifyError
from worker.fields import ORDERING_WAIT_S, check_wait
from worker.intake import Intake, Outcome
from worker.models import Schedule
from worker.views import Attempt, Notification

__all__ = ["Enqueue", "Notifier"]

Transaction = Session | scoped_session[Session] | Connection


class Notifier:
    """Enqueues notifications; one per process is enough, threads may share it.

    Every method works through the Session or Connection it is given, in that one's transaction.

    Args:
        broker_url: rung after commit; None leaves finding new rows to the workers' own timers.
        bell_timeout_s: longest a commit may wait for the broker.
        database_url: only remembered, for hosts that have no engine of their own.
        ordering_wait_s: of endpoints and events that name none, see :meth:`enqueue`.

    Raises:
        SettingsError: a broker URL that cannot be used.
    """

    def __init__(
        self,
        broker_url: str | None = None,
        *,
        bell_timeout_s: float = 0.05,
        database_url: str | None = None,
        ordering_wait_s: int = ORDERING_WAIT_S,
    ) -> None:
        self._ordering_wait_s = check_wait(ordering_wait_s)
        self._doorbell = Doorbell(broker_url, timeout_s=bell_timeout_s)
        self.database_url = database_url

    @classmethod
    def from_settings(cls) -> Self:
        """Make one from ``PAYNOTIFY_*`` and ``config/``, as the workers read them.

        Raises:
            SettingsError: with every problem at once.
        """
        # Imported here only, so that a host that passes a URL needs no pydantic.
        from worker import embedded, settings  # noqa: PLC0415

        read = settings.load(host=True)
        if read.broker_url is not None:
            broker_url: str | None = read.broker_url.get_secret_value()
        else:
            broker_url = embedded.address(read.data_dir)
        return cls(
            broker_url,
            bell_timeout_s=read.broker_timeout_s,
            database_url=read.database_dsn,
            ordering_wait_s=read.ordering_wait_s,
        )

    def enqueue(  # noqa: PLR0913 - one keyword per field of an event reads best at the call
        self,
        tx: Transaction,
        *,
        event_type: str,
        event_key: str,
        payload: object,
        merchant: str | None = None,
        endpoint: str | None = None,
        order_no: str | None = None,
        notify_url: str | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        deliver_at: datetime | str | None = None,
        expires_at: datetime | str | None = None,
        priority: int = 5,
        schedule: Schedule | str | None = None,
        trace_id: str | None = None,
        ordering_key: str | None = None,
        ordering_wait_s: int | None = None,
        supersede: bool = False,
    ) -> tuple[int, ...]:
        """Write an event for each endpoint that wants it; it goes out once ``tx`` commits.

        Calling it again with the same key and payload, even from another process at the same
        time, writes nothing and returns the same ids. If the host dies before it commits,
        nothing has happened.

        Args:
            tx: the host's Session or Connection.
            event_type: dotted words, at most 128 characters (``payment.succeeded``).
            event_key: the event's identity, unique per endpoint for ever, 1 to 200 visible ASCII
                characters.
            payload: bytes, text, or what JSON can say, with Decimal for what is no integer; at
                most 256 KiB.
            merchant: all of its endpoints that want this event type get it.
            endpoint: name of the one endpoint that gets it; instead of ``merchant``.
            order_no: to find it by, 1 to 128 visible ASCII characters.
            notify_url: where this one goes instead of the endpoint's URL; needs ``endpoint``
                when the merchant has several that want this event type.
            content_type: of the payload; None is the endpoint's.
            headers: at most 10 more headers.
            deliver_at: not before (aware, or ISO 8601 text with an offset); None is now.
            expires_at: given up after (aware), later than ``deliver_at``; None is never.
            priority: 0 first to 9 last, within one endpoint.
            schedule: instead of the endpoint's; also as text, ``60,300,600``.
            trace_id: 1 to 128 visible ASCII characters, kept with it.
            ordering_key: 1 to 128 visible ASCII characters, the order number for example. Not
                sent before the earlier events of the same endpoint and key are acknowledged,
                dead, cancelled or expired. Earlier is who has the lower id: another transaction
                that enqueues with the same key waits until this one ends. None is unordered.
            ordering_wait_s: each earlier one holds it up for so long at most, 1 to 604 800 s;
                None is the endpoint's.
            supersede: earlier events of the same key that are not delivered are cancelled; one
                that is on the wire right now is not tried again, and this one waits for it.

        Returns:
            The notification's id, one per subscribed endpoint: one for ``endpoint=``; none when
            the merchant has endpoints but no one of them wants this event type.

        Raises:
            BadFieldError: names the field; nothing was written.
            NotFoundError: no such endpoint, or the merchant has none; nothing was written.
            EventKeyConflictError: the key was used before with other bytes; the first stays as
                it is, and nothing of this event was written. Roll back, or let go of it.
        """
        event = Enqueue(
            event_type=event_type,
            event_key=event_key,
            payload=payload,
            merchant=merchant,
            endpoint=endpoint,
            order_no=order_no,
            notify_url=notify_url,
            content_type=content_type,
            headers=headers,
            deliver_at=deliver_at,
            expires_at=expires_at,
            priority=priority,
            schedule=schedule,
            trace_id=trace_id,
            ordering_key=ordering_key,
            ordering_wait_s=ordering_wait_s,
            supersede=supersede,
        )
        return self.enqueue_many(tx, (event,))[0]

    def enqueue_many(
        self, tx: Transaction, events: Iterable[Enqueue], *, chunk: int = 1000
    ) -> list[tuple[int, ...]]:
        """Write many events, a thousand to the round trip.

        Args:
            tx: the host's Session or Connection.
            events: any number; read as they are needed.
            chunk: events per statement, 1 to 5000.

        Returns:
            Per event what :meth:`enqueue` returns, in order.

        Raises:
            PaynotifyError: as :meth:`enqueue`, for the first event that is refused; events of
                chunks before it are written, so roll back.
        """
        if not 1 <= chunk <= 5000:
            raise BadFieldError("chunk", f"is {chunk}, must be 1 to 5000")
        connection = _connection(tx)
        intake = Intake(connection, ordering_wait_s=self._ordering_wait_s)
        ids: list[tuple[int, ...]] = []
        source = iter(events)
        while drafts := [draft(event) for event in islice(source, chunk)]:
            for outcome in self._take(connection, intake, drafts):
                if isinstance(outcome, PaynotifyError):
                    raise outcome
                ids.append(outcome)
        return ids

    def take(self, connection: Connection, drafts: Sequence[Draft]) -> list[Outcome]:
        """Write checked events and report each one's refusal as a value; for the inbox."""
        intake = Intake(connection, ordering_wait_s=self._ordering_wait_s)
        return self._take(connection, intake, drafts)

    def cancel(self, tx: Transaction, notification_id: int) -> bool:
        """Cancel a notification that is not on the wire; final.

        Returns:
            True when it is cancelled now; False when it is being sent or is finished.

        Raises:
            NotFoundError: nobody knows this id.
        """
        return lookup.cancel(_connection(tx), notification_id)

    def get(self, tx: Transaction, notification: int | str) -> Notification:
        """Look a notification up by id, or by the message id a merchant saw (``msg_…``).

        Raises:
            NotFoundError: nobody knows it.
        """
        return lookup.get(_connection(tx), notification)

    def list_by_order(self, tx: Transaction, order_no: str) -> list[Notification]:
        """Return all notifications of an order, oldest first."""
        return lookup.list_by_order(_connection(tx), order_no)

    def attempts(self, tx: Transaction, notification_id: int) -> list[Attempt]:
        """Return the attempts of a notification, first to last."""
        return lookup.attempts(_connection(tx), notification_id)

    def payload(self, tx: Transaction, notification_id: int) -> bytes:
        """Return the exact bytes a merchant is sent.

        Raises:
            NotFoundError: nobody knows this id.
        """
        return lookup.payload(_connection(tx), notification_id)

    def _take(
        self, connection: Connection, intake: Intake, drafts: Sequence[Draft]
    ) -> list[Outcome]:
        outcomes = intake.take(drafts)
        if intake.pools:
            ring_after_commit(connection, self._doorbell, intake.pools)
        return outcomes


def _connection(tx: object) -> Connection:
    if isinstance(tx, scoped_session):
        tx = tx()
    if isinstance(tx, Session):
        tx = tx.connection()
    if not isinstance(tx, Connection):
        raise BadFieldError(
            "tx",
            f"is of type {type(tx).__name__}; pass the SQLAlchemy Session or Connection of your "
            "transaction (an AsyncSession has one in run_sync)",
        )
    if tx.dialect.name not in ("postgresql", "sqlite"):
        raise BadFieldError(
            "tx", f"is on {tx.dialect.name}; our tables stand in PostgreSQL or SQLite"
        )
    return tx
