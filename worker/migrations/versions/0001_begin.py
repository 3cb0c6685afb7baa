"""Begin: endpoints, lanes, notifications, attempts, dead letters, inbox, audit."""

import sqlalchemy as sa
from alembic import op

from worker.columns import Moment, database_now

BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "paynotify_attempt",
        sa.Column("notification_id", BigId, autoincrement=False, nullable=False),
        sa.Column("attempt_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("claim_no", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), server_default="", nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("status", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), server_default="", nullable=False),
        sa.Column("evidence", sa.Text(), server_default="", nullable=False),
        sa.Column("elapsed_ms", sa.Integer(), server_default="0", nullable=False),
        sa.Column("remote_ip", sa.Text(), server_default="", nullable=False),
        sa.Column("secret_version", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("notification_id", "attempt_no"),
        postgresql_with={"fillfactor": 80},
    )
    op.create_index(
        "paynotify_attempt_started",
        "paynotify_attempt",
        ["started_at"],
        unique=False,
        postgresql_using="brin",
        postgresql_with={"autosummarize": True, "pages_per_range": 32},
    )

    op.create_table(
        "paynotify_audit",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), server_default="", nullable=False),
        sa.Column("facts", sa.Text(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "paynotify_dead_letter",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("notification_id", BigId, nullable=False),
        sa.Column("endpoint_id", BigId, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("last_status", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), server_default="", nullable=False),
        sa.Column("last_reply", sa.Text(), server_default="", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("first_failed_at", Moment(), nullable=True),
        sa.Column("last_failed_at", Moment(), nullable=True),
        sa.Column("died_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.Column("resolved_at", Moment(), nullable=True),
        sa.Column("resolved_by", sa.Text(), nullable=True),
        sa.Column("resolved_why", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "paynotify_dead_letter_notification",
        "paynotify_dead_letter",
        ["notification_id"],
        unique=False,
    )
    op.create_index(
        "paynotify_dead_letter_open",
        "paynotify_dead_letter",
        ["endpoint_id", "id"],
        unique=False,
        postgresql_where=sa.text("resolution IS NULL"),
        sqlite_where=sa.text("resolution IS NULL"),
    )

    op.create_table(
        "paynotify_delivery",
        sa.Column("id", BigId, autoincrement=False, nullable=False),
        sa.Column("lane_id", BigId, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default="5", nullable=False),
        sa.Column("due_at", Moment(), nullable=False),
        sa.Column("attempt_no", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claim_no", sa.Integer(), server_default="0", nullable=False),
        sa.Column("abandoned", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", Moment(), nullable=True),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        postgresql_with={
            "fillfactor": 70,
            "autovacuum_vacuum_scale_factor": 0.02,
            "autovacuum_vacuum_cost_delay": 0,
        },
    )
    op.create_index(
        "paynotify_delivery_ready",
        "paynotify_delivery",
        ["lane_id", "priority", "due_at"],
        unique=False,
        postgresql_where=sa.text("state = 'pending' AND abandoned < 2"),
        sqlite_where=sa.text("state = 'pending' AND abandoned < 2"),
    )
    op.create_index(
        "paynotify_delivery_sending",
        "paynotify_delivery",
        ["lane_id", "lease_until"],
        unique=False,
        postgresql_where=sa.text("state = 'sending'"),
        sqlite_where=sa.text("state = 'sending'"),
    )
    op.create_index(
        "paynotify_delivery_suspect",
        "paynotify_delivery",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("state = 'pending' AND abandoned >= 2"),
        sqlite_where=sa.text("state = 'pending' AND abandoned >= 2"),
    )
    op.create_index(
        "paynotify_delivery_waiting",
        "paynotify_delivery",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
        sqlite_where=sa.text("state = 'waiting'"),
    )

    op.create_table(
        "paynotify_endpoint",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("state_reason", sa.Text(), server_default="", nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("client_pem", sa.LargeBinary(), nullable=True),
        sa.Column("config_no", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("updated_at", Moment(), server_default=database_now(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_index("paynotify_endpoint_merchant", "paynotify_endpoint", ["merchant"], unique=False)

    op.create_table(
        "paynotify_inbox",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("merchant", sa.Text(), nullable=True),
        sa.Column("endpoint", sa.Text(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("event_key", sa.Text(), nullable=False),
        sa.Column("order_no", sa.Text(), nullable=True),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("headers", sa.Text(), nullable=True),
        sa.Column("notify_url", sa.Text(), nullable=True),
        sa.Column("deliver_at", Moment(), nullable=True),
        sa.Column("expires_at", Moment(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), server_default="5", nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("created_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("refused_because", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "paynotify_inbox_unread",
        "paynotify_inbox",
        ["id"],
        unique=False,
        postgresql_where=sa.text("refused_because IS NULL"),
        sqlite_where=sa.text("refused_because IS NULL"),
    )

    op.create_table(
        "paynotify_notification",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("endpoint_id", BigId, nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("event_key", sa.Text(), nullable=False),
        sa.Column("order_no", sa.Text(), nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("headers", sa.Text(), nullable=True),
        sa.Column("notify_url", sa.Text(), nullable=True),
        sa.Column("schedule", sa.Text(), nullable=True),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("created_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("deliver_at", Moment(), nullable=True),
        sa.Column("expires_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("endpoint_id", "event_key", name="paynotify_notification_event_key"),
    )
    op.create_index(
        "paynotify_notification_message", "paynotify_notification", ["message_id"], unique=False
    )
    op.create_index(
        "paynotify_notification_order",
        "paynotify_notification",
        ["order_no"],
        unique=False,
        postgresql_where=sa.text("order_no IS NOT NULL"),
        sqlite_where=sa.text("order_no IS NOT NULL"),
    )

    op.create_table(
        "paynotify_endpoint_secret",
        sa.Column("endpoint_id", BigId, nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("retires_at", Moment(), nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["paynotify_endpoint.id"],
        ),
        sa.PrimaryKeyConstraint("endpoint_id", "version"),
    )
    op.create_table(
        "paynotify_lane",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("endpoint_id", BigId, nullable=False),
        sa.Column("host", sa.Text(), server_default="", nullable=False),
        sa.Column("held", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("in_flight_cap", sa.Integer(), server_default="100", nullable=False),
        sa.Column("rate_per_s", sa.Float(), nullable=True),
        sa.Column("config_no", sa.Integer(), server_default="1", nullable=False),
        sa.Column("tokens", sa.Float(), server_default="1", nullable=False),
        sa.Column("tokens_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("slow", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("failures_in_row", sa.Integer(), server_default="0", nullable=False),
        sa.Column("window_ok", sa.Integer(), server_default="0", nullable=False),
        sa.Column("window_failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("window_at", Moment(), nullable=True),
        sa.Column("open_until", Moment(), nullable=True),
        sa.Column("opened_times", sa.Integer(), server_default="0", nullable=False),
        sa.Column("ramp", sa.Integer(), nullable=True),
        sa.Column("latency_ms", sa.Float(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["paynotify_endpoint.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("endpoint_id", "host", name="paynotify_lane_endpoint_host"),
    )


def downgrade() -> None:
    op.drop_table("paynotify_lane")
    op.drop_table("paynotify_endpoint_secret")

    op.drop_table("paynotify_notification")

    op.drop_table("paynotify_inbox")

    op.drop_table("paynotify_endpoint")

    op.drop_table("paynotify_delivery")

    op.drop_table("paynotify_dead_letter")
    op.drop_table("paynotify_audit")

    op.drop_table("paynotify_attempt")
