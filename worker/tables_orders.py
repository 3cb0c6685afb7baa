"""Tables of the truth about orders: our own orders, what to ask the channels when, and cases.

Must never hold money in anything but whole minor units with a currency.
"""

from sqlalchemy import BigInteger, Column, Index, Table, Text, UniqueConstraint, text

from worker.columns import BigId, identity, metadata, moment, number, words

_UNSETTLED = text("state IN ('created', 'pending')")
_ENDED = text("state IN ('paid', 'partial_refund', 'refunded')")
_REFUND_OPEN = text("state IN ('created', 'processing', 'abnormal')")

# Used when the host has no table of its own to map; see schedules/ports.py.
payment_order = Table(
    "paynotify_payment_order",
    metadata,
    Column("order_no", Text, primary_key=True),
    Column("merchant", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    # created, pending, paid, failed, closed, partial_refund, refunded.
    Column("state", Text, nullable=False, server_default="pending"),
    # The channel's own number and time of payment.
    words("channel_txn_no"),
    moment("paid_at"),
    Column("refunded_minor", BigInteger, nullable=False, server_default="0"),
    Column("notify_url", Text),
    moment("created_at", nullable=False, default=True),
    moment("expires_at"),
    moment("updated_at", nullable=False, default=True),
    # OrderPort.unsettled: by number.
    Index(
        "paynotify_payment_order_unsettled",
        "order_no",
        postgresql_where=_UNSETTLED,
        sqlite_where=_UNSETTLED,
    ),
    # OrderPort.ended: those that were paid, by when they last changed.
    Index(
        "paynotify_payment_order_ended",
        "updated_at",
        "order_no",
        postgresql_where=_ENDED,
        sqlite_where=_ENDED,
    ),
)

refund = Table(
    "paynotify_refund",
    metadata,
    Column("refund_no", Text, primary_key=True),
    Column("order_no", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    # created, processing, success, failed, abnormal.
    Column("state", Text, nullable=False, server_default="processing"),
    moment("created_at", nullable=False, default=True),
    moment("updated_at", nullable=False, default=True),
    # OrderPort.refunds_of.
    Index("paynotify_refund_order", "order_no"),
    # OrderPort.refunds: by number.
    Index(
        "paynotify_refund_open",
        "refund_no",
        postgresql_where=_REFUND_OPEN,
        sqlite_where=_REFUND_OPEN,
    ),
)

# One row per order or refund that is still to be asked about, whoever owns the order's table.
check = Table(
    "paynotify_check",
    metadata,
    identity(),
    # order or refund.
    Column("kind", Text, nullable=False, server_default="order"),
    Column("subject_no", Text, nullable=False),
    # The order itself, or the refund's: what a legal hold names.
    words("order_no"),
    Column("channel", Text, nullable=False),
    # When the order was placed: windows are measured from here.
    moment("placed_at", nullable=False),
    moment("next_check_at", nullable=False),
    number("checks"),
    # Unknown answers in a row.
    number("unknowns"),
    # NULL while asked about.
    moment("finished_at"),
    words("finished_because"),
    UniqueConstraint("kind", "subject_no", name="paynotify_check_subject"),
    # status_reconciliation: what is to be asked now, by channel.
    Index(
        "paynotify_check_due",
        "channel",
        "next_check_at",
        "id",
        postgresql_where=text("finished_at IS NULL"),
        sqlite_where=text("finished_at IS NULL"),
    ),
)

# A channel's routes: their breakers and rate limits, shared by all processes. The route with the
# empty name is the channel itself.
route = Table(
    "paynotify_route",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    number("failures_in_row"),
    moment("open_until"),
    number("opened_times"),
    # Questions are promised up to here; the next one goes out then.
    moment("busy_until"),
    moment("updated_at", nullable=False, default=True),
)

evidence = Table(
    "paynotify_recon_evidence",
    metadata,
    identity(),
    moment("at", nullable=False, default=True),
    Column("kind", Text, nullable=False, server_default="order"),
    Column("subject_no", Text, nullable=False),
    # The order itself, or the refund's: what a legal hold names.
    words("order_no"),
    Column("channel", Text, nullable=False),
    words("route"),
    # JSON objects: what we had, what the channel said.
    words("ours", "{}"),
    words("theirs", "{}"),
    # SHA-256 of the reply's bytes, hex; empty when none came.
    words("reply_sha256"),
    # One of schedules/decisions.py.
    Column("decision", Text, nullable=False),
    # What was done, or why not (a lost compare-and-set).
    words("done"),
    Index("paynotify_recon_evidence_subject", "subject_no"),
)

recon_case = Table(
    "paynotify_recon_case",
    metadata,
    identity(),
    # late_payment, amount_mismatch, currency_mismatch, status_mismatch, too_old, ...
    Column("reason", Text, nullable=False),
    Column("kind", Text, nullable=False, server_default="order"),
    Column("subject_no", Text, nullable=False),
    # The order itself, or the refund's: what a legal hold names.
    words("order_no"),
    Column("channel", Text, nullable=False),
    words("merchant"),
    Column("amount_minor", BigInteger),
    Column("currency", Text),
    # One sentence for the person who takes it up.
    words("suggestion"),
    # JSON object with both sides.
    words("facts", "{}"),
    Column("evidence_id", BigId),
    moment("opened_at", nullable=False, default=True),
    moment("seen_at", nullable=False, default=True),
    number("times_seen", 1),
    # NULL while open.
    moment("resolved_at"),
    Column("resolved_by", Text),
    Column("resolution", Text),
    # One open case per reason and subject, however often a sweep finds it.
    Index(
        "paynotify_recon_case_open",
        "reason",
        "kind",
        "subject_no",
        unique=True,
        postgresql_where=text("resolved_at IS NULL"),
        sqlite_where=text("resolved_at IS NULL"),
    ),
    # cases: what was found of an order before, and what a person said to it.
    Index("paynotify_recon_case_subject", "subject_no"),
)
