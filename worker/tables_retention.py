"""Tables of what is kept for longer, and of how carefully dead letters are revived."""

from sqlalchemy import Column, Table, Text

from worker.columns import BigId, metadata, moment, number, words

# What must not be removed, whatever its age. One of the two names it; the other is empty or 0.
legal_hold = Table(
    "paynotify_legal_hold",
    metadata,
    # An order's number (or a refund's): everything about it.
    Column("order_no", Text, primary_key=True),
    # Everything of one endpoint.
    Column("endpoint_id", BigId, primary_key=True, autoincrement=False),
    Column("who", Text, nullable=False),
    words("why"),
    moment("placed_at", nullable=False, default=True),
)

# The last batch of dead letters that was revived for an endpoint: the next one waits for it.
revival = Table(
    "paynotify_revival",
    metadata,
    Column("endpoint_id", BigId, primary_key=True, autoincrement=False),
    # How many letters the batch was meant to hold.
    number("size", 1),
    # JSON list of its notifications.
    words("notification_ids", "[]"),
    moment("revived_at", nullable=False, default=True),
)
