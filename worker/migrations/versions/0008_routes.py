"""Callback routes: how those in trouble are doing, and which one an attempt took."""

import sqlalchemy as sa
from alembic import op

from worker.columns import BigId, Moment

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "paynotify_callback_route",
        sa.Column("endpoint_id", BigId, nullable=False),
        sa.Column("no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("standing", sa.Text(), server_default="sound", nullable=False),
        sa.Column("step", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures_in_row", sa.Integer(), server_default="0", nullable=False),
        sa.Column("window_ok", sa.Integer(), server_default="0", nullable=False),
        sa.Column("window_failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("window_at", Moment(), nullable=True),
        sa.Column("probe_at", Moment(), nullable=True),
        sa.Column("probing", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("pauses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("trips", sa.Integer(), server_default="0", nullable=False),
        sa.Column("moved_at", Moment(), nullable=True),
        sa.ForeignKeyConstraint(["endpoint_id"], ["paynotify_endpoint.id"]),
        sa.PrimaryKeyConstraint("endpoint_id", "no"),
    )
    # A constant default: no row is rewritten, however many there are.
    op.add_column(
        "paynotify_attempt", sa.Column("route", sa.Integer(), server_default="0", nullable=False)
    )


def downgrade() -> None:
    op.drop_column("paynotify_attempt", "route")
    op.drop_table("paynotify_callback_route")
