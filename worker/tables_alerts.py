"""Tables of measures and alerts: counts per minute and endpoint, incidents, their delivery.

Must never need a scan of attempts to say how things are.
"""

from sqlalchemy import BigInteger, Column, Index, Table, Text, text

from worker.columns import BigId, Moment, identity, metadata, moment, number, words

rollup = Table(
    "paynotify_rollup",
    metadata,
    # Start of the minute.
    Column("minute_at", Moment(), primary_key=True),
    # 0 stands for what belongs to no endpoint: lost leases, and that this process is alive.
    Column("endpoint_id", BigId, primary_key=True, autoincrement=False),
    # Each process writes rows of its own, so that nobody waits for anybody's lock. The name of its
    # place, not of the process: after a restart the same rows go on.
    Column("worker", Text, primary_key=True),
    number("acked"),
    # Sends that speak against the merchant's health; dead ones of them count here too.
    number("failed"),
    number("dead"),
    number("held"),
    number("abandoned"),
    number("stale"),
    Column("elapsed_ms", BigInteger, nullable=False, server_default="0"),
    # schedules.measures_sends: what is usual for one endpoint.
    Index("paynotify_rollup_endpoint", "endpoint_id", "minute_at"),
)

alert = Table(
    "paynotify_alert",
    metadata,
    identity(),
    # The rule's name, and what it is about: an endpoint, a channel, a sweep; empty is all.
    Column("rule", Text, nullable=False),
    words("subject"),
    # info, warning, critical.
    Column("severity", Text, nullable=False),
    Column("measure", Text, nullable=False),
    # As written for people; a float would be wrong for money.
    words("value"),
    words("threshold"),
    # Which of the rule's thresholds was reached, 0 the first; only rises.
    number("step"),
    # One sentence for the person on call.
    words("summary"),
    moment("opened_at", nullable=False, default=True),
    moment("seen_at", nullable=False, default=True),
    # How many subjects it stands for, when a storm was folded into one.
    number("subjects", 1),
    # NULL while nobody was told, because it is silenced.
    moment("told_at"),
    moment("escalated_at"),
    moment("acknowledged_at"),
    Column("acknowledged_by", Text),
    # NULL while it lasts.
    moment("resolved_at"),
    # The highest step that was told; less than step when it got worse during a silence.
    number("told_step"),
    Index(
        "paynotify_alert_open",
        "rule",
        "subject",
        unique=True,
        postgresql_where=text("resolved_at IS NULL"),
        sqlite_where=text("resolved_at IS NULL"),
    ),
    # alerts.settle: how often one has come lately; alerts.find.
    Index("paynotify_alert_lately", "rule", "subject", "opened_at"),
)

alert_delivery = Table(
    "paynotify_alert_delivery",
    metadata,
    identity(),
    Column("alert_id", BigId, nullable=False),
    # raised, escalated, resolved.
    Column("occasion", Text, nullable=False),
    Column("sink", Text, nullable=False),
    words("text"),
    # due, sent, given_up.
    Column("state", Text, nullable=False, server_default="due"),
    moment("written_at", nullable=False, default=True),
    number("tries"),
    moment("due_at", nullable=False, default=True),
    moment("lease_until"),
    moment("sent_at"),
    words("last_error"),
    # alert_post.claim: what is due, and whether an earlier one of its alert is still to go.
    Index(
        "paynotify_alert_delivery_due",
        "due_at",
        postgresql_where=text("state = 'due'"),
        sqlite_where=text("state = 'due'"),
    ),
    Index("paynotify_alert_delivery_alert", "alert_id"),
)

silence = Table(
    "paynotify_silence",
    metadata,
    identity(),
    # A rule's name or *, a subject or *.
    Column("rule", Text, nullable=False),
    Column("subject", Text, nullable=False, server_default="*"),
    moment("until", nullable=False),
    Column("who", Text, nullable=False),
    words("why"),
    moment("created_at", nullable=False, default=True),
)
