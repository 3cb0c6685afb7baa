"""The tables, once for both databases; each index says which query needs it.

A notification is two rows: ``paynotify_notification`` holds what never changes (and is large),
``paynotify_delivery`` holds what changes with every claim and settle (and is small), so moving a
notification through its life never rewrites its payload. Names carry the prefix because the
tables live in the host's own database. Times are ``timestamptz`` on PostgreSQL and whole
microseconds since 1970 on SQLite.

No foreign key stands on the hot path: a claim opens attempts for rows it has just locked, so the
check could only repeat what the statement guarantees, at the price of a row lock each.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from worker import clock


class Moment(TypeDecorator[datetime]):
    """An aware time: ``timestamptz`` on PostgreSQL, microseconds since 1970 on SQLite."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Pick the column type."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> object:
        """Write an aware time."""
        if value is None or dialect.name == "postgresql":
            return value
        return clock.to_us(value)

    def process_result_value(self, value: object, dialect: Dialect) -> datetime | None:
        """Read an aware time."""
        if value is None:
            return None
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        return clock.from_us(int(str(value)))


class database_now(FunctionElement[datetime]):  # noqa: N801 - reads as SQL
    """The database's own clock, as a column default."""

    inherit_cache = True
    type = Moment()


@compiles(database_now, "postgresql")
def _now_postgresql(_e: database_now, _c: SQLCompiler, **_kw: object) -> str:
    return "now()"


@compiles(database_now, "sqlite")
def _now_sqlite(_e: database_now, _c: SQLCompiler, **_kw: object) -> str:
    return SQLITE_NOW


# julianday() is a double of days: good to about 40 microseconds in this century.
SQLITE_NOW = "(CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER))"

metadata = MetaData()
_BigId = BigInteger().with_variant(Integer(), "sqlite")


def _id() -> Column[int]:
    return Column("id", _BigId, Identity(always=False), primary_key=True)


def _moment(name: str, *, nullable: bool = True, default: bool = False) -> Column[datetime]:
    return Column(
        name, Moment(), nullable=nullable, server_default=database_now() if default else None
    )


def _text(name: str, default: str = "") -> Column[str]:
    return Column(name, Text, nullable=False, server_default=default)


def _number(name: str, default: int = 0) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default=str(default))


endpoint = Table(
    "paynotify_endpoint",
    metadata,
    _id(),
    Column("name", Text, nullable=False, unique=True),
    Column("merchant", Text, nullable=False),
    Column("url", Text, nullable=False),
    _text("state", "active"),
    _text("state_reason"),
    # Everything else one endpoint is told (ack rule, schedules, limits, allowed exceptions, CA):
    # one JSON document, read whole and cached per config_no, never searched.
    Column("config", Text, nullable=False),
    # AES-256-GCM like a secret: it holds a private key.
    Column("client_pem", LargeBinary),
    _number("config_no", 1),
    _moment("created_at", nullable=False, default=True),
    _moment("updated_at", nullable=False, default=True),
    # client: endpoints of a merchant at enqueue.
    Index("paynotify_endpoint_merchant", "merchant"),
)

