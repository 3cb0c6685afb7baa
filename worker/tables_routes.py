"""The table of callback routes that have had trouble."""

from sqlalchemy import Boolean, Column, ForeignKey, Integer, Table, text

from worker.columns import BigId, metadata, moment, number, words

# One row per route that ever failed; a route without one is sound. Computed by routes.py, written
# by settles that saw a failure and by whoever takes the probe, read by workers that send through
# the endpoint, always by its key, and by alerts, whole: no other index.
callback_route = Table(
    "paynotify_callback_route",
    metadata,
    Column("endpoint_id", BigId, ForeignKey("paynotify_endpoint.id"), primary_key=True),
    # 0: the endpoint's own URL; else the number in its configuration.
    Column("no", Integer, primary_key=True, autoincrement=False),
    words("standing", "sound"),
    number("step"),
    number("failures_in_row"),
    number("window_ok"),
    number("window_failed"),
    moment("window_at"),
    moment("probe_at"),
    Column("probing", Boolean, nullable=False, server_default=text("false")),
    number("pauses"),
    number("trips"),
    # When it last tripped, came back a step, or was sound again; for people.
    moment("moved_at"),
)
