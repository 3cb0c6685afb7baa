"""Profiles: what each version of an endpoint was, when and with what each attempt was signed."""

import sqlalchemy as sa
from alembic import op

from worker.columns import BigId, Moment, database_now

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Constant defaults: neither database rewrites a row.
    for name in ("signed_at", "config_no"):
        kind = sa.BigInteger() if name == "signed_at" else sa.Integer()
        op.add_column(
            "paynotify_attempt", sa.Column(name, kind, server_default="0", nullable=False)
        )
    op.create_table(
        "paynotify_endpoint_version",
        sa.Column("endpoint_id", BigId, autoincrement=False, nullable=False),
        sa.Column("config_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("at", Moment(), server_default=database_now(), nullable=False),
        sa.ForeignKeyConstraint(["endpoint_id"], ["paynotify_endpoint.id"]),
        sa.PrimaryKeyConstraint("endpoint_id", "config_no"),
    )
    op.execute(
        "INSERT INTO paynotify_endpoint_version (endpoint_id, config_no, url, config) "
        "SELECT id, config_no, url, config FROM paynotify_endpoint"
    )


def downgrade() -> None:
    op.drop_table("paynotify_endpoint_version")
    op.drop_column("paynotify_attempt", "config_no")
    op.drop_column("paynotify_attempt", "signed_at")
