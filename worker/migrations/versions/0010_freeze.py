"""Endpoints that are frozen while they fail, and the certificates they showed."""

import sqlalchemy as sa
from alembic import op

from worker.columns import BigId, moment, number, words

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_FROZEN = sa.text("unfrozen_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "paynotify_freeze",
        sa.Column("endpoint_id", BigId, primary_key=True, autoincrement=False),
        moment("frozen_at", nullable=False),
        words("why"),
        words("url_sha256"),
        words("certificate"),
        number("times", 1),
        number("trips"),
        moment("probe_at", nullable=False),
        number("claim_no"),
        moment("lease_until"),
        number("probes"),
        moment("probed_at"),
        words("code"),
        number("status"),
        words("person"),
        moment("unfrozen_at"),
        words("unfrozen_by"),
    )
    op.create_index(
        "paynotify_freeze_due",
        "paynotify_freeze",
        ["probe_at"],
        postgresql_where=_FROZEN,
        sqlite_where=_FROZEN,
    )
    op.create_table(
        "paynotify_certificate",
        sa.Column("endpoint_id", BigId, primary_key=True, autoincrement=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        moment("seen_at", nullable=False, default=True),
    )


def downgrade() -> None:
    op.drop_table("paynotify_certificate")
    op.drop_table("paynotify_freeze")
    # Frozen is no state the version before knows; paused holds its rows as well.
    op.execute("UPDATE paynotify_endpoint SET state = 'paused' WHERE state = 'frozen'")
