"""The tables, once for both databases; each index says which query needs it.

A notification is two rows: ``paynotify_notification`` holds what never changes (and is large),
``paynotify_delivery`` holds what changes with every claim and settle (and is small), so moving a
notification through its life never rewrites its payload. Names carry the prefix because the
tables live in the host's own database. Times are ``timestamptz`` on PostgreSQL and whole
microseconds since 1970 on SQLite.

No foreign key stands on the hot path: a claim opens attempts for rows it has just locked, so the
check could only repeat what the statement guarantees, at the price of a row lock each.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from worker.columns import BigId, identity, metadata, moment, number, words

endpoint = Table(
    "paynotify_endpoint",
    metadata,
    identity(),
    Column("name", Text, nullable=False, unique=True),
    Column("merchant", Text, nullable=False),
    Column("url", Text, nullable=False),
    words("state", "active"),
    words("state_reason"),
    # Everything else one endpoint is told (ack rule, schedules, limits, allowed exceptions, CA):
    # one JSON document, read whole and cached per config_no, never searched.
    Column("config", Text, nullable=False),
    # AES-256-GCM like a secret: it holds a private key.
    Column("client_pem", LargeBinary),
    number("config_no", 1),
    moment("created_at", nullable=False, default=True),
    moment("updated_at", nullable=False, default=True),
    # client: endpoints of a merchant at enqueue.
    Index("paynotify_endpoint_merchant", "merchant"),
)

endpoint_secret = Table(
    "paynotify_endpoint_secret",
    metadata,
    Column("endpoint_id", BigId, ForeignKey("paynotify_endpoint.id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("sealed", LargeBinary, nullable=False),
    moment("created_at", nullable=False, default=True),
    # None: the present one. Set at rotation: signs along with the new one until then.
    moment("retires_at"),
)

endpoint_version = Table(
    "paynotify_endpoint_version",
    metadata,
    # What an endpoint was at each config_no, never changed: an attempt can be written once more
    # as it was sent. Read by its key only.
    Column("endpoint_id", BigId, ForeignKey("paynotify_endpoint.id"), primary_key=True),
    Column("config_no", Integer, primary_key=True, autoincrement=False),
    Column("url", Text, nullable=False),
    Column("config", Text, nullable=False),
    moment("at", nullable=False, default=True),
)

lane = Table(
    "paynotify_lane",
    metadata,
    identity(),
    Column("endpoint_id", BigId, ForeignKey("paynotify_endpoint.id"), nullable=False),
    # Empty: the endpoint's own URL. Else scheme://host:port of notifications with a notify_url.
    words("host"),
    # Copied from the endpoint by endpoints.py, in the same transaction, so that a claim reads
    # one row per lane: held, in_flight_cap, rate_per_s, config_no.
    Column("held", Boolean, nullable=False, server_default=text("false")),
    number("in_flight_cap", 100),
    Column("rate_per_s", Float),
    number("config_no", 1),
    # Token bucket of rate_per_s; filled and taken from inside the claim.
    Column("tokens", Float, nullable=False, server_default="1"),
    moment("tokens_at", nullable=False, default=True),
    # Health; computed by breaker.py, written by settles.
    Column("slow", Boolean, nullable=False, server_default=text("false")),
    number("failures_in_row"),
    number("window_ok"),
    number("window_failed"),
    moment("window_at"),
    moment("open_until"),
    number("opened_times"),
    Column("ramp", Integer),
    Column("latency_ms", Float, nullable=False, server_default="0"),
    UniqueConstraint("endpoint_id", "host", name="paynotify_lane_endpoint_host"),
    # schedules.measures: lanes in trouble are slow ones; whether one is changes seldom.
    Index("paynotify_lane_slow", "id", postgresql_where=text("slow"), sqlite_where=text("slow")),
)

notification = Table(
    "paynotify_notification",
    metadata,
    identity(),
    Column("endpoint_id", BigId, nullable=False),
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
    # Kept in order within its endpoint by this; NULL is unordered. And how long it lets itself be
    # held up by each earlier one.
    Column("ordering_key", Text),
    Column("ordering_wait_s", Integer),
    moment("created_at", nullable=False, default=True),
    moment("deliver_at"),
    moment("expires_at"),
    # Set when store_forget.py took everything else away: then payload is its SHA-256, and the
    # row is only there to keep its event key unique.
    moment("forgotten_at"),
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
    # ordering.overtaken: was a newer one of the key sent?
    Index(
        "paynotify_notification_ordering",
        "endpoint_id",
        "ordering_key",
        postgresql_where=text("ordering_key IS NOT NULL"),
        sqlite_where=text("ordering_key IS NOT NULL"),
    ),
)

# A row that was lost this often in a row may be what kills its workers: it is no longer claimed
# in company, so that nobody dies with it.
SUSPECT_AFTER = 2
_READY = text(f"state = 'pending' AND abandoned < {SUSPECT_AFTER}")
_SUSPECT = text(f"state = 'pending' AND abandoned >= {SUSPECT_AFTER}")
_WAITING = text("state = 'waiting'")
_SENDING = text("state = 'sending'")
_BLOCKED = text("state = 'blocked'")
# Unfinished and ordered. Unordered rows are in none of its index, and pay for its first words only.
IN_LINE = "state IN ('blocked', 'waiting', 'pending', 'sending')"
_IN_LINE = text(f"ordering IS NOT NULL AND {IN_LINE}")

delivery = Table(
    "paynotify_delivery",
    metadata,
    # The notification's id.
    Column("id", BigId, primary_key=True, autoincrement=False),
    Column("lane_id", BigId, nullable=False),
    Column("state", Text, nullable=False),
    # 0 first, 9 last.
    Column("priority", SmallInteger, nullable=False, server_default="5"),
    moment("due_at", nullable=False),
    # Rises with every attempt, for ever.
    number("attempt_no"),
    # Tries used of the present budget; a redrive starts a new one.
    number("tries"),
    number("claim_no"),
    # Attempts in a row whose end nobody saw.
    number("abandoned"),
    moment("lease_until"),
    moment("finished_at"),
    # The line it stands in: endpoint id, colon, ordering key. NULL is none, as for most.
    Column("ordering", Text),
    # Since when nothing earlier in its line holds it up; NULL while blocked.
    moment("turn_at"),
    # Cancelled because this newer one took its place.
    Column("superseded_by", BigId),
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
    # ordering.PROMOTE, intake: who of a line is unfinished, in order.
    Index(
        "paynotify_delivery_in_line",
        "ordering",
        "id",
        postgresql_where=_IN_LINE,
        sqlite_where=_IN_LINE,
    ),
    # store.look: blocked rows by when they are looked at next.
    Index("paynotify_delivery_blocked", "due_at", postgresql_where=_BLOCKED, sqlite_where=_BLOCKED),
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
    Column("notification_id", BigId, primary_key=True, autoincrement=False),
    Column("attempt_no", Integer, primary_key=True, autoincrement=False),
    Column("claim_no", Integer, nullable=False),
    words("worker"),
    moment("started_at", nullable=False),
    moment("finished_at"),
    # NULL while open.
    Column("outcome", Text),
    number("status"),
    words("error"),
    words("evidence"),
    number("elapsed_ms"),
    words("remote_ip"),
    # With what it was signed, as far as as_sent.py needs it to write the request once more:
    # whole seconds since 1970, and the version of the endpoint; 0 while open.
    number("secret_version"),
    Column("signed_at", BigInteger, nullable=False, server_default="0"),
    number("config_no"),
    # Which of several routes it took; 0 is the endpoint's own URL, or its notification's.
    number("route"),
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
    identity(),
    Column("notification_id", BigId, nullable=False),
    Column("endpoint_id", BigId, nullable=False),
    Column("reason", Text, nullable=False),
    number("last_status"),
    words("last_error"),
    words("last_reply"),
    number("attempts"),
    moment("first_failed_at"),
    moment("last_failed_at"),
    moment("died_at", nullable=False, default=True),
    # NULL while open; then redriven or discarded, by whom and why.
    Column("resolution", Text),
    moment("resolved_at"),
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
    identity(),
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
    moment("deliver_at"),
    moment("expires_at"),
    Column("priority", SmallInteger, nullable=False, server_default="5"),
    Column("trace_id", Text),
    Column("ordering_key", Text),
    Column("ordering_wait_s", Integer),
    Column("supersede", Boolean, nullable=False, server_default=text("false")),
    moment("created_at", nullable=False, default=True),
    # NULL until read; accepted rows are deleted in the transaction that accepts them.
    Column("refused_because", Text),
    # client.accept_inbox: unread rows, oldest first.
    Index(
        "paynotify_inbox_unread",
        "id",
        postgresql_where=text("refused_because IS NULL"),
        sqlite_where=text("refused_because IS NULL"),
    ),
    # inbox: unread rows of one ordering key, which only go in one after the other.
    Index(
        "paynotify_inbox_ordered",
        "ordering_key",
        "id",
        postgresql_where=text("refused_because IS NULL AND ordering_key IS NOT NULL"),
        sqlite_where=text("refused_because IS NULL AND ordering_key IS NOT NULL"),
    ),
)

# One row per line that somebody ever stood in; removed by the retention when nobody does.
ordering = Table(
    "paynotify_ordering",
    metadata,
    # Endpoint id, colon, ordering key.
    Column("ordering", Text, primary_key=True),
    # Everything older than this notification was superseded by it, if it still comes back.
    Column("superseded_below", BigId),
    # Written by every enqueue into the line: two at once take turns, so that ids rise in the
    # order of commits.
    moment("touched_at", nullable=False, default=True),
)

audit = Table(
    "paynotify_audit",
    metadata,
    identity(),
    moment("at", nullable=False, default=True),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    words("why"),
    # JSON object with the facts before and after; never a secret.
    words("facts", "{}"),
)
