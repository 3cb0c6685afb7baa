"""Alerts: counts per minute, incidents, their delivery."""

import sqlalchemy as sa
from alembic import op

from worker.columns import BigId, Moment, database_now

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "paynotify_alert",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), server_default="", nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("measure", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), server_default="", nullable=False),
        sa.Column("threshold", sa.Text(), server_default="", nullable=False),
        sa.Column("step", sa.Integer(), server_default="0", nullable=False),
        sa.Column("summary", sa.Text(), server_default="", nullable=False),
        sa.Column("opened_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("seen_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("subjects", sa.Integer(), server_default="1", nullable=False),
        sa.Column("told_at", Moment(), nullable=True),
        sa.Column("escalated_at", Moment(), nullable=True),
        sa.Column("acknowledged_at", Moment(), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("resolved_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "paynotify_alert_open",
        "paynotify_alert",
        ["rule", "subject"],
        unique=True,
        postgresql_where=sa.text("resolved_at IS NULL"),
        sqlite_where=sa.text("resolved_at IS NULL"),
    )
    op.create_index("paynotify_alert_lately", "paynotify_alert", ["rule", "subject", "opened_at"])
    op.create_table(
        "paynotify_alert_delivery",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("alert_id", BigId, nullable=False),
        sa.Column("occasion", sa.Text(), nullable=False),
        sa.Column("sink", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), server_default="due", nullable=False),
        sa.Column("written_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("lease_until", Moment(), nullable=True),
        sa.Column("sent_at", Moment(), nullable=True),
        sa.Column("last_error", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "paynotify_alert_delivery_due",
        "paynotify_alert_delivery",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("state = 'due'"),
        sqlite_where=sa.text("state = 'due'"),
    )
    op.create_index("paynotify_alert_delivery_alert", "paynotify_alert_delivery", ["alert_id"])
    op.create_table(
        "paynotify_rollup",
        sa.Column("minute_at", Moment(), nullable=False),
        sa.Column("endpoint_id", BigId, autoincrement=False, nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("acked", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("dead", sa.Integer(), server_default="0", nullable=False),
        sa.Column("held", sa.Integer(), server_default="0", nullable=False),
        sa.Column("abandoned", sa.Integer(), server_default="0", nullable=False),
        sa.Column("stale", sa.Integer(), server_default="0", nullable=False),
        sa.Column("elapsed_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("minute_at", "endpoint_id", "worker"),
    )
    op.create_index("paynotify_rollup_endpoint", "paynotify_rollup", ["endpoint_id", "minute_at"])
    op.create_index(
        "paynotify_lane_slow",
        "paynotify_lane",
        ["id"],
        postgresql_where=sa.text("slow"),
        sqlite_where=sa.text("slow"),
    )
    op.create_table(
        "paynotify_silence",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), server_default="*", nullable=False),
        sa.Column("until", Moment(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", Moment(), server_default=database_now(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    op.drop_table("paynotify_silence")
    op.drop_index("paynotify_lane_slow", table_name="paynotify_lane")
    op.drop_table("paynotify_rollup")
    op.drop_index(
        "paynotify_alert_delivery_due",
        table_name="paynotify_alert_delivery",
        postgresql_where=sa.text("state = 'due'"),
        sqlite_where=sa.text("state = 'due'"),
    )
    op.drop_table("paynotify_alert_delivery")
    op.drop_index(
        "paynotify_alert_open",
        table_name="paynotify_alert",
        postgresql_where=sa.text("resolved_at IS NULL"),
        sqlite_where=sa.text("resolved_at IS NULL"),
    )
    op.drop_table("paynotify_alert")
