"""Schedules: the cron table's state, ticks, sweeps."""

import sqlalchemy as sa
from alembic import op

from worker.columns import BigId, Moment, database_now

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "paynotify_schedule",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("decided_until", Moment(), nullable=False),
        sa.Column("fingerprint", sa.Text(), server_default="", nullable=False),
        sa.Column("updated_at", Moment(), server_default=database_now(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "paynotify_sweep",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("runner", sa.Text(), server_default="", nullable=False),
        sa.Column("lease_until", Moment(), nullable=True),
        sa.Column("claim_no", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cursor", sa.Text(), server_default="", nullable=False),
        sa.Column("round_started_at", Moment(), nullable=True),
        sa.Column("round_finished_at", Moment(), nullable=True),
        sa.Column("beat_at", Moment(), nullable=True),
        sa.Column("counts", sa.Text(), server_default="{}", nullable=False),
        sa.Column("last_counts", sa.Text(), server_default="{}", nullable=False),
        sa.Column("last_error", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "paynotify_tick",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tick_at", Moment(), nullable=False),
        sa.Column("state", sa.Text(), server_default="due", nullable=False),
        sa.Column("note", sa.Text(), server_default="", nullable=False),
        sa.Column("job", sa.Text(), server_default="", nullable=False),
        sa.Column("arguments", sa.Text(), server_default="{}", nullable=False),
        sa.Column("time_limit_s", sa.Integer(), server_default="0", nullable=False),
        sa.Column("decided_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("claim_no", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", Moment(), nullable=True),
        sa.Column("runner", sa.Text(), server_default="", nullable=False),
        sa.Column("runs", sa.Integer(), server_default="0", nullable=False),
        sa.Column("started_at", Moment(), nullable=True),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.Column("result", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name", "tick_at"),
    )
    op.create_index(
        "paynotify_tick_open",
        "paynotify_tick",
        ["name", "tick_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('due', 'running')"),
        sqlite_where=sa.text("state IN ('due', 'running')"),
    )
    op.create_index("paynotify_tick_at", "paynotify_tick", ["tick_at"], unique=False)


def downgrade() -> None:
    op.drop_index("paynotify_tick_at", table_name="paynotify_tick")
    op.drop_index(
        "paynotify_tick_open",
        table_name="paynotify_tick",
        postgresql_where=sa.text("state IN ('due', 'running')"),
        sqlite_where=sa.text("state IN ('due', 'running')"),
    )
    op.drop_table("paynotify_tick")
    op.drop_table("paynotify_sweep")
    op.drop_table("paynotify_schedule")
