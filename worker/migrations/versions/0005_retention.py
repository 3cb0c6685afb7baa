"""Retention: legal holds, revivals, notifications of which only the key is left."""

import sqlalchemy as sa
from alembic import op

from worker.columns import BigId, Moment, database_now

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "paynotify_legal_hold",
        sa.Column("order_no", sa.Text(), nullable=False),
        sa.Column("endpoint_id", BigId, autoincrement=False, nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.Column("placed_at", Moment(), server_default=database_now(), nullable=False),
        sa.PrimaryKeyConstraint("order_no", "endpoint_id"),
    )
    op.create_table(
        "paynotify_revival",
        sa.Column("endpoint_id", BigId, autoincrement=False, nullable=False),
        sa.Column("size", sa.Integer(), server_default="1", nullable=False),
        sa.Column("notification_ids", sa.Text(), server_default="[]", nullable=False),
        sa.Column("revived_at", Moment(), server_default=database_now(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id"),
    )
    # Without a default: no row is rewritten, however many there are.
    op.add_column("paynotify_notification", sa.Column("forgotten_at", Moment(), nullable=True))


def downgrade() -> None:
    op.drop_column("paynotify_notification", "forgotten_at")
    op.drop_table("paynotify_revival")
    op.drop_table("paynotify_legal_hold")
