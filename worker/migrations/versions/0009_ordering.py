"""Ordering: notifications that wait for earlier ones, and newer ones that take their place."""

import sqlalchemy as sa
from alembic import op

from worker.columns import BigId, Moment, database_now

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_IN_LINE = sa.text(
    "ordering IS NOT NULL AND state IN ('blocked', 'waiting', 'pending', 'sending')"
)
_BLOCKED = sa.text("state = 'blocked'")
_ORDERED = sa.text("ordering_key IS NOT NULL")
_UNREAD = sa.text("refused_because IS NULL AND ordering_key IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "paynotify_ordering",
        sa.Column("ordering", sa.Text(), nullable=False),
        sa.Column("superseded_below", BigId, nullable=True),
        sa.Column("touched_at", Moment(), server_default=database_now(), nullable=False),
        sa.PrimaryKeyConstraint("ordering"),
    )
    # Without a default no row is rewritten; and no row there is belongs to these indexes.
    op.add_column("paynotify_notification", sa.Column("ordering_key", sa.Text(), nullable=True))
    op.add_column(
        "paynotify_notification", sa.Column("ordering_wait_s", sa.Integer(), nullable=True)
    )
    op.create_index(
        "paynotify_notification_ordering",
        "paynotify_notification",
        ["endpoint_id", "ordering_key"],
        postgresql_where=_ORDERED,
        sqlite_where=_ORDERED,
    )
    op.add_column("paynotify_delivery", sa.Column("ordering", sa.Text(), nullable=True))
    op.add_column("paynotify_delivery", sa.Column("turn_at", Moment(), nullable=True))
    op.add_column("paynotify_delivery", sa.Column("superseded_by", BigId, nullable=True))
    op.create_index(
        "paynotify_delivery_in_line",
        "paynotify_delivery",
        ["ordering", "id"],
        postgresql_where=_IN_LINE,
        sqlite_where=_IN_LINE,
    )
    op.create_index(
        "paynotify_delivery_blocked",
        "paynotify_delivery",
        ["due_at"],
        postgresql_where=_BLOCKED,
        sqlite_where=_BLOCKED,
    )
    op.add_column("paynotify_inbox", sa.Column("ordering_key", sa.Text(), nullable=True))
    op.add_column("paynotify_inbox", sa.Column("ordering_wait_s", sa.Integer(), nullable=True))
    op.add_column(
        "paynotify_inbox",
        sa.Column("supersede", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_index(
        "paynotify_inbox_ordered",
        "paynotify_inbox",
        ["ordering_key", "id"],
        postgresql_where=_UNREAD,
        sqlite_where=_UNREAD,
    )


def downgrade() -> None:
    op.drop_index("paynotify_inbox_ordered", "paynotify_inbox")
    op.drop_column("paynotify_inbox", "supersede")
    op.drop_column("paynotify_inbox", "ordering_wait_s")
    op.drop_column("paynotify_inbox", "ordering_key")
    op.drop_index("paynotify_delivery_blocked", "paynotify_delivery")
    op.drop_index("paynotify_delivery_in_line", "paynotify_delivery")
    # A blocked row would never be found again.
    op.execute("UPDATE paynotify_delivery SET state = 'pending' WHERE state = 'blocked'")
    op.drop_column("paynotify_delivery", "superseded_by")
    op.drop_column("paynotify_delivery", "turn_at")
    op.drop_column("paynotify_delivery", "ordering")
    op.drop_index("paynotify_notification_ordering", "paynotify_notification")
    op.drop_column("paynotify_notification", "ordering_wait_s")
    op.drop_column("paynotify_notification", "ordering_key")
    op.drop_table("paynotify_ordering")
