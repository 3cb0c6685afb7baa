"""Orders: what to ask the channels, what they said, cases."""

import sqlalchemy as sa
from alembic import op

from worker.columns import BigId, Moment, database_now

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "paynotify_check",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.Text(), server_default="order", nullable=False),
        sa.Column("subject_no", sa.Text(), nullable=False),
        sa.Column("order_no", sa.Text(), server_default="", nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("placed_at", Moment(), nullable=False),
        sa.Column("next_check_at", Moment(), nullable=False),
        sa.Column("checks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("unknowns", sa.Integer(), server_default="0", nullable=False),
        sa.Column("finished_at", Moment(), nullable=True),
        sa.Column("finished_because", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("kind", "subject_no", name="paynotify_check_subject"),
    )
    op.create_index(
        "paynotify_check_due",
        "paynotify_check",
        ["channel", "next_check_at", "id"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "paynotify_payment_order",
        sa.Column("order_no", sa.Text(), nullable=False),
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("channel_txn_no", sa.Text(), server_default="", nullable=False),
        sa.Column("paid_at", Moment(), nullable=True),
        sa.Column("refunded_minor", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("notify_url", sa.Text(), nullable=True),
        sa.Column("created_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("expires_at", Moment(), nullable=True),
        sa.Column("updated_at", Moment(), server_default=database_now(), nullable=False),
        sa.PrimaryKeyConstraint("order_no"),
    )
    unsettled = sa.text("state IN ('created', 'pending')")
    op.create_index(
        "paynotify_payment_order_unsettled",
        "paynotify_payment_order",
        ["order_no"],
        unique=False,
        postgresql_where=unsettled,
        sqlite_where=unsettled,
    )
    ended = sa.text("state IN ('paid', 'partial_refund', 'refunded')")
    op.create_index(
        "paynotify_payment_order_ended",
        "paynotify_payment_order",
        ["updated_at", "order_no"],
        unique=False,
        postgresql_where=ended,
        sqlite_where=ended,
    )
    op.create_table(
        "paynotify_recon_case",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), server_default="order", nullable=False),
        sa.Column("subject_no", sa.Text(), nullable=False),
        sa.Column("order_no", sa.Text(), server_default="", nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("merchant", sa.Text(), server_default="", nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("suggestion", sa.Text(), server_default="", nullable=False),
        sa.Column("facts", sa.Text(), server_default="{}", nullable=False),
        sa.Column("evidence_id", BigId, nullable=True),
        sa.Column("opened_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("seen_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("times_seen", sa.Integer(), server_default="1", nullable=False),
        sa.Column("resolved_at", Moment(), nullable=True),
        sa.Column("resolved_by", sa.Text(), nullable=True),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "paynotify_recon_case_open",
        "paynotify_recon_case",
        ["reason", "kind", "subject_no"],
        unique=True,
        postgresql_where=sa.text("resolved_at IS NULL"),
        sqlite_where=sa.text("resolved_at IS NULL"),
    )
    op.create_index(
        "paynotify_recon_case_subject", "paynotify_recon_case", ["subject_no"], unique=False
    )
    op.create_table(
        "paynotify_recon_evidence",
        sa.Column("id", BigId, sa.Identity(always=False), nullable=False),
        sa.Column("at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("kind", sa.Text(), server_default="order", nullable=False),
        sa.Column("subject_no", sa.Text(), nullable=False),
        sa.Column("order_no", sa.Text(), server_default="", nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), server_default="", nullable=False),
        sa.Column("ours", sa.Text(), server_default="{}", nullable=False),
        sa.Column("theirs", sa.Text(), server_default="{}", nullable=False),
        sa.Column("reply_sha256", sa.Text(), server_default="", nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("done", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "paynotify_recon_evidence_subject", "paynotify_recon_evidence", ["subject_no"], unique=False
    )
    op.create_table(
        "paynotify_refund",
        sa.Column("refund_no", sa.Text(), nullable=False),
        sa.Column("order_no", sa.Text(), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default="processing", nullable=False),
        sa.Column("created_at", Moment(), server_default=database_now(), nullable=False),
        sa.Column("updated_at", Moment(), server_default=database_now(), nullable=False),
        sa.PrimaryKeyConstraint("refund_no"),
    )
    op.create_index("paynotify_refund_order", "paynotify_refund", ["order_no"], unique=False)
    refund_open = sa.text("state IN ('created', 'processing', 'abnormal')")
    op.create_index(
        "paynotify_refund_open",
        "paynotify_refund",
        ["refund_no"],
        unique=False,
        postgresql_where=refund_open,
        sqlite_where=refund_open,
    )
    op.create_table(
        "paynotify_route",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("failures_in_row", sa.Integer(), server_default="0", nullable=False),
        sa.Column("open_until", Moment(), nullable=True),
        sa.Column("opened_times", sa.Integer(), server_default="0", nullable=False),
        sa.Column("busy_until", Moment(), nullable=True),
        sa.Column("updated_at", Moment(), server_default=database_now(), nullable=False),
        sa.PrimaryKeyConstraint("channel", "route"),
    )


def downgrade() -> None:
    op.drop_table("paynotify_route")
    op.drop_index("paynotify_refund_open", table_name="paynotify_refund")
    op.drop_index("paynotify_refund_order", table_name="paynotify_refund")
    op.drop_table("paynotify_refund")
    op.drop_index("paynotify_recon_evidence_subject", table_name="paynotify_recon_evidence")
    op.drop_table("paynotify_recon_evidence")
    op.drop_index(
        "paynotify_recon_case_open",
        table_name="paynotify_recon_case",
        postgresql_where=sa.text("resolved_at IS NULL"),
        sqlite_where=sa.text("resolved_at IS NULL"),
    )
    op.drop_index("paynotify_recon_case_subject", table_name="paynotify_recon_case")
    op.drop_table("paynotify_recon_case")
    op.drop_index("paynotify_payment_order_ended", table_name="paynotify_payment_order")
    op.drop_index("paynotify_payment_order_unsettled", table_name="paynotify_payment_order")
    op.drop_table("paynotify_payment_order")
    op.drop_index(
        "paynotify_check_due",
        table_name="paynotify_check",
        postgresql_where=sa.text("finished_at IS NULL"),
        sqlite_where=sa.text("finished_at IS NULL"),
    )
    op.drop_table("paynotify_check")
