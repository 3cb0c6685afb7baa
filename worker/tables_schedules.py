"""Tables of what runs by the clock: the cron table's state, its ticks, and the sweeps' leases.

Must never hold what a sweep works on; only when it ran, how far it got and who runs it now.
"""

from sqlalchemy import Boolean, Column, Index, Table, Text, text

from worker.columns import Moment, metadata, moment, number, words

schedule = Table(
    "paynotify_schedule",
    metadata,
    Column("name", Text, primary_key=True),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    # Ticks up to here are decided: to be run or skipped. Moves forward by compare-and-set; back
    # only when the database's clock was set back.
    moment("decided_until", nullable=False),
    # Expression and zone it was decided by: a changed line does not catch up.
    words("fingerprint"),
    moment("updated_at", nullable=False, default=True),
)

tick = Table(
    "paynotify_tick",
    metadata,
    Column("name", Text, primary_key=True),
    Column("tick_at", Moment(), primary_key=True),
    # due, running, done, failed, skipped.
    Column("state", Text, nullable=False, server_default="due"),
    # Why it was skipped, or that a person asked for it.
    words("note"),
    # What to run, as the cron table said when the tick was decided.
    words("job"),
    words("arguments", "{}"),
    number("time_limit_s"),
    moment("decided_at", nullable=False, default=True),
    # The runner's lease; claim_no fences a runner that slept through it.
    number("claim_no"),
    moment("lease_until"),
    words("runner"),
    # Starts that were not handed back; more than one: a runner was lost in the middle.
    number("runs"),
    moment("started_at"),
    moment("finished_at"),
    # One line: what it did, or the error.
    words("result"),
    # schedules.ticks: what is due or was lost, by line, oldest first.
    Index(
        "paynotify_tick_open",
        "name",
        "tick_at",
        postgresql_where=text("state IN ('due', 'running')"),
        sqlite_where=text("state IN ('due', 'running')"),
    ),
    # schedules.tick_book: the history of all lines; retention: the oldest.
    Index("paynotify_tick_at", "tick_at"),
)

sweep = Table(
    "paynotify_sweep",
    metadata,
    Column("name", Text, primary_key=True),
    # Lease of the one that runs it; the database's clock.
    words("runner"),
    moment("lease_until"),
    number("claim_no"),
    # Where the next batch begins, as the sweep itself writes it; empty is from the start.
    words("cursor"),
    moment("round_started_at"),
    moment("round_finished_at"),
    # Heartbeat: moved with every batch.
    moment("beat_at"),
    # JSON object: counts of the present round, and of the last whole one.
    words("counts", "{}"),
    words("last_counts", "{}"),
    words("last_error"),
)