endpoint_secret = Table(
    "paynotify_endpoint_secret",
    metadata,
    Column("endpoint_id", _BigId, ForeignKey("paynotify_endpoint.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("sealed", LargeBinary, nullable=False),
    _moment("created_at", nullable=False, default=True),
    # None: the present one. Set at rotation: signs along with the new one until then.
    _moment("retires_at"),
)

lane = Table(
    "paynotify_lane",
    metadata,
    _id(),
    Column("endpoint_id", _BigId, ForeignKey("paynotify_endpoint.id"), nullable=False),
    # Empty: the endpoint's own URL. Else scheme://host:port of notifications with a notify_url.
    _text("host"),
    # Copied from the endpoint by endpoints.py, in the same transaction, so that a claim reads
    # one row per lane: held, in_flight_cap, rate_per_s, config_no.
    Column("held", Boolean, nullable=False, server_default=text("false")),
    _number("in_flight_cap", 100),
    Column("rate_per_s", Float),
    _number("config_no", 1),
    # Token bucket of rate_per_s; filled and taken from inside the claim.
    Column("tokens", Float, nullable=False, server_default="1"),
    _moment("tokens_at", nullable=False, default=True),
    # Health; computed by breaker.py, written by settles.
    Column("slow", Boolean, nullable=False, server_default=text("false")),
    _number("failures_in_row"),
    _number("window_ok"),
    _number("window_failed"),
    _moment("window_at"),
    _moment("open_until"),
    _number("opened_times"),
    Column("ramp", Integer),
    Column("latency_ms", Float, nullable=False, server_default="0"),
    UniqueConstraint("endpoint_id", "host", name="paynotify_lane_endpoint_host"),
)

notification = Table(
    "paynotify_notification",
    metadata,
    _id(),
    Column("endpoint_id", _BigId, nullable=False),
    # Goes out as webhook-id: derived from endpoint and event key, so an event that a host
    # enqueues again after a lost tail keeps its id and the merchant can drop the double.
    Column("message_id", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("event_key", Text, nullable=False),
    Column("order_no", Text),
    Column("payload", LargeBinary, nullable=False),
    Column("content_type", Text),
    # JSON list of [name, value] pairs; None is none.
    Column("headers", Text),
    Column("notify_url", Text),
    # JSON {"delays_s": [...], "jitter_ratio": x}; None is the endpoint's.
    Column("schedule", Text),
    Column("trace_id", Text),
    _moment("created_at", nullable=False, default=True),
    _moment("deliver_at"),
    _moment("expires_at"),
    # client: idempotency, for ever.
    UniqueConstraint("endpoint_id", "event_key", name="paynotify_notification_event_key"),
    # client.list_by_order, cli show ORDER.
    Index(
        "paynotify_notification_order",
        "order_no",
        postgresql_where=text("order_no IS NOT NULL"),
        sqlite_where=text("order_no IS NOT NULL"),
    ),
    # cli show msg_...: a merchant reports the webhook-id it saw.
    Index("paynotify_notification_message", "message_id"),
)

# A row that was lost this often in a row may be what kills its workers: it is no longer claimed
# in company, so that nobody dies with it.
SUSPECT_AFTER = 2
_READY = text(f"state = 'pending' AND abandoned < {SUSPECT_AFTER}")
_SUSPECT = text(f"state = 'pending' AND abandoned >= {SUSPECT_AFTER}")
_WAITING = text("state = 'waiting'")
_SENDING = text("state = 'sending'")

delivery = Table(
    "paynotify_delivery",
    metadata,
    # The notification's id.
    Column("id", _BigId, primary_key=True, autoincrement=False),
    Column("lane_id", _BigId, nullable=False),
    Column("state", Text, nullable=False),
    # 0 first, 9 last.
    Column("priority", SmallInteger, nullable=False, server_default="5"),
    _moment("due_at", nullable=False),
    # Rises with every attempt, for ever.
    _number("attempt_no"),
    # Tries used of the present budget; a redrive starts a new one.
    _number("tries"),
    _number("claim_no"),
    # Attempts in a row whose end nobody saw.
    _number("abandoned"),
    _moment("lease_until"),
    _moment("finished_at"),
    # store.claim: hops from lane to lane, takes the earliest due of each.
    Index(
        "paynotify_delivery_ready",
        "lane_id",
        "priority",
        "due_at",
        postgresql_where=_READY,
        sqlite_where=_READY,
    ),
    # store.claim_suspect.
    Index("paynotify_delivery_suspect", "due_at", postgresql_where=_SUSPECT, sqlite_where=_SUSPECT),
    # store.stage: what has come due.
    Index("paynotify_delivery_waiting", "due_at", postgresql_where=_WAITING, sqlite_where=_WAITING),
    # store.claim: how many a lane has on the wire; store.release: whose lease ran out.
    Index(
        "paynotify_delivery_sending",
        "lane_id",
        "lease_until",
        postgresql_where=_SENDING,
        sqlite_where=_SENDING,
    ),
    # Every claim and settle leaves a dead tuple; 70 % full pages keep them on the same page.
    postgresql_with={
        "fillfactor": 70,
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_cost_delay": 0,
    },
)

attempt = Table(
    "paynotify_attempt",
    metadata,
    Column("notification_id", _BigId, primary_key=True, autoincrement=False),
    Column("attempt_no", Integer, primary_key=True, autoincrement=False),
    Column("claim_no", Integer, nullable=False),
    _text("worker"),
    _moment("started_at", nullable=False),
    _moment("finished_at"),
    # NULL while open.
    Column("outcome", Text),
    _number("status"),
    _text("error"),
    _text("evidence"),
    _number("elapsed_ms"),
    _text("remote_ip"),
    _number("secret_version"),
    # store.backlog: the last minute. BRIN costs a claim next to nothing, rows come in time order.
    Index(
        "paynotify_attempt_started",
        "started_at",
        postgresql_using="brin",
        postgresql_with={"autosummarize": True, "pages_per_range": 32},
    ),
    # Opened with the claim, closed with the settle: closing in place needs room on the page.
    postgresql_with={"fillfactor": 80},
)

dead_letter = Table(
    "paynotify_dead_letter",
    metadata,
    _id(),
    Column("notification_id", _BigId, nullable=False),
    Column("endpoint_id", _BigId, nullable=False),
    Column("reason", Text, nullable=False),
    _number("last_status"),
    _text("last_error"),
    _text("last_reply"),
    _number("attempts"),
    _moment("first_failed_at"),
    _moment("last_failed_at"),
    _moment("died_at", nullable=False, default=True),
    # NULL while open; then redriven or discarded, by whom and why.
    Column("resolution", Text),
    _moment("resolved_at"),
    Column("resolved_by", Text),
    Column("resolved_why", Text),
    # deadletters.explain: all deaths of a notification.
    Index("paynotify_dead_letter_notification", "notification_id"),
    # deadletters.find and redrive: open ones of an endpoint, oldest first.
    Index(
        "paynotify_dead_letter_open",
        "endpoint_id",
        "id",
        postgresql_where=text("resolution IS NULL"),
        sqlite_where=text("resolution IS NULL"),
    ),
)

inbox = Table(
    "paynotify_inbox",
    metadata,
    _id(),
    # Exactly one of the two.
    Column("merchant", Text),
    Column("endpoint", Text),
    Column("event_type", Text, nullable=False),
    Column("event_key", Text, nullable=False),
    Column("order_no", Text),
    Column("payload", Text, nullable=False),
    Column("content_type", Text),
    # A JSON object of strings.
    Column("headers", Text),
    Column("notify_url", Text),
    _moment("deliver_at"),
    _moment("expires_at"),
    Column("priority", SmallInteger, nullable=False, server_default="5"),
    Column("trace_id", Text),
    _moment("created_at", nullable=False, default=True),
    # NULL until read; accepted rows are deleted in the transaction that accepts them.
    Column("refused_because", Text),
    # client.accept_inbox: unread rows, oldest first.
    Index(
        "paynotify_inbox_unread",
        "id",
        postgresql_where=text("refused_because IS NULL"),
        sqlite_where=text("refused_because IS NULL"),
    ),
)

audit = Table(
    "paynotify_audit",
    metadata,
    _id(),
    _moment("at", nullable=False, default=True),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    _text("why"),
    # JSON object with the facts before and after; never a secret.
    _text("facts", "{}"),
)
